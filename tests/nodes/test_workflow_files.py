"""Every example workflow and every blueprint, read as ComfyUI's editor reads it; none is left out.

ComfyUI's built-in nodes are those in builtin_nodes.json (`python -m tools.builtin_nodes`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from glide_pack.nodes import NODE_CLASS_MAPPINGS
from glide_pack.nodes.host.standalone import ui_format
from glide_pack.nodes.host.standalone.schema import (
    InputSpec,
    NodeSchema,
    from_class,
    from_object_info,
)
from PIL import Image
from workflow_files import BLUEPRINTS, EXAMPLES, ROOT, load

FILES = [*EXAMPLES, *BLUEPRINTS]
RECORD = json.loads((Path(__file__).parent / "builtin_nodes.json").read_text())
SCHEMAS: dict[str, NodeSchema] = {
    **from_object_info({k: {**v, "display_name": k} for k, v in RECORD.items()}),
    **{name: from_class(name, node) for name, node in NODE_CLASS_MAPPINGS.items()},
}
UPLOADS = {name for name, node in RECORD.items() if "image_upload" in json.dumps(node)}
FILE_INPUTS = ("checkpoint", "text_checkpoint", "weights")  # their choices are what is on the disk

each_file = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


class Level(NamedTuple):
    """The workflow itself, or the inside of one of its subgraphs."""

    nodes: list[dict[str, Any]]
    links: list[tuple[Any, ...]]  # id, from node, slot, to node, slot, type
    inputs: list[dict[str, Any]]  # of a subgraph: what comes from outside
    outputs: list[dict[str, Any]]


def definitions(path: Path) -> dict[str, dict[str, Any]]:
    return {graph["id"]: graph for graph in load(path).get("definitions", {}).get("subgraphs", [])}


def levels(path: Path) -> Iterator[Level]:
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    for graph in (load(path), *definitions(path).values()):
        links = [
            tuple(link[key] for key in keys) if isinstance(link, dict) else tuple(link)
            for link in graph["links"]
        ]
        yield Level(graph["nodes"], links, graph.get("inputs", []), graph.get("outputs", []))


def ends(level: Level, link: tuple[Any, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The output slot where a link begins and the input slot where it ends."""
    nodes = {node["id"]: node for node in level.nodes}
    _, source, out, target, into, _ = link
    begin = level.inputs if source == ui_format.FROM_OUTSIDE else nodes[source]["outputs"]
    end = level.outputs if target == ui_format.TO_OUTSIDE else nodes[target]["inputs"]
    return begin[out], end[into]


def test_there_are_examples_to_check() -> None:
    assert len(EXAMPLES) >= 8


@each_file
def test_every_node_is_known(path: Path) -> None:
    inner = definitions(path)
    types = {node["type"] for level in levels(path) for node in level.nodes}
    unknown = types - SCHEMAS.keys() - inner.keys() - set(ui_format.NOTES)
    assert not unknown, "misspelt, or not recorded yet: run python -m tools.builtin_nodes"


@each_file
def test_links_join_slots_of_one_type_that_know_of_them(path: Path) -> None:
    for level in levels(path):
        assert len({link[0] for link in level.links}) == len(level.links)
        for link in level.links:
            begin, end = ends(level, link)
            assert begin["type"] == link[5] or "*" in (begin["type"], link[5]), link
            assert end["type"] == link[5] or "*" in (end["type"], link[5]), link
            assert link[0] in (begin.get("links") or begin.get("linkIds")), link
            assert link[0] in (end.get("linkIds") or [end.get("link")]), link


@each_file
def test_every_link_of_a_slot_exists(path: Path) -> None:
    for level in levels(path):
        there = {link[0] for link in level.links}
        for node in level.nodes:
            held = {slot["link"] for slot in node.get("inputs", []) if slot.get("link") is not None}
            held |= {link for slot in node.get("outputs", []) for link in slot.get("links") or ()}
            assert held <= there, node["id"]


@each_file
def test_ids_are_given_once_and_counted(path: Path) -> None:
    for level in levels(path):
        ids = [node["id"] for node in level.nodes]
        assert len(set(ids)) == len(ids)
    data = load(path)
    assert data["last_node_id"] >= max(node["id"] for level in levels(path) for node in level.nodes)
    assert data["last_link_id"] >= max(
        (link[0] for level in levels(path) for link in level.links), default=0
    )


@each_file
def test_slots_are_those_that_the_nodes_declare(path: Path) -> None:
    """Outputs in their order; inputs by name and type, and every required one connected."""
    outside = path in BLUEPRINTS  # a blueprint's own inputs are connected by its user
    for level in levels(path):
        for node in level.nodes:
            schema = SCHEMAS.get(node["type"])
            if schema is None:
                continue  # a note, or a subgraph: test_every_node_is_known, and the one below
            assert [slot["type"] for slot in node.get("outputs", [])] == list(schema.outputs)
            slots = {slot["name"]: slot for slot in node.get("inputs", [])}
            if node["type"] in UPLOADS:
                slots.pop("upload", None)  # the editor's button
            for name, slot in slots.items():
                spec = schema.input(name)
                assert spec is not None, (node["type"], name)
                assert slot["type"] == spec.type, (node["type"], name)
            for spec in schema.inputs:
                if spec.required and not spec.is_widget:
                    assert outside or slots[spec.name]["link"] is not None, (node["id"], spec.name)


@each_file
def test_a_subgraphs_node_has_the_slots_of_its_definition(path: Path) -> None:
    inner = definitions(path)
    for level in levels(path):
        for node in level.nodes:
            graph = inner.get(node["type"])
            if graph is None:
                continue
            for side in ("inputs", "outputs"):
                outer = [(slot["name"], slot["type"]) for slot in node.get(side, [])]
                assert outer == [(slot["name"], slot["type"]) for slot in graph[side]]


@each_file
def test_every_node_has_a_good_value_for_every_widget(path: Path) -> None:
    for level in levels(path):
        for node in level.nodes:
            schema = SCHEMAS.get(node["type"])
            if schema is None:
                continue
            values = iter(node.get("widgets_values") or [])
            for spec in schema.widgets:
                value = next(values)
                assert is_good(spec, value), (node["id"], node["type"], spec.name, value)
                if spec.has_control:
                    assert next(values) in ("fixed", "increment", "decrement", "randomize")
            if node["type"] in UPLOADS:
                assert next(values) == "image"  # the same button
            assert list(values) == [], (node["id"], node["type"])


def is_good(spec: InputSpec, value: Any) -> bool:
    """Return whether ComfyUI accepts it; choices of built-in nodes are not recorded."""
    if spec.type == "COMBO":
        known = spec.choices if spec.name not in FILE_INPUTS else None
        return isinstance(value, (str, bool)) and (not known or value in known)
    kinds = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
    if not isinstance(value, kinds[spec.type]) or (spec.type != "BOOLEAN" and value is True):
        return False
    if spec.type not in ("INT", "FLOAT"):
        return True
    low, high = spec.options.get("min", value), spec.options.get("max", value)
    return bool(low <= value <= high)


@each_file
def test_it_converts_to_a_complete_api_graph(path: Path) -> None:
    """Subgraphs and all, as `glide run` and ComfyUI's frontend make a prompt of it."""
    graph = ui_format.read(load(path), SCHEMAS)
    assert graph.nodes
    assert not {node.label: node.cut for node in graph.nodes.values() if node.cut}
    assert graph.order(graph.nodes)  # and runs in no circle


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_saves_or_shows_something_and_says_what_it_is_about(path: Path) -> None:
    graph = ui_format.read(load(path), SCHEMAS)
    assert any(SCHEMAS[node.class_type].output_node for node in graph.nodes.values())
    notes = [
        node for level in levels(path) for node in level.nodes if node["type"] == "MarkdownNote"
    ]
    assert notes and all(len(note["widgets_values"][0]) > 100 for note in notes)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_has_a_thumbnail(path: Path) -> None:
    thumbnail = path.with_suffix(".jpg")
    with Image.open(thumbnail) as image:
        assert image.format == "JPEG"
        image.load()
        assert min(image.size) >= 200
        assert max(image.size) <= 2048
    assert thumbnail.stat().st_size < 400_000


def test_every_thumbnail_belongs_to_a_workflow() -> None:
    thumbnails = {path.stem for path in (ROOT / "example_workflows").glob("*.jpg")}
    assert thumbnails == {path.stem for path in EXAMPLES}


def test_every_file_in_the_folders_is_checked() -> None:
    kinds = {path.suffix for path in (ROOT / "example_workflows").iterdir() if path.is_file()}
    assert kinds == {".json", ".jpg"}
    blueprints = {path.suffix for path in (ROOT / "subgraphs").glob("**/*") if path.is_file()}
    assert blueprints <= {".json"}


@pytest.mark.parametrize("path", BLUEPRINTS, ids=[path.stem for path in BLUEPRINTS])
def test_a_blueprint_is_one_node_with_a_name_and_something_to_connect(path: Path) -> None:
    inner = definitions(path)
    (node,) = load(path)["nodes"]
    graph = inner[node["type"]]
    assert graph["name"] == path.stem
    assert path.stem.startswith("GLIDE ")
    assert graph["outputs"]


@pytest.mark.parametrize("name", sorted(NODE_CLASS_MAPPINGS))
def test_every_node_of_ours_is_in_an_example(name: str) -> None:
    used = {node["type"] for path in EXAMPLES for level in levels(path) for node in level.nodes}
    assert name in used
