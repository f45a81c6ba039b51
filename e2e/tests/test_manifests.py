"""The manifests, as the real API server sees them."""

import pytest
import yaml

from e2e.product import NAMESPACE, SERVICE_ACCOUNT

pytestmark = pytest.mark.lane

NETWORKS = "network-attachment-definitions.k8s.cni.cncf.io"
ALLOWED = [("get", "pods"), ("list", "pods"), ("watch", "pods"), ("patch", "pods/status"), ("create", "events"),
           ("list", NETWORKS), ("watch", NETWORKS), ("list", "nodes"), ("watch", "nodes")]  # fmt: skip
DENIED = [("patch", "pods"), ("update", "pods"), ("delete", "pods"), ("create", "pods"), ("create", "pods/exec"),
          ("update", "pods/status"), ("list", "secrets"), ("list", "configmaps"), ("patch", "nodes"),
          ("patch", "nodes/status"), ("create", NETWORKS), ("delete", NETWORKS),
          ("create", "serviceaccounts/token")]  # fmt: skip


def test_everything_is_accepted_the_daemonset_too(product, cluster):
    objects = product.manifests()
    assert {"DaemonSet", "ClusterRole", "ConfigMap", "CustomResourceDefinition", "ValidatingAdmissionPolicy"} <= {
        one["kind"] for one in objects
    }
    text = yaml.safe_dump_all(objects)
    answer = cluster.kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", input=text)
    assert len(answer.splitlines()) == len(objects)


def test_the_service_account_may_do_what_it_needs_and_nothing_else(product, cluster):
    assert product.cluster is cluster
    who = f"--as=system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"

    def ask(verb: str, what: str) -> str:
        resource, _, part = what.partition("/")
        parts = [f"--subresource={part}"] if part else []
        return cluster.kubectl("auth", "can-i", verb, resource, *parts, who, "-n", "default", check=False).strip()

    said = {(verb, what): ask(verb, what) for verb, what in (*ALLOWED, *DENIED)}
    assert {question: answer == "yes" for question, answer in said.items()} == {
        **dict.fromkeys(ALLOWED, True),
        **dict.fromkeys(DENIED, False),
    }


def test_only_the_controller_gets_a_token_and_only_the_agent_gets_rights(product):
    pod = next(one for one in product.manifests() if one["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    containers = {one["name"]: one for one in pod["containers"]}
    sources = {one["name"]: one.get("projected", {}).get("sources", []) for one in pod["volumes"]}
    tokens = {name for name, parts in sources.items() if any("serviceAccountToken" in part for part in parts)}
    mounts = {name: {mount["name"] for mount in one["volumeMounts"]} for name, one in containers.items()}
    assert pod["automountServiceAccountToken"] is False
    assert (bool(mounts["controller"] & tokens), bool(mounts["agent"] & tokens)) == (True, False)
    assert not any(one["securityContext"]["privileged"] for one in containers.values())
    added = {name for name, one in containers.items() if one["securityContext"]["capabilities"].get("add")}
    assert added == {"agent"}
