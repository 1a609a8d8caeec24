"""Where Workspaces may run: a reserved namespace is opened by its own name only."""

from __future__ import annotations

import pytest

from include.workspace.validation.identity import namespace_allowed, namespace_faults


@pytest.mark.parametrize(
    ("namespace", "allowed", "may"),
    [
        ("default", ["*"], True),
        ("team-a", ["team-*", "ml"], True),
        ("ml", ["team-*", "ml"], True),
        ("other", ["team-*", "ml"], False),
        ("kube-system", ["*"], False),
        ("kube-anything", ["kube-*"], False),
        ("kaito-system", ["*"], False),
        ("kaito-system", ["kaito-system"], True),
        ("kube-public", ["*", "kube-public"], True),
        ("default", [], False),
    ],
)
def test_where_workspaces_may_run(namespace: str, allowed: list[str], may: bool) -> None:
    assert namespace_allowed(namespace, allowed) is may
    assert [fault.rule for fault in namespace_faults(namespace, allowed)] == ([] if may else ["F31"])


@pytest.mark.parametrize("namespace", ["", "..", "a/b", "A", "a.b", None, ["a"]])
def test_what_cannot_be_a_namespace_is_told_as_such(namespace: object) -> None:
    assert [fault.rule for fault in namespace_faults(namespace, ["*"])] == ["G2"]
