import pytest

from controller import policy
from controller.policy import Policy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Policy()),
        ("# nothing but a comment", Policy()),
        ("namespaceIsolation: false", Policy()),
        ("namespaceIsolation: true", Policy(isolated=True)),
        ('namespaceIsolation: true\nglobalNamespaces: ""', Policy(isolated=True)),
        ("namespaceIsolation: true\nglobalNamespaces: a, b", Policy(isolated=True, global_namespaces=("a", "b"))),
        ("globalNamespaces: [a, b]", Policy(global_namespaces=("a", "b"))),
        ("globalNamespaces: []", Policy(global_namespaces=())),
    ],
)
def test_documents_that_are_policies(text, expected):
    assert policy.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{", "YAML"),
        ("[1]", "mapping"),
        ("namespaceisolation: true", "namespaceisolation"),
        ('namespaceIsolation: "yes"', "namespaceIsolation='yes'"),
        ("globalNamespaces: 7", "globalNamespaces=7"),
        ("globalNamespaces: [7]", "globalNamespaces"),
    ],
)
def test_what_is_no_policy_says_what_is_wrong(text, names):
    with pytest.raises(policy.PolicyError, match=names):
        policy.parse(text)


@pytest.mark.parametrize(
    ("isolated", "of_network", "allowed"),
    [(False, "other", True), (True, "mine", True), (True, "default", True), (True, "other", False)],
)
def test_isolation_leaves_the_own_and_the_global_namespaces(isolated, of_network, allowed):
    assert Policy(isolated=isolated).allows("mine", of_network) is allowed
