"""What the cluster role sends to the API server."""

import subprocess
import sys

import pytest

from controller import kubevirt
from controller.leader import Record
from controller.model import Event
from controller.reconcile import Conflict, Gone
from controller.relay import Denied
from tests.controller import http_server, machines
from tests.controller.test_kube import kube_of

LEASES = "/apis/coordination.k8s.io/v1/namespaces/sys/leases"


def lease(version="7", **spec):
    return {"metadata": {"name": "l", "resourceVersion": version}, "spec": spec}


def test_a_vm_is_patched_as_a_json_patch_on_the_vm_itself():
    requests = []

    def answer(request):
        requests.append((request.command, request.place, request.headers["Content-Type"], request.body))
        request.reply(200, machines.document(version=12))

    operations = [{"op": "test", "path": "/metadata/uid", "value": "uid-v"}]
    with http_server.serving(answer) as url:
        api = kubevirt.Machines(kube_of(url))
        assert api.patch_machine(machines.machine(), operations, 5.0).resource_version == "12"
        assert api.find_machine("ns", "v").name == "v"
    path = "/apis/kubevirt.io/v1/namespaces/ns/virtualmachines/v"
    assert requests[0] == ("PATCH", path, "application/json-patch+json", operations)
    assert requests[1][:2] == ("GET", path)


@pytest.mark.parametrize(
    ("status", "text", "raised"),
    [(404, "no", Gone), (409, "no", Conflict), (422, "admission webhook x denied the request: no", Denied)],
)
def test_refusals_are_told_apart(status, text, raised):
    with http_server.serving(lambda request: request.reply(status, {"message": text})) as url:
        api = kubevirt.Machines(kube_of(url))
        with pytest.raises(raised):
            api.patch_machine(machines.machine(), [], 5.0)
        if status == 404:
            assert api.find_machine("ns", "v") is None


def test_an_event_is_about_the_vm_or_its_instance(caplog):
    bodies = []

    def answer(request):
        bodies.append(request.body)
        request.reply(201 if len(bodies) < 3 else 404, request.body)

    with http_server.serving(answer) as url:
        api = kubevirt.Machines(kube_of(url))
        api.tell_of(machines.machine(name="a" * 253), Event("AddedInterface", "text", warning=False), 5.0)
        api.tell_of(machines.instance(), Event("Unsupported", "text", warning=True), 5.0)
        api.tell_of(machines.machine(), Event("AddedInterface", "text", warning=False), 5.0)  # is lost
    kinds = [(one["involvedObject"]["kind"], one["involvedObject"]["uid"], one["type"]) for one in bodies[:2]]
    assert kinds == [("VirtualMachine", "uid-" + "a" * 253, "Normal"), ("VirtualMachineInstance", "vmi-v", "Warning")]
    assert len(bodies[0]["metadata"]["name"]) <= 253
    assert "event not taken" in caplog.text


def test_a_lease_is_made_and_then_replaced_as_it_was_seen():
    requests, answers = [], iter([404, 201, 200, 409])

    def answer(request):
        requests.append((request.command, request.place, request.body))
        status = next(answers)
        request.reply(
            status, lease("8", **request.body["spec"]) if request.body and status < 400 else {"message": "no"}
        )

    with http_server.serving(answer) as url:
        store = kubevirt.Leases(kube_of(url), "sys", "l")
        assert store.read_lease() is None
        record = Record("me", 15, "2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:01.000000Z", 3)
        made = store.write_lease(record, 5.0)
        assert made == Record("me", 15, record.acquired, record.renewed, 3, "8")
        store.write_lease(made, 5.0)
        with pytest.raises(Conflict):
            store.write_lease(made, 5.0)
    assert [one[:2] for one in requests] == [
        ("GET", f"{LEASES}/l"), ("POST", LEASES), ("PUT", f"{LEASES}/l"), ("PUT", f"{LEASES}/l"),
    ]  # fmt: skip
    assert "resourceVersion" not in requests[1][2]["metadata"]
    assert requests[2][2]["metadata"] == {"name": "l", "resourceVersion": "8"}


def test_a_lease_that_nobody_holds_is_read():
    with http_server.serving(lambda request: request.reply(200, lease())) as url:
        assert kubevirt.Leases(kube_of(url), "sys", "l").read_lease() == Record(version="7")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--mac-range", "nonsense", "--lease-namespace", "x"], "nonsense"),
        (["--kubeconfig", "/nonexistent", "--lease-namespace", "x"], "/nonexistent"),
        ([], "not in a pod"),
    ],
)
def test_arguments_that_cannot_be_used_say_why(arguments, says, tmp_path):
    config = tmp_path / "config"
    config.write_text(
        "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],"
        " clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: u, user: {}}]}"
    )
    given = arguments if "--kubeconfig" in arguments else ["--kubeconfig", str(config), *arguments]
    done = subprocess.run(
        [sys.executable, "-m", "controller", "cluster", *given], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert says in done.stderr
