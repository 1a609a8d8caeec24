"""kubectl is the UI of cluster people: what the real one shows of a Workspace from its first second to its last."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.airflow_run import wait
from tests.support.reconciled import ReconciledStack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NAME = "seen-by-kubectl"
WAIT = 240


@dataclass
class Life:
    """A tuning from `kubectl apply` to success, as it was printed meanwhile."""

    watched: str
    waited: str


@pytest.fixture(scope="module")
def life(reconciled_stack: ReconciledStack) -> Iterator[Life]:
    """Apply, watch with `get -w`, wait with `kubectl wait`."""
    stack = reconciled_stack
    document = stack.tuning(NAME)
    watch = stack.kubectl_in_background("get", "workspaces", "-w")
    try:
        stack.kubectl.apply(document)
        waited = stack.kubectl(
            "wait", "--for=condition=WorkspaceSucceeded", f"workspace/{NAME}", f"--timeout={WAIT}s"
        )
        wait(
            lambda: stack.get("workspace", NAME)["status"].get("state") == "Succeeded" or None,
            30,
            "the state",
        )
    finally:
        watch.terminate()
        watched = watch.communicate(timeout=60)[0]
    yield Life(watched, waited)
    stack.kubectl("delete", "workspace", NAME, "--ignore-not-found", "--wait=false")


def test_wait_returns_when_it_succeeded(life: Life) -> None:
    assert life.waited == f"workspace.kaito.sh/{NAME} condition met"


def columns(stack: ReconciledStack, resource: str, *options: str) -> dict[str, str]:
    header, row = stack.kubectl("get", resource, NAME, *options).splitlines()
    starts = [found.start() for found in re.finditer(r"\S+(?: \S+)*", header)]
    ends = [*starts[1:], None]
    return {header[a:b].strip(): row[a:b].strip() for a, b in zip(starts, ends, strict=True)}


@pytest.mark.parametrize("version", ["v1alpha1", "v1beta1"])
def test_get_shows_its_columns_and_wide_shows_more(
    reconciled_stack: ReconciledStack, life: Life, version: str
) -> None:
    resource = f"workspaces.{version}.kaito.sh"
    usual = columns(reconciled_stack, resource)
    assert list(usual) == ["NAME", "INSTANCE", "RESOURCEREADY", "INFERENCEREADY", "WORKSPACEREADY", "AGE"]
    assert (usual["INSTANCE"], usual["WORKSPACEREADY"]) == ("Standard_NC6s_v3", "True")
    assert usual["RESOURCEREADY"] == "False", "its machines were released"
    wide = columns(reconciled_stack, resource, "-o", "wide")
    assert (wide["JOBSTARTED"], wide["WORKSPACESUCCEEDED"], wide["STATE"]) == ("True", "True", "Succeeded")


def test_watching_shows_each_step(life: Life) -> None:
    rows = [line for line in life.watched.splitlines() if line.startswith(NAME)]
    assert len(rows) >= 4, life.watched
    assert "True" not in rows[0], "it begins with nothing reached"
    assert "True" in rows[-1]


def test_describe_tells_the_story_in_order(reconciled_stack: ReconciledStack, life: Life) -> None:
    text = reconciled_stack.kubectl("describe", "workspace", NAME)
    told = [line for line in text.partition("Events:")[2].splitlines()[3:] if line.strip()]
    story = [
        "DatasetChecked",
        "NodesReady",
        "WorkspaceTuningJobStatusStarted",
        "AdapterPushed",
        " Succeeded ",
    ]
    order = [next((i for i, line in enumerate(told) if word in line), None) for word in story]
    assert None not in order, text
    # The push and the success may fall into one second, Kubernetes' resolution: then kubectl shows either first.
    last = sorted(order[3:])
    assert [*order[:3], *last] == sorted(order), text
    assert "Warning" not in "".join(told), text
    status = text.partition("Status:")[2].partition("Events:")[0]
    for word in ("Adapter:", "Digest:", "sha256:", "Run:", "WorkspaceSucceeded", "Tuned in 6 steps"):
        assert word in status, text


def test_a_bad_workspace_says_everything_that_is_wrong(reconciled_stack: ReconciledStack) -> None:
    """The CRD lets it through, the contract does not: the condition has every fault, and nothing is made."""
    stack, name = reconciled_stack, "seen-to-be-bad"
    document = stack.quick_start(name)
    document["tuning"]["preset"]["name"] = "phi-3-mini-128k-instrukt"
    document["tuning"]["output"]["imagePushSecret"] = "absent"
    stack.kubectl.apply(document)
    try:
        stack.kubectl(
            "wait", "--for=condition=WorkspaceSucceeded=False", f"workspace/{name}", "--timeout=60s"
        )
        wait(
            lambda: stack.condition(name, "WorkspaceSucceeded").get("reason") == "workspaceFailed" or None,
            30,
            "it",
        )
        described = stack.kubectl("describe", "workspace", name)
        assert "phi-3-mini-128k-instrukt" in described
        assert "absent" in described
        assert stack.claims_of(name) == stack.pods_of(name) == []
    finally:
        stack.kubectl("delete", "workspace", name, "--timeout=60s")


def test_delete_returns_when_everything_is_gone(reconciled_stack: ReconciledStack, life: Life) -> None:
    stack = reconciled_stack
    watch = stack.kubectl_in_background("delete", "workspace", NAME, "--wait", "--timeout=180s")
    try:
        said = watch.communicate(timeout=190)[0]
    except subprocess.TimeoutExpired:
        watch.kill()
        raise
    assert watch.returncode == 0, said
    assert f'"{NAME}" deleted' in said
    assert stack.get("workspace", NAME) is None
    assert stack.claims_of(NAME) == stack.pods_of(NAME) == []
