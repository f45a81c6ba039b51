"""What the relay's token may change of a VirtualMachine, as the real API server decides it."""

import itertools
import json
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from e2e.product import NAMESPACE
from e2e.relay import scene
from e2e.relay.scene import ACCOUNT, MANAGED, READY, Cast, Machine

pytestmark = pytest.mark.lane

REFUSED: dict[str, dict[str, Any]] = {
    "whether it runs": {"spec": {"runStrategy": "Always"}},
    "its disks": {
        "spec": {"template": {"spec": {"volumes": [{"name": "x", "hostDisk": {"path": "/", "type": "Disk"}}]}}}
    },
    "where it runs": {"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "n"}}}}},
    "its devices": {"spec": {"template": {"spec": {"domain": {"devices": {"rng": {}}}}}}},
    "its processors": {"spec": {"template": {"spec": {"domain": {"cpu": {"cores": 64}}}}}},
    "its loss of a field": {"spec": {"runStrategy": None}},
    "its pods' labels": {"spec": {"template": {"metadata": {"labels": {"app": "mine"}}}}},
    "a label": {"metadata": {"labels": {"app": "mine"}}},
    "a finalizer": {"metadata": {"finalizers": ["hotnic.dev/stay"]}},
    "the user's wish": {"metadata": {"annotations": {"k8s.v1.cni.cncf.io/networks": "red"}}},
    "another's annotation": {"metadata": {"annotations": {"of": None}}},
}

OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "0b1b0f2e-1111-4222-8333-444455556666"}
FOREIGN_IN_EVENTS: dict[str, dict[str, Any]] = {
    "a node's source": {"source": {"component": "hotnic", "host": "node-1"}},
    "another reporter": {"reportingComponent": "virt-controller"},
    "a reporter's instance": {"reportingInstance": "node-1"},
    "a related object": {"related": {"kind": "Node", "name": "node-1"}},
    "a finalizer": {"metadata": {"generateName": "told-", "finalizers": ["hotnic.dev/stay"]}},
    "an owner": {"metadata": {"generateName": "told-", "ownerReferences": [OWNER]}},
}


def test_the_relay_may_change_interfaces_and_its_own_annotations_and_nothing_else(cast: Cast) -> None:
    cluster = cast.cluster
    token = cluster.token(NAMESPACE, ACCOUNT)
    relay = client.CustomObjectsApi(config.new_client_from_config(str(cluster.kubeconfig_for_token(token))))
    vm = cast.machine("v")
    vm.merge({"metadata": {"annotations": {"of": "somebody"}}})

    def merge(body: dict[str, Any]) -> str:
        """Return why it was refused, "" where it was not."""
        kind = {"_content_type": "application/merge-patch+json"}
        try:
            relay.patch_namespaced_custom_object(
                "kubevirt.io", "v1", cast.namespace, "virtualmachines", vm.name, body, **kind
            )
        except ApiException as refusal:
            return f"{refusal.status} {json.loads(refusal.body)['message']}"
        return ""

    spec = scene.template()
    spec["domain"]["devices"]["interfaces"].append({"name": "x", "bridge": {}})
    spec["networks"].append({"name": "x", "multus": {"networkName": "blue"}})
    own = {"metadata": {"annotations": {MANAGED: "other", READY: "False"}}, "spec": {"template": {"spec": spec}}}
    assert merge(own) == ""
    tries = itertools.count()
    scene.wait(
        "the policy is in force", lambda: merge({"metadata": {"labels": {"try": str(next(tries))}}}), vm.describe
    )
    before = _lasting(vm)
    for what, body in {**REFUSED, "ours and a label": own | {"metadata": {"labels": {"app": "mine"}}}}.items():
        refusal = merge(body)
        assert refusal.startswith("403 "), what
        assert "only its networks, its interfaces and hotnic's annotations" in refusal, what
    assert _lasting(vm) == before


def test_the_relays_events_are_about_machines_and_by_hotnic(cast: Cast) -> None:
    cluster = cast.cluster
    token = cluster.token(NAMESPACE, ACCOUNT)
    relay = client.CoreV1Api(config.new_client_from_config(str(cluster.kubeconfig_for_token(token))))
    vm = cast.machine("v")

    def tell(**changed: Any) -> int:
        about = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "namespace": cast.namespace, "name": vm.name}
        body = {"metadata": {"generateName": "told-"}, "involvedObject": about, "reason": "Told", "message": "so",
                "type": "Normal", "source": {"component": "hotnic"}, **changed}  # fmt: skip
        try:
            relay.create_namespaced_event(cast.namespace, body)
        except ApiException as refusal:
            return int(refusal.status)
        return 201

    assert tell() == 201
    scene.wait("the policy is in force", lambda: tell(source={"component": "kubelet"}) == 403, vm.describe)
    instance = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "namespace": cast.namespace,
        "name": "v",
    }
    assert tell(involvedObject=instance, reportingComponent="hotnic") == 201
    for what, field in FOREIGN_IN_EVENTS.items():
        assert tell(**field) == 403, what


def _lasting(vm: Machine) -> dict[str, Any]:
    """Return the VM without what its controllers write meanwhile."""
    found = vm.get()
    metadata = found["metadata"]
    others = {key: text for key, text in metadata["annotations"].items() if key in {"of", scene.NETWORKS}}
    return {"labels": metadata.get("labels"), "finalizers": metadata.get("finalizers"), "annotations": others,
            "spec": found["spec"]}  # fmt: skip
