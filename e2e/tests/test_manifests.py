"""The manifests, as the real API server sees them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.product import NAMESPACE, REPOSITORY, SERVICE_ACCOUNT

pytestmark = pytest.mark.lane

MANIFESTS = REPOSITORY / "manifests"
OVERLAYS = sorted(path.parent.name for path in MANIFESTS.glob("overlays/*/kustomization.yaml"))
NETWORKS = "network-attachment-definitions.k8s.cni.cncf.io"
ALLOWED = [("get", "pods"), ("list", "pods"), ("watch", "pods"), ("patch", "pods/status"), ("create", "events"),
           ("list", NETWORKS), ("watch", NETWORKS), ("list", "nodes"), ("watch", "nodes")]  # fmt: skip
DENIED = [("patch", "pods"), ("update", "pods"), ("delete", "pods"), ("create", "pods"), ("create", "pods/exec"),
          ("update", "pods/status"), ("list", "secrets"), ("list", "configmaps"), ("patch", "nodes"),
          ("patch", "nodes/status"), ("create", NETWORKS), ("delete", NETWORKS),
          ("create", "serviceaccounts/token")]  # fmt: skip
# a value that stands nowhere else, and where it is seen in what comes out
SETTINGS = {
    "image": ("registry.example/mine:7", "image: registry.example/mine:7", 4),
    "runtimeSocket": ("/run/mine/runtime.sock", "value: /run/mine/runtime.sock", 1),
    "cniBinDir": ("/mine/bin", ": /mine/bin", 2),
    "cniConfDir": ("/mine/net.d", "value: /mine/net.d", 1),
    "kubeletDir": ("/mine/kubelet", "Path: /host/mine/kubelet\n|path: /mine/kubelet/seccomp\n", 2),
    "delegateTimeout": ("47", 'value: "47"', 1),
    "logLevel": ("warning", "value: warning", 3),
    "agentMemory": ("71Mi", "memory: 71Mi", 1),
    "agentCPU": ("71m", "cpu: 71m", 1),
    "controllerMemory": ("73Mi", "memory: 73Mi", 2),
    "controllerCPU": ("73m", "cpu: 73m", 2),
    "macRange": ("02:68:6f:00:00:00/24", "value: 02:68:6f:00:00:00/24", 1),
}


def rendered(cluster, folder: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(cluster.kubectl("kustomize", str(folder))) if one]


def template(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in objects if one["kind"] == kind)["spec"]["template"]["spec"]
    return found


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_accepted_the_daemonset_too(cluster, overlay):
    objects = rendered(cluster, MANIFESTS / "overlays" / overlay)
    assert {"DaemonSet", "ClusterRole", "ConfigMap", "NetworkPolicy", "ValidatingAdmissionPolicy"} <= {
        one["kind"] for one in objects
    }
    text = yaml.safe_dump_all(objects)
    answer = cluster.kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", input=text)
    assert len(answer.splitlines()) == len(objects)
    mine = [one for one in objects if one["kind"] != "CustomResourceDefinition"]  # what uninstall.sh looks for
    assert all(one["metadata"]["labels"]["app.kubernetes.io/part-of"] == "hotnic" for one in mine)


def test_every_setting_gets_where_it_belongs(cluster):
    """As a user writes it: an overlay of one's own, with a component that patches the settings."""
    base = yaml.safe_load((MANIFESTS / "base/settings.yaml").read_text())["data"]
    assert base.keys() == SETTINGS.keys()
    mine, patch = cluster.state / "mine", cluster.state / "mine/settings"
    patch.mkdir(parents=True)
    patch.joinpath("kustomization.yaml").write_text(yaml.safe_dump({
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "patches": [{
            "target": {"kind": "ConfigMap", "name": "hotnic-settings"},
            "patch": json.dumps([{"op": "replace", "path": f"/data/{key}", "value": value}
                                 for key, (value, _, _) in SETTINGS.items()]),
        }],
    }))  # fmt: skip
    shipped = Path(*[".."] * (len(mine.parts) - 1), *MANIFESTS.parts[1:])
    mine.joinpath("kustomization.yaml").write_text(yaml.safe_dump({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [str(shipped / "overlays/kubevirt")],
        "components": ["settings", str(shipped / "components/settings")],
    }))  # fmt: skip
    text = cluster.kubectl("kustomize", str(mine))
    seen = {key: len(re.findall(pattern, text)) for key, (_, pattern, _) in SETTINGS.items()}
    assert seen == {key: count for key, (_, _, count) in SETTINGS.items()}
    assert "hotnic-settings" not in text


@pytest.fixture(scope="module")
def levels(cluster) -> Iterator[dict[str, str]]:
    """Namespaces that enforce the levels of Pod Security, with the accounts that the pods name."""
    names = {level: f"level-{level}" for level in ("privileged", "baseline", "restricted")}
    objects: list[dict[str, Any]] = []
    for level, name in names.items():
        labels = {"pod-security.kubernetes.io/enforce": level}
        objects.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        objects += [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": name}}
            for account in ("hotnic", "hotnic-cluster")
        ]
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))
    yield names
    cluster.kubectl("delete", "namespace", *names.values(), "--wait=false")


@pytest.mark.usefixtures("product")
def test_each_pods_level_of_pod_security_is_the_one_that_it_needs(cluster, levels):
    objects = rendered(cluster, MANIFESTS / "overlays/kubevirt")
    namespace = next(one for one in objects if one["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"

    def refusal(spec: dict[str, Any], level: str) -> str:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": levels[level]}, "spec": spec}
        try:
            cluster.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(pod))
        except RuntimeError as problem:
            return str(problem)
        return ""

    node, relay = template(objects, "DaemonSet"), template(objects, "Deployment")
    assert refusal(node, "privileged") == ""
    violated = refusal(node, "baseline")
    assert 'violates PodSecurity "baseline' in violated
    assert all(word in violated for word in ("hostPath", "hostNetwork", "hostPID", "capabilities"))
    assert refusal(relay, "restricted") == ""
    relay["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    assert 'violates PodSecurity "restricted' in refusal(relay, "restricted")


def test_nothing_but_metrics_gets_into_a_pod_that_has_a_network_of_its_own(cluster):
    """What is asked for; the lane has nobody who enforces it."""
    objects = rendered(cluster, MANIFESTS / "overlays/kubevirt")
    policies = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "NetworkPolicy"}
    assert policies["hotnic"] == {"podSelector": {}, "policyTypes": ["Ingress"]}  # selects all, lets nothing in
    only = policies.pop("hotnic-cluster")
    assert only["ingress"] == [{"ports": [{"port": "metrics", "protocol": "TCP"}]}]
    deployment = next(one for one in objects if one["kind"] == "Deployment")["spec"]
    budget = next(one for one in objects if one["kind"] == "PodDisruptionBudget")["spec"]
    assert only["podSelector"] == budget["selector"] == deployment["selector"]
    assert set(policies) == {"hotnic"}
    assert deployment["replicas"] > budget["maxUnavailable"] > 0
    listening = template(objects, "DaemonSet")["containers"]
    addresses = [arg for one in listening for arg in one["args"] if arg.startswith("--metrics-address=")]
    assert len(addresses) == 2
    assert all(arg.startswith("--metrics-address=127.0.0.1:") for arg in addresses)


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
    pod = template(product.manifests(), "DaemonSet")
    containers = {one["name"]: one for one in (*pod["initContainers"], *pod["containers"])}
    sources = {one["name"]: one.get("projected", {}).get("sources", []) for one in pod["volumes"]}
    tokens = {name for name, parts in sources.items() if any("serviceAccountToken" in part for part in parts)}
    mounts = {name: {mount["name"] for mount in one["volumeMounts"]} for name, one in containers.items()}
    assert pod["automountServiceAccountToken"] is False
    assert {name: bool(mounts[name] & tokens) for name in mounts} == {
        "seccomp-profile": False, "agent": False, "controller": True,
    }  # fmt: skip
    assert not any(one["securityContext"]["privileged"] for one in containers.values())
    assert all(one["securityContext"]["capabilities"]["drop"] == ["ALL"] for one in containers.values())
    added = {name for name, one in containers.items() if one["securityContext"]["capabilities"].get("add")}
    assert added == {"agent"}
