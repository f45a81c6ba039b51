"""What the documents and the manifests say of rights agrees with one another and with the tests that they name."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from agent import metrics as agent_metrics
from controller import metrics as controller_metrics
from e2e import rights

ROOT = Path(__file__).parent.parent
THREATS = (ROOT / "docs/threat-model.md").read_text()
RIGHTS = (ROOT / "docs/rights.md").read_text()
POLICIES = {"base": ("hotnic", "rbac.yaml"), "components/kubevirt": ("hotnic-cluster", "rbac.yaml")}


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables' rows, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if not line.startswith(("| ---", "| threat", "| overlay |", "| name |"))
    ]


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_threat_names_what_stops_it_and_a_test_that_there_is():
    threats = rows(THREATS)
    assert len(threats) > 20
    for threat, stop, shown in threats:
        named = re.findall(r"`([^`]+\.py)::(\w+)`", shown)
        assert threat, stop
        assert named, f"no test: {threat}"
        for path, name in named:
            assert name in functions(ROOT / path), f"{path}::{name}"


def test_the_capabilities_of_the_document_are_the_manifests():
    table = {cells[0].strip("`") for cells in rows(RIGHTS) if cells[0].strip("`").isupper()}
    assert table == rights.of("agent").capabilities


@pytest.mark.parametrize("folder", POLICIES)
def test_a_policy_is_for_the_service_account_that_its_role_is_for(folder):
    name, roles = POLICIES[folder]
    documents = [one for file in (roles, "admission.yaml")
                 for one in yaml.safe_load_all((ROOT / "manifests" / folder / file).read_text())]  # fmt: skip
    subjects = {(one["namespace"], one["name"]) for document in documents for one in document.get("subjects", ())}
    assert {name for _, name in subjects} == {name}
    policies = [one for one in documents if one["kind"] == "ValidatingAdmissionPolicy"]
    bound = [one for one in documents if one["kind"] == "ValidatingAdmissionPolicyBinding"]
    assert [(one["spec"]["policyName"], one["spec"]["validationActions"]) for one in bound] == [
        (one["metadata"]["name"], ["Deny"]) for one in policies
    ]
    expected = f'request.userInfo.username.matches("^system:serviceaccount:[^:]+:{name}$")'
    assert [[one["expression"] for one in policy["spec"]["matchConditions"]] for policy in policies] == [
        [expected] for _ in policies
    ]
    assert policies


def test_the_controllers_group_is_one_number():
    pod = rights.read(rights.NODE)["spec"]["template"]["spec"]
    agent, controller = pod["containers"]
    group = pod["securityContext"]["fsGroup"]
    assert f"--controller-group={group}" in agent["args"]
    assert {controller["securityContext"][key] for key in ("runAsUser", "runAsGroup")} == {group}


def test_every_overlay_is_in_the_document_on_installing():
    text = (ROOT / "docs/install.md").read_text()
    assert set(re.findall(r"\| `manifests/overlays/([a-z0-9-]+)` \|", text)) == {
        path.name for path in (ROOT / "manifests/overlays").iterdir()
    }


def settings_of(overlay: Path) -> dict[str, str]:
    """Return the settings that an overlay's components set, each with its component."""
    found = {}
    for name in yaml.safe_load((overlay / "kustomization.yaml").read_text()).get("components", ()):
        component = yaml.safe_load((overlay / name / "kustomization.yaml").read_text())
        patches = [one for one in component.get("patches", ()) if one["target"]["name"] == "hotnic-settings"]
        operations = [one for patch in patches for one in yaml.safe_load(patch["patch"])]
        found |= {one["path"].removeprefix("/data/"): f"components/{Path(name).name}" for one in operations}
    return found


def test_which_overlay_sets_which_setting_and_brings_the_definition_is_said_where_people_edit():
    overlays = sorted((ROOT / "manifests/overlays").iterdir())
    table = {cells[0].strip("`"): cells[1:] for cells in rows((ROOT / "manifests/README.md").read_text())}
    about = (ROOT / "manifests/base/settings.yaml").read_text().partition("\napiVersion")[0]
    for overlay in overlays:
        keys, where, definition = table[overlay.name]
        settings = settings_of(overlay)
        assert set(re.findall(r"`(\w+)`", keys)) == settings.keys(), overlay
        assert set(re.findall(r"`([\w/]+)`", where)) == set(settings.values()), overlay
        has_crd = "components/crd" in (overlay / "kustomization.yaml").read_text().partition("\ncomponents:")[2]
        assert definition.startswith("in it") is has_crd, overlay
        assert all(key in about and overlay.name in about for key in settings), overlay


def counted(module: object) -> dict[str, tuple[str, str]]:
    """Return the metrics that a module makes: kind and labels by the name that is scraped."""
    ours = [one for one in vars(module).values() if isinstance(one, MetricWrapperBase)]
    return {
        f"{one._name}_total" if one._type == "counter" else one._name: (one._type, ", ".join(one._labelnames))
        for one in ours
    }


def test_every_metric_is_in_the_document_and_nothing_else():
    listed = [cells for cells in rows((ROOT / "docs/metrics.md").read_text()) if all(cells)]
    document = {name.strip("`"): (kind, labels.replace("`", "").strip("–")) for name, kind, labels, _ in listed}
    assert document == counted(agent_metrics) | counted(controller_metrics)
    assert len(listed) == len(document) > 10


def test_a_container_whose_rights_are_open_is_an_error(monkeypatch):
    document = rights.read(rights.NODE)
    del document["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"]["drop"]
    monkeypatch.setattr(rights, "read", lambda _: document)
    with pytest.raises(ValueError, match="agent: its rights are not bounded"):
        rights.of("agent")


def test_no_call_of_the_seccomp_profile_is_both_allowed_and_refused_without_a_condition():
    rules = json.loads((rights.BASE / "seccomp/hotnic-agent.json").read_text())["syscalls"]
    named = {"SCMP_ACT_ALLOW": [], "SCMP_ACT_ERRNO": []}
    for rule in rules:
        named[rule["action"]] += rule["names"] if "args" not in rule else []
    allowed, refused = named["SCMP_ACT_ALLOW"], named["SCMP_ACT_ERRNO"]
    assert len({*allowed, *refused}) == len(allowed) + len(refused)
    assert {"mount", "bpf", "ptrace", "init_module", "process_vm_writev"} <= {*refused}
    assert not {"setns", "unshare", "clone", "clone3", "socket"} & {*allowed}
