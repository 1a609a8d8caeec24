"""The walk of a new user: from the form to an answer, and every button of a Workspace's page on the way to its end.

Each action is done by its button, and seen in the cluster and in Airflow's audit log. One Workspace lives through all
of it, so these tests build on each other: trainings of stand-in weights are what takes the time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from include.workspace.api import names
from tests.support.airflow_run import dataset_server, wait, write_sums
from tests.support.reconciled import ReconciledStack

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1500)]

Open = Callable[..., Any]
Picture = Callable[[Any, str], None]
NAME, MISTAKEN, RULES = "first-model", "mistaken", "first-model-rules"
#: Milliseconds that a training and a rollout may take on a machine that does much else.
SETTLED = 600_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a dataset and the folder that it is in."""
    folder = tmp_path_factory.mktemp("data")
    with dataset_server(folder) as url:
        write_sums(folder, 8)
        yield url, folder


def shown(page: Any, stack: ReconciledStack, name: str = NAME) -> Any:
    page.goto(f"{stack.api.server.url}/kaito/workspaces/default/{name}")
    return page


def press(page: Any, label: str, value: str | None = None) -> str:
    """Do an action by its button and its confirmation; returns what the confirmation said of it."""
    page.get_by_role("button", name=label, exact=True).click()
    dialog = page.locator("dialog[open]")
    told = str(dialog.inner_text())
    if value is not None:
        dialog.locator("input[name=value]").fill(value)
    dialog.get_by_role("button", name=label, exact=True).click()
    return told


def annotation(stack: ReconciledStack, key: str, name: str = NAME) -> str | None:
    found = stack.get("workspace", name)["metadata"].get("annotations") or {}
    return found.get(key)


def audited(stack: ReconciledStack, event: str, name: str = NAME) -> dict[str, Any]:
    """Wait for the entry of an action in the audit log, and return what it says."""

    def look() -> dict[str, Any] | None:
        entries = [one for one in stack.api.audit_log() if one["event"] == event]
        told = [json.loads(one["extra"]) for one in entries if one["owner"]]
        return next((one for one in told if one["name"] == name), None)

    return wait(look, 30, f"{event} in the audit log")


def digest(stack: ReconciledStack) -> str:
    return str(stack.get("workspace", NAME)["status"]["adapter"]["digest"])


def retraining(stack: ReconciledStack, reason: str, other: str = "") -> dict[str, Any]:
    """Wait for a reason of RetrainReady whose message is another one than `other`."""

    def look() -> dict[str, Any] | None:
        told = stack.condition(NAME, "RetrainReady")
        assert told.get("reason") not in {"RetrainFailed", "RetrainInvalid"}, told
        return told if told.get("reason") == reason and told["message"] != other else None

    return wait(look, SETTLED / 1000, f"{reason} of {NAME}")


def test_a_new_user_goes_from_the_form_to_an_answer(
    stack: ReconciledStack,
    data: tuple[str, Path],
    open_browser: Open,
    picture: Picture,
    complaints: list[str],
) -> None:
    page = open_browser()
    page.goto(f"{stack.api.server.url}/kaito/workspaces")
    page.get_by_role("link", name="New Workspace").first.click()
    page.locator("select[name=model]").select_option("phi-3-mini-128k-instruct")
    page.locator("select[name=machine]").select_option("Standard_NC6s_v3")
    page.locator("input[name=name]").fill(NAME)
    page.locator("textarea[name=urls]").fill(data[0])
    page.locator("input[name=image]").fill(f"{stack.sandbox.registry}/{NAME}:0.0.1")
    page.locator("input[name=secret]").fill("push")
    page.locator("#report", has_text="USD").wait_for()
    picture(page, "walk-plan")
    page.locator("#apply:enabled").click()
    page.wait_for_url(f"**/kaito/workspaces/default/{NAME}")
    audited(stack, "kaito.apply")
    page.locator("#seen .state.busy").first.wait_for()
    picture(page, "walk-working")
    page.locator("#seen .state", has_text="Serving").first.wait_for(timeout=SETTLED)
    page.reload()
    page.locator("#question").fill("What is 1 plus 1?")
    page.locator("#ask button").click()
    page.locator("#answers article[aria-busy=false]").nth(1).wait_for(timeout=120_000)
    assert page.locator("#answers .faults").count() == 0, page.inner_text("#answers")
    picture(page, "walk-answer")
    audited(stack, "kaito.ask")
    page.locator("section", has=page.locator("#data")).get_by_text("all 8 rows used").first.wait_for()
    page.locator("dt", has_text="Requests a second").wait_for()
    assert complaints == []


def test_a_run_asks_as_the_page_does(stack: ReconciledStack) -> None:
    stack.api.trigger("kaito_ask", "asked", {"name": NAME, "question": "What is 1 plus 1?"})
    assert stack.follow("asked", "kaito_ask") == "success", stack.log("asked", "ask", "kaito_ask")
    told = stack.log("asked", "ask", "kaito_ask")
    assert f"A of {NAME}: " in told


def test_a_service_goes_to_zero_and_is_woken(
    stack: ReconciledStack, open_browser: Open, picture: Picture, complaints: list[str]
) -> None:
    page = shown(open_browser(), stack)
    assert "saves" in press(page, "Scale to zero")
    audited(stack, "kaito.scale-to-zero")
    assert annotation(stack, names.SCALE_TO_ZERO) == "1"
    page.locator("#seen .state", has_text="At zero").first.wait_for(timeout=SETTLED)
    wait(lambda: not stack.claims_of(NAME), 60, "the machine's end")
    page.reload()
    picture(page, "walk-at-zero")
    assert "Orders the machines again" in press(page, "Wake")
    audited(stack, "kaito.wake")
    page.locator("#seen .state", has_text="Serving").first.wait_for(timeout=SETTLED)
    assert stack.claims_of(NAME)
    stack.kubectl("annotate", "workspace", NAME, f"{names.SCALE_TO_ZERO}-")
    assert complaints == []


def test_candidates_are_approved_and_rejected_and_an_earlier_one_is_served_again(
    stack: ReconciledStack,
    data: tuple[str, Path],
    open_browser: Open,
    picture: Picture,
    complaints: list[str],
) -> None:
    policy = {
        "watch": {"every": "2s"},
        "bake": {"time": "2s"},
        "approval": {"required": True, "timeout": "10m"},
    }
    rules = {"retrain_policy.yaml": json.dumps(policy)}
    stack.kubectl.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": RULES}, "data": rules})
    notes = [f"{names.RETRAIN_SCHEDULE}=@data", f"{names.RETRAIN_POLICY}={RULES}"]
    stack.kubectl("annotate", "workspace", NAME, "--overwrite", *notes)
    retraining(stack, "DatasetUnchanged")
    first = digest(stack)
    page = open_browser()

    write_sums(data[1], 12)
    asked = retraining(stack, "AwaitingApproval")
    shown(page, stack).get_by_role("button", name="Approve", exact=True).scroll_into_view_if_needed()
    picture(page, "walk-approval")
    assert "in place of the present adapter" in press(page, "Approve")
    assert audited(stack, "kaito.approve")["annotations"]
    retraining(stack, "Promoted")
    second = digest(stack)
    assert second != first

    write_sums(data[1], 16)
    retraining(stack, "AwaitingApproval", asked["message"])
    assert "the present adapter goes on answering" in press(shown(page, stack), "Reject")
    audited(stack, "kaito.reject")
    retraining(stack, "CandidateRefused")
    assert digest(stack) == second

    stack.kubectl("annotate", "workspace", NAME, "--overwrite", f"{names.RETRAIN_SCHEDULE}=0 0 1 1 *")
    assert "original" in press(shown(page, stack), "Roll back", "original")
    assert audited(stack, "kaito.roll-back")["value"] == "original"
    wait(lambda: digest(stack) == first, 90, "the first adapter")
    shown(page, stack)
    picture(page, "walk-rolled-back")
    assert complaints == []


def test_a_failed_run_says_cause_and_remedy_and_is_run_again(
    stack: ReconciledStack, open_browser: Open, picture: Picture, complaints: list[str]
) -> None:
    document = stack.quick_start(MISTAKEN)
    document["tuning"]["input"]["urls"] = [stack.dataset_url.replace("train.parquet", "empty.jsonl")]
    stack.kubectl.apply(document)
    page = open_browser()
    wait(lambda: stack.get("workspace", MISTAKEN).get("status"), 60, "the first status")
    shown(page, stack, MISTAKEN).locator("#seen .state", has_text="Failed").first.wait_for(timeout=SETTLED)
    assert "empty.jsonl" in page.locator("#seen p").first.inner_text()
    page.locator(".stages .bar.failed").first.wait_for(state="attached")
    picture(page, "walk-failed")
    first = stack.get("workspace", MISTAKEN)["status"]["run"]["id"]
    page.reload()
    assert "new Airflow run" in press(page, "Run again")
    audited(stack, "kaito.rerun", MISTAKEN)
    assert annotation(stack, names.RERUN, MISTAKEN)
    wait(lambda: stack.get("workspace", MISTAKEN)["status"]["run"]["id"] != first, 60, "another run")
    assert complaints == []


def test_deleting_takes_the_name_and_everything_goes(
    stack: ReconciledStack, open_browser: Open, picture: Picture, complaints: list[str]
) -> None:
    page = shown(open_browser(), stack)
    press(page, "Delete", MISTAKEN)
    page.locator("dialog[open] [data-result]", has_text=f"takes the Workspace's name, {NAME}").wait_for()
    picture(page, "walk-delete")
    page.keyboard.press("Escape")
    assert stack.get("workspace", NAME)["metadata"].get("deletionTimestamp") is None
    assert "cannot be undone" in press(page, "Delete", NAME)
    wait(lambda: audited(stack, "kaito.delete").get("refused") is None, 30, "the deletion in the audit log")
    stack.gone(NAME)
    page.locator("#seen", has_text="There is no such Workspace").wait_for()
    page.locator("#live", has_text="Not up to date").wait_for(state="attached")
    assert complaints == []
