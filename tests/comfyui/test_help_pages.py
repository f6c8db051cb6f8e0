"""The help of every node as a user opens it: node selected, the toolbox's info button clicked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.comfyui import REPOSITORY
from tools.comfyui.browser import HELP, add_node

PAGES = sorted(Path(REPOSITORY / "web" / "docs").glob("*.md"))
NAMES = [path.stem for path in PAGES]


@pytest.fixture(scope="module")
def page(editor: Any, server: Any) -> Iterator[Any]:
    with editor(server.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def tables(server: Any) -> dict[str, list[list[str]]]:
    """The names in the tables of each node's help page: of its inputs, and of its outputs."""
    info = server.get("/object_info")
    return {
        name: [
            [
                key
                for group in ("required", "optional")
                for key in info[name]["input"].get(group, [])
            ],
            list(info[name]["output_name"]),
        ]
        for name in NAMES
    }


def open_help(page: Any, name: str, title: str) -> Any:
    """Select a node of this kind and click its info button; gives the page that is shown."""
    add_node(page, name)
    page.get_by_test_id("info-button").click()
    shown = page.locator(HELP)
    shown.locator("h1", has_text=re.compile(f"^{re.escape(title)}$")).wait_for()
    return shown


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_the_info_button_opens_the_page_with_its_image_and_tables(
    page: Any, tables: dict[str, list[list[str]]], path: Path
) -> None:
    title = path.read_text().split("\n", 1)[0].removeprefix("# ")
    shown = open_help(page, path.stem, title)

    image = shown.locator("img")
    assert image.count() == 1
    page.wait_for_function("image => image.complete", arg=image.element_handle())
    assert image.evaluate("image => image.naturalWidth") > 400
    assert image.evaluate("image => image.clientWidth") > 150

    found = [
        [row.locator("code").first.inner_text() for row in table.locator("tbody tr").all()]
        for table in shown.locator("table").all()
    ]
    assert found == tables[path.stem]


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_nothing_is_cut_off_in_the_panel_as_wide_as_it_opens(page: Any, path: Path) -> None:
    title = path.read_text().split("\n", 1)[0].removeprefix("# ")
    shown = open_help(page, path.stem, title)
    inside, needed = shown.evaluate("panel => [panel.clientWidth, panel.scrollWidth]")
    assert needed <= inside
