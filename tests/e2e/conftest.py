"""A real browser, logged in to a real Airflow with the sandbox: what a person sees."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import reconciled
from tests.support.reconciled import ReconciledStack

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReconciledStack]:
    """Sandbox and Airflow with the reconciler on: one for all files, since starting it takes longest."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine: apt-get install chromium")
    with reconciled.reconciled_stack(tmp_path_factory.mktemp("e2e")) as made:
        yield made


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The machine's chromium; the tests are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    with playwright.sync_playwright() as driver:
        # Its own sandbox needs namespaces that a container's root may not have.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complained about: refused by the policy, failed scripts."""
    return []


@pytest.fixture
def open_browser(
    chromium: Any,
    stack: ReconciledStack,
    complaints: list[str],
    picture: Callable[[Any, str], None],
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., Any]]:
    """Open a page of a browser that is logged in; `options` are those of a browser context."""
    contexts: list[Any] = []

    def opened(**options: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
        page.on("console", lambda told: _note(complaints, page.url, told.text))
        server = stack.api.server
        page.goto(f"{server.url}/auth/login")
        page.locator("input[name=username]").fill(server.username)
        page.locator("input[name=password]").fill(server.password)
        page.locator("button[type=submit]").click()
        page.wait_for_url(lambda url: "/auth/login" not in url)
        return page

    yield opened
    for context in contexts:
        for page in context.pages:
            picture(page, f"last-{request.node.name[5:]}")
        context.close()


def _note(complaints: list[str], url: str, text: str) -> None:
    if "Content Security Policy" in text and "/kaito/" in text:
        complaints.append(f"{url}: {text}")


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[Any, str], None]:
    """Keep a screenshot: in the folder that KAITO_SCREENSHOTS names, else with the test's own files."""
    folder = Path(os.environ.get("KAITO_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def taken(page: Any, name: str) -> None:
        page.screenshot(path=str(folder / f"{name}.png"))

    return taken
