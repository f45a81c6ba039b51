"""What the node controllers' token may write, as the real API server decides it: the status of its own node's pods."""

import json
import time
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from e2e.pods import CONDITION, STATUS
from e2e.product import NAMESPACE, SERVICE_ACCOUNT

pytestmark = pytest.mark.lane

MERGE_PATCH = {"_content_type": "application/strategic-merge-patch+json"}


@pytest.fixture(scope="module")
def holder(cluster, product):
    """Return who has a token for the node of that name; "": bound to none."""
    product.cluster.kubectl("get", "validatingadmissionpolicybinding", "hotnic-node")

    def of(node: str, namespace: str = NAMESPACE) -> client.CoreV1Api:
        token = cluster.token(namespace, SERVICE_ACCOUNT, node)
        return client.CoreV1Api(config.new_client_from_config(str(cluster.kubeconfig_for_token(token))))

    return of


@pytest.fixture(scope="module")
def stranger(cluster, holder):
    """Another node's controller; there need be no such machine for it to have a token."""
    cluster.kubectl(
        "apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "else"}})
    )
    yield holder("else")
    cluster.kubectl("delete", "node", "else")


def patch(who: client.CoreV1Api, pod, body: Any) -> str:
    """Patch the pod's status; return why it was refused, "" where it was not."""
    try:
        who.patch_namespaced_pod_status(pod.name, pod.namespace.name, body, **MERGE_PATCH)
    except ApiException as refusal:
        return f"{refusal.status} {json.loads(refusal.body)['message']}"
    return ""


def patched_soon(who: client.CoreV1Api, pod) -> None:
    """Patch what may be patched, once the API server knows of a role that was just bound."""
    end = time.monotonic() + 30
    while (refusal := patch(who, pod, OURS)) and time.monotonic() < end:
        time.sleep(0.2)
    assert refusal == ""


def condition(kind: str, status: str = "True") -> dict[str, Any]:
    return {"status": {"conditions": [{"type": kind, "status": status, "reason": "Test"}]}}


def lasting(document: dict[str, Any]) -> dict[str, Any]:
    """Return the pod without what the kubelet may write meanwhile; `ours`: the conditions that came from here."""
    metadata, status = document["metadata"], document["status"]
    return {
        "metadata": {key: metadata[key] for key in metadata.keys() - {"managedFields", "resourceVersion"}},
        "spec": document["spec"],
        "status": {key: status.get(key) for key in ("phase", "podIP", "podIPs")},
        "ours": [one["type"] for one in status["conditions"] if one.get("reason") == "Test"],
    }


OURS = condition(CONDITION) | {"metadata": {"annotations": {STATUS: "[]"}}}
FOREIGN = {
    "a label": ({"metadata": {"labels": {"app": "mine"}}}, "metadata"),
    "a finalizer": ({"metadata": {"finalizers": ["hotnic.dev/stay"]}}, "metadata"),
    "an annotation": ({"metadata": {"annotations": {"k8s.v1.cni.cncf.io/networks": "blue"}}}, "annotations"),
    "an annotation's loss": ({"metadata": {"annotations": {"of": None}}}, "annotations"),
    "another condition": (condition("Ready", "False"), "conditions"),
    "a new condition": (condition("hotnic.dev/Other"), "conditions"),
    "the phase": ({"status": {"phase": "Succeeded"}}, "status"),
    "the address": ({"status": {"podIP": "10.9.9.9", "podIPs": [{"$patch": "replace"}, {"ip": "10.9.9.9"}]}}, "status"),
    "ours and a label": (OURS | {"metadata": {"annotations": {STATUS: "[]"}, "labels": {"app": "mine"}}}, "metadata"),
}  # fmt: skip

OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "0b1b0f2e-1111-4222-8333-444455556666"}
FOREIGN_IN_EVENTS: dict[str, dict[str, Any]] = {
    "another reporter": {"reportingComponent": "kubelet", "reportingInstance": "node"},
    "another node's reporter": {"reportingComponent": "hotnic", "reportingInstance": "else"},
    "a related object": {"related": {"kind": "Node", "name": "node"}},
    "a finalizer": {"metadata": {"generateName": "told-", "finalizers": ["hotnic.dev/stay"]}},
    "an owner": {"metadata": {"generateName": "told-", "ownerReferences": [OWNER]}},
}


def test_a_token_may_tell_of_its_own_nodes_pods_and_change_nothing_else(ns, node, holder, stranger):
    pod = ns.pod("a", annotations={"of": "somebody"})
    mine = holder(node.name)
    end = time.monotonic() + 30
    while not (refusal := patch(stranger, pod, OURS)) and time.monotonic() < end:
        time.sleep(0.2)  # the API server begins to apply a policy shortly after it was made
    assert "the pod is not on node else" in refusal
    assert "the token is not bound to a node" in patch(holder(""), pod, OURS)
    assert patch(mine, pod, OURS) == ""
    before = lasting(pod.get())
    assert before["metadata"]["annotations"] == {"of": "somebody", STATUS: "[]"}
    assert before["ours"] == [CONDITION]
    for what, (body, where) in FOREIGN.items():
        refusal = patch(mine, pod, body)
        assert refusal.startswith("403 "), what
        assert f"of a pod's {where} only" in refusal, what
    assert (
        patch(mine, pod, {"spec": {"activeDeadlineSeconds": 1}}) == ""
    )  # the subresource leaves the specification out
    assert lasting(pod.get()) == before


def test_an_event_says_truly_which_node_tells_it(ns, node, holder, stranger):
    pod = ns.pod("a")

    def tell(who: client.CoreV1Api, **changed: Any) -> int:
        involved = {"apiVersion": "v1", "kind": "Pod", "namespace": ns.name, "name": pod.name, "uid": pod.uid}
        body = {"metadata": {"generateName": "told-"}, "involvedObject": involved, "reason": "Told", "message": "so",
                "type": "Normal", "source": {"component": "hotnic", "host": node.name}, **changed}  # fmt: skip
        try:
            who.create_namespaced_event(ns.name, body)
        except ApiException as refusal:
            return int(refusal.status)
        return 201

    mine = holder(node.name)
    assert tell(mine) == 201
    assert tell(stranger) == tell(holder("")) == 403
    assert tell(mine, source={"component": "kubelet", "host": node.name}) == 403
    assert tell(mine, involvedObject={"kind": "Node", "name": node.name, "namespace": ns.name}) == 403
    assert tell(mine, reportingComponent="hotnic", reportingInstance=node.name) == 201
    for what, field in FOREIGN_IN_EVENTS.items():
        assert tell(mine, **field) == 403, what


def test_in_whatever_namespace_the_account_is_the_policy_is_for_it(ns, node, cluster, holder):
    account = {"kind": "ServiceAccount", "name": SERVICE_ACCOUNT, "namespace": ns.name}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "hotnic-node"}
    objects = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": SERVICE_ACCOUNT}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": SERVICE_ACCOUNT},
         "roleRef": role, "subjects": [account]},
    ]  # fmt: skip
    cluster.kubectl(
        "apply", "-n", ns.name, "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    )
    pod = ns.pod("a")
    moved = holder(node.name, ns.name)
    patched_soon(moved, pod)
    assert "of a pod's metadata only" in patch(moved, pod, FOREIGN["a label"][0])
    assert "the token is not bound to a node" in patch(holder("", ns.name), pod, OURS)
