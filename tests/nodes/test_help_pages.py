"""The help page of every node agrees with the node, shows a picture and names a workflow to try.

The tables have one column: ComfyUI's help panel is about 250 pixels wide, and what a second column
holds is cut off there. A row is `name` TYPE, optional, range, default, and below it the words.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import glide_pack
import pytest
from glide_pack.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from PIL import Image

ROOT = Path(glide_pack.__file__).parent
PAGES = ROOT / "web" / "docs"
NODES = sorted(NODE_CLASS_MAPPINGS)
FILE_CHOICES = ("checkpoint", "text_checkpoint", "weights")  # what is on the disk, not the schema
PICTURE = re.compile(r"!\[([^\]]+)\]\(([^)]+)\)")


def page(node_id: str) -> str:
    return (PAGES / f"{node_id}.md").read_text(encoding="ascii")


def section(text: str, name: str) -> str:
    """A page's part under '## name', up to the next heading."""
    return re.split(r"^## ", text.split(f"## {name}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str, name: str) -> list[tuple[str, str]]:
    """(what stands before the break, the words after it) of each row of a section's table."""
    lines = [line for line in section(text, name).splitlines() if line.startswith("|")]
    assert lines[1] == "|:--|", lines[:2]
    cells = [line.strip("|").strip().split("<br>") for line in lines[2:]]
    assert all(len(cell) == 2 for cell in cells), cells
    return [(head, words) for head, words in cells]


def number(value: float) -> str:
    return "2^64 - 1" if value == 2**64 - 1 else f"{value:g}"


def heading(group: str, name: str, kind: Any, options: dict[str, Any]) -> str:
    """What a row of the inputs says of a declared input before its words."""
    said = ["COMBO" if isinstance(kind, list) else kind]
    if group == "optional":
        said.append("optional")
    if "min" in options:
        said.append(f"{number(options['min'])} to {number(options['max'])}")
    if name == "checkpoint":
        said.append("default the first file")
    elif "default" in options:
        default = options["default"]
        if isinstance(default, bool):
            said.append(f"default {str(default).lower()}")
        elif isinstance(default, str):
            said.append(f"default `{default}`" if default else "default empty")
        else:
            said.append(f"default {number(default)}")
    return f"`{name}` {', '.join(said)}"


def declared(node_id: str) -> list[tuple[str, str, Any, dict[str, Any]]]:
    groups = NODE_CLASS_MAPPINGS[node_id].INPUT_TYPES().items()
    return [(group, name, *entry) for group, inputs in groups for name, entry in inputs.items()]


def intro(node_id: str) -> str:
    return page(node_id).split("## Inputs\n")[0]


def tried(node_id: str) -> list[str]:
    """The workflows that a page's last words before the tables name."""
    last = intro(node_id).strip().split("\n\n")[-1]
    assert last.startswith("**Try it:** ")
    return re.findall(r"(?<!\*)\*(\w+)\*(?!\*)", last)


def used_in(workflow: Path) -> set[str]:
    return {node["type"] for node in json.loads(workflow.read_text(encoding="utf-8"))["nodes"]}


def test_every_node_has_a_page_and_every_page_a_node() -> None:
    assert sorted(path.stem for path in PAGES.glob("*.md")) == NODES


@pytest.mark.parametrize("node_id", NODES)
def test_the_inputs_table_agrees_with_the_node(node_id: str) -> None:
    expected = [heading(*entry) for entry in declared(node_id)]
    assert [head for head, _ in rows(page(node_id), "Inputs")] == expected


@pytest.mark.parametrize("node_id", NODES)
def test_every_choice_is_named(node_id: str) -> None:
    words = dict(rows(page(node_id), "Inputs"))
    for entry in declared(node_id):
        _, name, kind, _ = entry
        if isinstance(kind, list) and name not in FILE_CHOICES:
            missing = [choice for choice in kind if f"`{choice}`" not in words[heading(*entry)]]
            assert not missing, f"{node_id}.{name}: {missing}"


@pytest.mark.parametrize("node_id", NODES)
def test_the_outputs_table_agrees_with_the_node(node_id: str) -> None:
    node = NODE_CLASS_MAPPINGS[node_id]
    names = getattr(node, "RETURN_NAMES", node.RETURN_TYPES)
    expected = [f"`{name}` {kind}" for name, kind in zip(names, node.RETURN_TYPES, strict=True)]
    found = rows(page(node_id), "Outputs")
    assert [head for head, _ in found] == expected
    assert [words for _, words in found] == list(node.OUTPUT_TOOLTIPS)


@pytest.mark.parametrize("node_id", NODES)
def test_the_page_is_called_as_the_node_is(node_id: str) -> None:
    assert page(node_id).startswith(f"# {NODE_DISPLAY_NAME_MAPPINGS[node_id]}\n\n")


@pytest.mark.parametrize("node_id", NODES)
def test_there_is_a_small_picture_and_words_on_what_it_shows(node_id: str) -> None:
    """Relative to web/docs, where both ComfyUI and a reader of the repository look for it."""
    (alt, target), *more = PICTURE.findall(page(node_id))
    assert target == f"images/{node_id}.webp" and not more
    assert len(alt) > 20
    file = PAGES / target
    assert file.stat().st_size < 100_000
    with Image.open(file) as picture:
        assert 400 <= picture.width <= 768
    caption = intro(node_id).split(target + ")")[1].split("**Try it:**")[0]
    assert len(caption.strip()) > 60


def test_every_picture_is_shown_and_can_be_drawn_again() -> None:
    source = (Path(__file__).parent / "help_pictures.py").read_text()
    drawn = re.findall(r'^    "(\w+)": \w+,$', source, re.MULTILINE)
    assert sorted(path.stem for path in (PAGES / "images").iterdir()) == sorted(drawn) == NODES


@pytest.mark.parametrize("node_id", NODES)
def test_a_workflow_to_try_exists_and_holds_the_node_if_any_does(node_id: str) -> None:
    workflows = {path.stem: path for path in (ROOT / "example_workflows").glob("*.json")}
    names = tried(node_id)
    assert names and set(names) <= set(workflows)
    holding = {name for name, path in workflows.items() if node_id in used_in(path)}
    if holding:
        assert holding & set(names), f"{node_id} is used in {sorted(holding)}"


@pytest.mark.parametrize("node_id", NODES)
def test_nodes_that_a_page_names_exist(node_id: str) -> None:
    titles = sorted(NODE_DISPLAY_NAME_MAPPINGS.values(), key=len, reverse=True)
    for bold in re.findall(r"\*\*(GLIDE [^*]+)\*\*", page(node_id)):
        assert any(bold in title for title in titles), bold


@pytest.mark.parametrize("node_id", NODES)
def test_no_link_leads_away_from_the_editor(node_id: str) -> None:
    """The panel opens a link in the editor's own tab, in the place of the workflow."""
    text = PICTURE.sub("", page(node_id))
    assert not re.search(r"\]\(|https?://|<a\s", text)


def test_a_changed_default_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    node = NODE_CLASS_MAPPINGS["GlideSampler"]
    types = node.INPUT_TYPES()
    types["required"]["steps"] = ("INT", {**types["required"]["steps"][1], "default": 31})
    monkeypatch.setattr(node, "INPUT_TYPES", classmethod(lambda cls: types))
    with pytest.raises(AssertionError, match="default 31"):
        test_the_inputs_table_agrees_with_the_node("GlideSampler")


def test_pages_and_pictures_are_in_the_wheel() -> None:
    pyproject = ROOT / "pyproject.toml"
    if not pyproject.exists():
        pytest.skip("pip does not install pyproject.toml: only a checkout has it")
    listed = re.search(r"^glide_pack = (\[.*\])$", pyproject.read_text(), re.MULTILINE)
    assert listed is not None
    packed = {file for pattern in json.loads(listed[1]) for file in ROOT.glob(pattern)}
    assert set(PAGES.rglob("*.*")) <= packed
