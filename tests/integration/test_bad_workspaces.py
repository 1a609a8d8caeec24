"""What the CRD lets through and cannot work: a condition with the sentence, nothing made, nobody else delayed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from demo.cluster import Kubectl, rights
from demo.processes import DemoError
from tests.support.airflow_run import SECRET, wait
from tests.support.reconciled import ReconciledStack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SLOW = "Standard_NC12s_v3"


def says(stack: ReconciledStack, name: str, words: str, seconds: float = 60) -> None:
    def look() -> bool | None:
        conditions = ((stack.get("workspace", name) or {}).get("status") or {}).get("conditions") or []
        return any(words in c["message"] for c in conditions) or None

    wait(look, seconds, f"{words!r} in a condition of {name}")


def removed(stack: ReconciledStack, name: str) -> None:
    stack.kubectl("delete", "workspace", name, "--ignore-not-found", "--timeout=90s")


@pytest.mark.parametrize("kind", ["missing", "of another type"])
def test_a_push_secret_that_cannot_be_used_is_named_until_it_can(
    reconciled_stack: ReconciledStack, kind: str
) -> None:
    stack, name = reconciled_stack, f"bad-secret-{kind.split()[0]}"
    secret = f"{name}-push"
    if kind != "missing":
        stack.kubectl("create", "secret", "generic", secret, "--from-literal=a=b")
    document = stack.tuning(name, machine=SLOW)
    document["tuning"]["output"]["imagePushSecret"] = secret
    try:
        stack.kubectl.apply(document)
        says(stack, name, secret)
        assert stack.condition(name, "WorkspaceSucceeded")["reason"] == "workspaceFailed"
        assert stack.claims_of(name) == stack.pods_of(name) == []
        good = stack.get("secret", SECRET)
        good["metadata"] = {"name": secret}
        stack.kubectl("delete", "secret", secret, "--ignore-not-found")
        stack.kubectl.apply(good)
        wait(
            lambda: stack.claims_of(name) or stack.pods_of(name) or None,
            90,
            "its run, once the Secret is good",
        )
    finally:
        removed(stack, name)
        stack.kubectl("delete", "secret", secret, "--ignore-not-found")


def test_what_belongs_to_somebody_else_is_named_and_never_touched(reconciled_stack: ReconciledStack) -> None:
    stack, name = reconciled_stack, "bad-neighbour"
    theirs: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {"team": "another"}},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]},
    }
    stack.kubectl.apply(theirs)
    before = stack.get("service", name)
    try:
        stack.kubectl.apply(stack.service(name, machine=SLOW))
        says(stack, name, f"Service {name}")
        assert stack.claims_of(name) == stack.pods_of(name) == []
        removed(stack, name)
        assert stack.get("service", name) == before
    finally:
        removed(stack, name)
        stack.kubectl("delete", "service", name, "--ignore-not-found")


def test_a_namespace_that_goes_takes_its_workspace_and_the_machines(
    reconciled_stack: ReconciledStack,
) -> None:
    stack, name = reconciled_stack, "bad-place"
    kubectl: Kubectl = stack.kubectl
    kubectl("create", "namespace", name)
    kubectl.apply(rights(name)[-1])  # it goes with the namespace, before the Workspace does
    document = stack.service(name, machine=SLOW)
    document["metadata"]["namespace"] = name
    stack.fault("slow-boot", target=SLOW, value=600)
    try:
        kubectl.apply(document)
        wait(lambda: stack.claims_of(name) or None, 90, "its machine")
        kubectl("delete", "namespace", name, "--wait=false")
        wait(lambda: stack.get("namespace", name) is None or None, 120, "the end of the namespace")
        assert stack.claims_of(name) == []
    finally:
        stack.heal("slow-boot")


def test_annotations_by_the_hundred_thousand_delay_nobody(reconciled_stack: ReconciledStack) -> None:
    stack = reconciled_stack
    document = stack.quick_start("bad-luggage")
    document["tuning"]["preset"]["name"] = "no-such-model"
    document["metadata"]["annotations"] = {"example.com/luggage": "x" * (1 << 20)}
    with pytest.raises(DemoError, match=r"(?i)too long|at most 262144"):
        stack.kubectl("create", "-f", "-", stdin=json.dumps(document))
    document["metadata"]["annotations"] = {"example.com/luggage": "x" * 250_000}
    other = {**stack.quick_start("bad-beside"), "tuning": document["tuning"]}
    try:
        stack.kubectl("create", "-f", "-", stdin=json.dumps(document))
        stack.kubectl.apply(other)
        for name in ("bad-luggage", "bad-beside"):
            says(stack, name, "no-such-model")
        kept = stack.get("workspace", "bad-luggage")["metadata"]["annotations"]["example.com/luggage"]
        assert len(kept) == 250_000
    finally:
        removed(stack, "bad-luggage")
        removed(stack, "bad-beside")
