"""ComfyUI's interface in a headless Chromium.

Playwright's synchronous calls keep an event loop running in this thread: inside `editor`, queue
prompts from the page (`app.queuePrompt(0)`), not with `Server.run`, which starts a loop of its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tools.comfyui import MissingError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
READY = "() => window.app?.graph && window.app.extensionManager && window.LiteGraph"
# the text of the help panel, in older and newer versions of the interface
HELP = ".node-help-content :is(.markdown-content, .comfy-markdown-content)"
PATIENCE = 180_000  # milliseconds, on a machine with other work
# A first visit opens the template dialog and takes the language of the browser.
DEFAULTS = {"Comfy.TutorialCompleted": True, "Comfy.Locale": "en"}


def find_chromium() -> tuple[Any, str]:
    """Playwright's module, and the path of a Chromium: $CHROMIUM, or the first that is found."""
    try:
        from playwright import sync_api
    except ImportError:
        raise MissingError("no Playwright: pip install playwright") from None
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise MissingError("no Chromium: install one, or set CHROMIUM to its path")
    return sync_api, found


@contextmanager
def editor(
    url: str, *, size: tuple[int, int] = (1600, 1000), settings: dict[str, Any] | None = None
) -> Iterator[Any]:
    """Open the server's interface; returns Playwright's Page when it is ready to use.

    settings: of the interface, by id ("Comfy.Locale": "zh"), stored before it is opened; language
    and first visit are as they were afterwards. Nothing but the server can be reached.
    """
    sync_api, program = find_chromium()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            page = browser.new_page(viewport={"width": size[0], "height": size[1]})
            page.set_default_timeout(PATIENCE)
            page.route("**/*", lambda route: _only(url, route))
            _store(page, url, {**DEFAULTS, **(settings or {})})
            page.goto(url)
            page.wait_for_function(READY)
            page.locator("#graph-canvas").wait_for()
            page.locator(".p-dialog-mask").wait_for(state="detached")
            try:
                yield page
            finally:
                _store(page, url, DEFAULTS)
        finally:
            browser.close()


def _store(page: Any, url: str, settings: dict[str, Any]) -> None:
    answer = page.request.post(f"{url}/settings", data=settings)
    assert answer.ok, answer.text()


def _only(url: str, route: Any) -> None:
    if route.request.url.startswith(url):
        route.continue_()
    else:
        route.abort()


def add_node(page: Any, kind: str) -> None:
    """Clear the graph, add one node, put it in the middle and select it."""
    page.evaluate(
        """kind => {
            const { graph, canvas } = window.app
            graph.clear()
            const node = window.LiteGraph.createNode(kind)
            graph.add(node)
            canvas.centerOnNode(node)
            canvas.selectNode(node)
        }""",
        kind,
    )
