"""The interface in every language that we have words for: nodes, inputs, tooltips, categories."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tools.comfyui import REPOSITORY
from tools.comfyui.browser import HELP, add_node

# the languages of the interface's own setting
OFFERED = """() => {
    const setting = app.ui.settings.settingsLookup["Comfy.Locale"];
    return setting.options.map((option) => option.value ?? option);
}"""
LANGUAGES = ("zh", "ja", "ko", "fr", "de", "es", "ru")


def words(language: str, name: str) -> dict[str, Any]:
    """One node's words in a locale file."""
    file = REPOSITORY / "locales" / language / "nodeDefs.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))[name]
    return found


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def page(editor: Any, server: Any, language: str) -> Iterator[Any]:
    settings = {"Comfy.Locale": language, "LiteGraph.Node.TooltipDelay": 0}
    with editor(server.url, settings=settings) as opened:
        if language not in opened.evaluate(OFFERED):
            pytest.skip(f"this interface has no language {language}")
        yield opened


def test_title_and_labels_are_in_the_users_language(page: Any, language: str) -> None:
    said = words(language, "GlideSampler")
    add_node(page, "GlideSampler")
    title, labels = page.evaluate(
        """inputs => {
            const [node] = window.app.graph._nodes
            const slots = node.inputs.filter(slot => !slot.widget)
            const own = node.widgets.filter(widget => widget.name in inputs)
            return [node.title, {
                ...Object.fromEntries(slots.map(s => [s.name, s.localized_name ?? s.label])),
                ...Object.fromEntries(own.map(widget => [widget.name, widget.label])),
            }]
        }""",
        said["inputs"],
    )
    assert title == said["display_name"]
    assert labels == {name: entry["name"] for name, entry in said["inputs"].items()}


def test_a_widgets_tooltip_is_in_the_users_language(page: Any, language: str) -> None:
    add_node(page, "GlideSampler")
    x, y = page.evaluate(
        """() => {
            const [node] = window.app.graph._nodes
            const canvas = window.app.canvas, { scale, offset } = canvas.ds
            const box = canvas.canvas.getBoundingClientRect()
            canvas.draw(true, true)
            const cfg = node.widgets.find(widget => widget.name === 'cfg')
            return [(node.pos[0] + 60 + offset[0]) * scale + box.left,
                    (node.pos[1] + cfg.last_y + 10 + offset[1]) * scale + box.top]
        }"""
    )
    tip = page.locator(".node-tooltip")
    for attempt in range(40):  # a movement before the canvas is redrawn hides it again
        page.mouse.move(x - attempt % 5, y)
        page.wait_for_timeout(300)
        if tip.is_visible():
            break
    assert tip.inner_text().strip() == words(language, "GlideSampler")["inputs"]["cfg"]["tooltip"]


def test_the_node_library_has_our_categories_in_it(page: Any, language: str) -> None:
    file = REPOSITORY / "locales" / language / "main.json"
    ours = json.loads(file.read_text(encoding="utf-8"))["nodeCategories"]
    page.evaluate("window.app.extensionManager.sidebarTab.toggleSidebarTab('node-library')")
    tree = page.locator("[role='tree']").filter(has_text="GLIDE").first
    folder = tree.get_by_role("treeitem").filter(has_text="GLIDE").first
    folder.wait_for()
    toggle = folder.locator("button")  # older interfaces open a folder by its button alone
    (toggle.first if toggle.count() else folder).click()
    for name in ours.values():
        tree.get_by_role("treeitem").filter(has_text=name).first.wait_for()


def test_the_help_page_is_in_the_users_language(page: Any, language: str) -> None:
    """Languages without a page of their own get the English one."""
    add_node(page, "GlideSampler")
    page.get_by_test_id("info-button").click()
    file = REPOSITORY / "web" / "docs" / "GlideSampler" / f"{language}.md"
    if not file.exists():
        file = REPOSITORY / "web" / "docs" / "GlideSampler.md"
    lines = file.read_text(encoding="utf-8").splitlines()
    headings = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    shown = page.locator(HELP)
    shown.locator("h2").first.wait_for()
    assert shown.locator("h2").all_inner_texts() == headings
    image = shown.locator("img")
    page.wait_for_function("image => image.complete", arg=image.element_handle())
    assert image.evaluate("image => image.naturalWidth") > 400
