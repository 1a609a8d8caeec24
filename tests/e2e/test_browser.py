"""The pages in a browser, in Airflow's own login: what a person sees before and after a Workspace is there.

The tests build on each other's Workspaces. Those that wait for a training are `slow`; the others are a part of CI.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.workspace.api import names
from tests.support.reconciled import ReconciledStack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

Open = Callable[..., Any]
Picture = Callable[[Any, str], None]
#: Let the page believe that nobody sees it, or that somebody does again.
HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
TUNED, BROKEN = "support-answers", "broken-registry"


def pages(stack: ReconciledStack, path: str = "") -> str:
    return f"{stack.api.server.url}/kaito/workspaces{path}"


@pytest.fixture(scope="module")
def broken(stack: ReconciledStack) -> None:
    """A Workspace that names a Secret which nobody has made."""
    document = stack.quick_start(BROKEN)
    document["tuning"]["output"]["imagePushSecret"] = "no-such-secret"
    stack.kubectl.apply(document)


@pytest.fixture(scope="module")
def tuned(stack: ReconciledStack) -> None:
    """One that is tuned and served on the stand-in weights."""
    stack.kubectl.apply(stack.tuning(TUNED, steps=40, roll_out=True))


def test_nobody_sees_a_page_without_a_login(stack: ReconciledStack, chromium: Any) -> None:
    page = chromium.new_page()
    answer = page.goto(pages(stack))
    assert answer.status == 401
    assert "not logged in" in page.inner_text("main")
    page.close()


def test_the_menu_leads_to_an_empty_table_that_says_how_to_begin(
    stack: ReconciledStack, open_browser: Open, picture: Picture, complaints: list[str]
) -> None:
    page = open_browser()
    page.goto(f"{stack.api.server.url}/plugin/workspaces")
    inner = page.frame_locator("iframe[title=Workspaces]")
    inner.get_by_text("There are no Workspaces yet").wait_for()
    picture(page, "empty")
    assert complaints == []


def test_the_form_shows_machines_a_plan_and_faults(
    stack: ReconciledStack, open_browser: Open, picture: Picture, complaints: list[str]
) -> None:
    page = open_browser()
    page.goto(f"{stack.api.server.url}/kaito/new")
    page.locator("select[name=model]").select_option("phi-3-mini-128k-instruct")
    page.locator("#report .faults li").first.wait_for()
    assert "metadata.name" in page.inner_text("#report")
    page.locator("input[name=name]").fill("from-the-form")
    page.locator("textarea[name=urls]").fill("https://data.example.com/rows.parquet")
    page.locator("input[name=image]").fill("registry.example.com/answers:1")
    page.locator("input[name=secret]").fill("push")
    page.locator("select[name=machine]").select_option("Standard_NC24ads_A100_v4")
    page.locator("#report", has_text="USD").wait_for()
    assert "name: from-the-form" in page.locator("#yaml").input_value()
    with page.expect_response("**/kaito/api/draft") as drawn:
        page.locator("select[name=objective]").select_option("dpo")
    assert f"{names.TUNING_OBJECTIVE}: dpo" in drawn.value.json()["yaml"]
    page.locator("#apply:enabled").wait_for()
    assert page.locator("#apply").is_enabled()
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "workspace.yaml"
    assert "name: from-the-form" in Path(download.value.path()).read_text()
    picture(page, "new")
    assert complaints == []


@pytest.mark.usefixtures("broken")
def test_a_failed_workspace_says_cause_and_remedy(
    stack: ReconciledStack, open_browser: Open, picture: Picture, complaints: list[str]
) -> None:
    page = open_browser()
    page.goto(pages(stack, f"/default/{BROKEN}"))
    page.locator("#seen .state", has_text="Failed").first.wait_for(timeout=90_000)
    told = page.inner_text("#seen")
    assert "no-such-secret" in told
    assert "kubectl create secret" in told
    picture(page, "failed")
    assert complaints == []


@pytest.mark.usefixtures("broken")
def test_pausing_says_what_it_does_and_is_audited(
    stack: ReconciledStack, open_browser: Open, picture: Picture, complaints: list[str]
) -> None:
    page = open_browser()
    page.goto(pages(stack, f"/default/{BROKEN}"))
    page.get_by_role("button", name="Pause").click()
    dialog = page.locator("dialog[open]")
    assert "until it is resumed" in dialog.inner_text()
    picture(page, "pause")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Pause").click()
    dialog.get_by_role("button", name="Pause").click()
    page.locator("#seen .state", has_text="Paused").first.wait_for()
    assert stack.get("workspace", BROKEN)["metadata"]["annotations"][names.PAUSED] == "true"
    page.get_by_role("button", name="Resume").click()
    page.locator("dialog[open]").get_by_role("button", name="Resume").click()
    page.locator("#seen .state", has_text="Failed").first.wait_for()
    assert names.PAUSED not in (stack.get("workspace", BROKEN)["metadata"].get("annotations") or {})
    # What may be done follows what others do, without a reload.
    stack.kubectl("annotate", "workspace", BROKEN, f"{names.PAUSED}=true")
    page.get_by_role("button", name="Resume").wait_for()
    stack.kubectl("annotate", "workspace", BROKEN, f"{names.PAUSED}-")
    page.get_by_role("button", name="Pause").wait_for()
    assert {"kaito.pause", "kaito.resume"} <= {one["event"] for one in stack.api.audit_log()}
    assert complaints == []


@pytest.mark.usefixtures("broken")
def test_search_dark_and_a_phone(
    stack: ReconciledStack, open_browser: Open, picture: Picture, complaints: list[str]
) -> None:
    page = open_browser(viewport={"width": 390, "height": 844}, color_scheme="dark")
    for path in ("", f"/default/{BROKEN}"):
        page.goto(pages(stack, path))
        page.locator("#live", has_text="Up to date").wait_for(state="attached")
        _fits(page)
        picture(page, f"phone{'-one' if path else ''}")
    page.goto(f"{stack.api.server.url}/kaito/new")
    _fits(page)
    picture(page, "phone-new")
    page.goto(pages(stack))
    page.locator("#q").fill("nothing like this")
    page.locator("#table", has_text="No Workspace matches").wait_for()
    assert re.search(r"q=nothing", page.url)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 29)"
    assert complaints == []


@pytest.mark.usefixtures("broken")
def test_the_keyboard_is_enough(stack: ReconciledStack, open_browser: Open, complaints: list[str]) -> None:
    page = open_browser()
    page.goto(pages(stack, f"/default/{BROKEN}"))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.open") == "act-pause"
    page.keyboard.press("Enter")
    page.locator("dialog[open]").wait_for()
    page.keyboard.press("Escape")
    page.locator("dialog[open]").wait_for(state="detached")
    assert page.evaluate("document.activeElement.dataset.open") == "act-pause", "the focus comes back"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert complaints == []


@pytest.mark.usefixtures("broken")
def test_a_page_rests_while_it_is_hidden_and_says_when_nobody_answers(
    stack: ReconciledStack, open_browser: Open, complaints: list[str]
) -> None:
    page = open_browser()
    page.clock.install()
    page.goto(pages(stack, f"/default/{BROKEN}"))
    page.locator("#live", has_text="Up to date").wait_for()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate(HIDE, True)
    page.clock.run_for(120_000)
    assert asked == []
    with page.expect_request("**/part/workspaces/**"):
        page.evaluate(HIDE, False)
    page.locator("#live", has_text="Up to date").wait_for()
    page.route("**/part/workspaces/**", lambda route: route.abort())
    page.clock.run_for(10_000)
    page.locator("#live", has_text="Not up to date: Airflow does not answer").wait_for()
    assert page.locator("#seen .state", has_text="Failed").count(), "what was seen stays"
    assert complaints == []


@pytest.mark.usefixtures("broken")
def test_the_yaml_and_the_commands_can_be_copied(
    stack: ReconciledStack, open_browser: Open, complaints: list[str]
) -> None:
    page = open_browser(permissions=["clipboard-read", "clipboard-write"])
    page.goto(pages(stack, f"/default/{BROKEN}"))
    for which, text in (("yaml", "kind: Workspace"), ("command-1", f"kubectl get workspace {BROKEN}")):
        button = page.locator(f"[data-copy={which}]")
        button.click()
        page.locator(f"[data-copy={which}]", has_text="Copied").wait_for()
        assert text in page.evaluate("navigator.clipboard.readText()")
    assert complaints == []


def _fits(page: Any) -> None:
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, f"{page.url} is {wide} px wider than a phone"


@pytest.mark.slow
@pytest.mark.usefixtures("tuned")
def test_a_tuned_workspace_shows_stages_curve_cost_and_commands(
    stack: ReconciledStack, open_browser: Open, picture: Picture, complaints: list[str]
) -> None:
    stack.reaches(TUNED, "WorkspaceReady", seconds=400)
    page = open_browser()
    page.goto(pages(stack))
    row = page.locator("tr", has_text=TUNED)
    row.locator(".state", has_text="Serving").wait_for()
    assert "phi-3-mini-128k-instruct" in row.inner_text()
    picture(page, "workspaces")
    row.get_by_role("link", name=TUNED).click()
    page.locator("#training polyline").first.wait_for()
    shown = page.inner_text("main")
    for word in (
        "Tuning",
        "Push adapter",
        "Load the model",
        "WorkspaceReady",
        "sha256:",
        "kubectl port-forward",
    ):
        assert word in shown, word
    assert page.locator(".stages .bar").count() > 8
    picture(page, "workspace")
    data = page.locator("section", has=page.locator("#data"))
    assert data.locator(".count").count() > 0
    assert data.locator(".sample").count() == 3
    for row in data.locator(".sample").all():
        assert row.locator("mark.learnt").count() > 0, (
            "the tokenizer is on this machine, so the mask is known"
        )
    page.get_by_role("navigation", name="On this page").get_by_role("link", name="Data").click()
    picture(page, "data")
    titles = page.locator("#training figcaption").all_inner_texts()
    assert [one.partition(":")[0] for one in titles] == [
        *("Loss", "Tokens per second", "Learning rate"),
        "Memory at its peak, GiB",
    ]
    page.locator("#training").scroll_into_view_if_needed()
    picture(page, "training")
    page.locator("#question").fill("What is 1 plus 1?")
    page.locator("#ask button").click()
    page.locator("#answers article[aria-busy=false]").first.wait_for(timeout=120_000)
    page.locator("#answers article[aria-busy=true]").first.wait_for(state="detached", timeout=120_000)
    assert page.locator("#answers .faults").count() == 0, page.inner_text("#answers")
    assert TUNED in page.inner_text("#answers")
    picture(page, "ask")
    page.goto(f"{stack.api.server.url}/kaito/cost?by=workspace")
    assert TUNED in page.inner_text("main")
    picture(page, "cost")
    assert complaints == []


@pytest.mark.slow
@pytest.mark.usefixtures("tuned")
def test_all_of_a_tuned_workspace_fits_a_phone(
    stack: ReconciledStack, open_browser: Open, picture: Picture, complaints: list[str]
) -> None:
    page = open_browser(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page.goto(pages(stack, f"/default/{TUNED}"))
    page.locator("#training polyline").first.wait_for()
    _fits(page)
    picture(page, "phone-tuned")
    page.locator("#data").scroll_into_view_if_needed()
    picture(page, "phone-data")
    page.goto(f"{stack.api.server.url}/kaito/cost?by=workspace")
    _fits(page)
    assert complaints == []


@pytest.mark.slow
@pytest.mark.usefixtures("tuned")
def test_the_tab_of_a_run_shows_its_workspace(
    stack: ReconciledStack, open_browser: Open, picture: Picture, complaints: list[str]
) -> None:
    page = open_browser()
    page.goto(f"{stack.api.server.url}/dags/kaito_tune/runs/{stack.run_id(TUNED)}/plugin/workspace")
    page.frame_locator("iframe").get_by_role("heading", name=TUNED).first.wait_for()
    picture(page, "tab")
    assert complaints == []
