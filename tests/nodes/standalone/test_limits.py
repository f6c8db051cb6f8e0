"""Workflows that are too large, nested too deep, or that no file can hold are refused at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from glide_pack.nodes.host.standalone import workflow
from glide_pack.nodes.host.standalone.graph import MAX_NODES

from glide_core.cli import main
from glide_core.errors import GlideError


def node(key: int, kind: str, link: int | None = None) -> dict[str, Any]:
    return {
        "id": key,
        "type": kind,
        "inputs": [{"name": "images", "type": "IMAGE", "link": link}],
        "outputs": [{"name": "IMAGE", "type": "IMAGE"}],
    }


def nested(levels: int, each: int) -> dict[str, Any]:
    """Every subgraph holds `each` uses of the next one."""
    graphs = [
        {"id": f"g{level}", "nodes": [node(i, f"g{level + 1}") for i in range(each)], "links": []}
        for level in range(levels)
    ]
    return {"nodes": [node(1, "g0")], "links": [], "definitions": {"subgraphs": graphs}}


@pytest.mark.parametrize(
    ("levels", "each", "words"),
    [
        (19, 3, "is nested more than 12 deep"),
        (12, 3, f"more than {MAX_NODES} nodes"),
        (19, 1, "is nested more than 12 deep"),
        (2, 3000, f"more than {MAX_NODES} nodes"),
    ],
)
def test_nested_subgraphs_that_unfold_into_too_much_are_refused(
    levels: int, each: int, words: str
) -> None:
    with pytest.raises(GlideError, match=words):
        workflow.read(nested(levels, each), {})


def test_a_subgraph_that_contains_itself_is_refused() -> None:
    data = nested(1, 1)
    data["definitions"]["subgraphs"][0]["nodes"][0]["type"] = "g0"
    with pytest.raises(GlideError, match="contains itself"):
        workflow.read(data, {})


def reroutes(count: int, *, closed: bool) -> dict[str, Any]:
    """`count` reroutes in a row behind a SaveImage; closed: the first follows the last."""
    nodes = [node(i, "Reroute", i if i > 1 or closed else None) for i in range(1, count + 1)]
    links = [[i, i - 1, 0, i, 0, "IMAGE"] for i in range(2, count + 1)]
    links.append([1, count, 0, 1, 0, "IMAGE"])
    links.append([count + 1, count, 0, count + 1, 0, "IMAGE"])
    return {"nodes": [*nodes, node(count + 1, "SaveImage", count + 1)], "links": links}


@pytest.mark.parametrize("count", [2, 600, MAX_NODES - 1])
@pytest.mark.parametrize("closed", [True, False])
def test_reroutes_are_followed_without_recursion(count: int, closed: bool) -> None:
    graph = workflow.read(reroutes(count, closed=closed), {})
    (save,) = graph.nodes.values()
    words = "reroutes form a cycle" if closed else "has nothing connected to pass on"
    assert words in save.cut["images"]


def test_a_long_chain_of_nodes_is_ordered_without_recursion() -> None:
    count = MAX_NODES
    nodes = {
        str(i): {"class_type": "Filter", "inputs": {"image": [str(i - 1), 0]} if i else {}}
        for i in range(count)
    }
    graph = workflow.read(nodes, {})
    assert graph.order([str(count - 1)]) == [str(i) for i in range(count)]


@pytest.mark.parametrize(
    "data",
    [
        {"1": {"class_type": "Save\ud800", "inputs": {}}},
        {"1": {"class_type": "Save", "inputs": {"\udfff": 1}}},
        {"nodes": [{**node(1, "SaveImage"), "widgets_values": ["\ud800"]}], "links": []},
    ],
)
def test_text_that_cannot_be_encoded_is_refused(data: Any) -> None:
    with pytest.raises(GlideError, match="not Unicode"):
        workflow.read(data, {})


def test_deep_json_is_refused(tmp_path: Path) -> None:
    for depth, brackets in ((workflow.MAX_DEPTH + 1, "[]"), (100_000, "[]")):
        path = tmp_path / "deep.json"
        path.write_text(brackets[0] * depth + brackets[1] * depth)
        with pytest.raises(GlideError, match=r"nested more than|cannot be read as JSON"):
            workflow.load_json(path)


def test_only_regular_files_of_a_sensible_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(GlideError, match="not a regular file"):
            workflow.load_json(path)
    large = tmp_path / "large.json"
    large.write_text(json.dumps({"nodes": ["x" * 100]}))
    monkeypatch.setattr(workflow, "MAX_BYTES", 50)
    with pytest.raises(GlideError, match="larger than"):
        workflow.load_json(large)


def test_messages_stay_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.json"
    inputs = {"seed": "x" * 100_000, "steps": ["y" * 1000] * 50}
    nodes = {
        f"{'n' * 9000}{i}": {"class_type": "GlideSampler", "inputs": inputs} for i in range(90)
    }
    nodes["s"] = {"class_type": "Nope" * 1000, "inputs": {}}
    for data in (nodes, {**nodes, "s": {"class_type": "SaveImage", "inputs": {}}}):
        path.write_text(json.dumps(data))
        assert main(["run", str(path), "--out", str(tmp_path / "out")]) == 1
        assert len(capsys.readouterr().err) < 6000
