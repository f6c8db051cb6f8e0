"""Every example workflow: well formed for ComfyUI's editor, and run by `glide run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from glide_pack.nodes import NODE_CLASS_MAPPINGS
from glide_pack.nodes.host.execute import Place, schemas
from PIL import Image

from glide_core import png
from glide_core.cli import main

FOLDER = Path(__file__).parents[2] / "example_workflows"
EXAMPLES = sorted(FOLDER.glob("*.json"))
NAMES = [path.stem for path in EXAMPLES]
TINY = {  # what stands in for the bundled models here
    "bundled/base.safetensors": "tiny_base.safetensors",
    "bundled/inpaint.safetensors": "tiny_inpaint.safetensors",
    "bundled/upsampler.safetensors": "tiny_upsampler.safetensors",
    "bundled/upsampler_inpaint.safetensors": "tiny_upsampler_inpaint.safetensors",
    "bundled/clip.safetensors": "tiny_clip.safetensors",
}


def load(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_it_runs_here_and_writes_its_pictures_with_the_workflow_inside(
    path: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workflow = load(path)
    changes = []
    for node in workflow["nodes"]:
        values = node.get("widgets_values") or []
        if values and values[0] in TINY:
            changes.append(f"{node['id']}.checkpoint={TINY[values[0]]}")
        if node["type"] in ("GlideSampler", "GlideInpaint", "GlideEdit", "GlideUpsample"):
            changes.append(f"{node['id']}.steps=2")
        if node["type"] in ("GlideInpaint", "GlideEdit"):
            changes.append(f"{node['id']}.upsample_steps=1")
        if node["type"] == "GlideGuidanceSweep":
            changes += [f"{node['id']}.{change}" for change in ("steps=2", "pictures=1")]
    options = [word for change in changes for word in ("--set", change)]
    assert main(["run", str(path), "--out", str(tmp_path), "--quiet", *options]) == 0
    written = sorted(tmp_path.iterdir())
    assert sorted(capsys.readouterr().out.split("\n")) == ["", *map(str, written)]
    if path.stem == "guidance_sweep":
        assert [file.name for file in written] == ["sweep_grid_00001_.png", "sweep_plot_00001_.png"]
    else:
        size = (480, 320) if path.stem == "inpaint" else (256, 256)
        assert [Image.open(file).size for file in written] == [size]
    text = png.read_text(written[0])
    assert json.loads(text["workflow"]) == workflow
    assert any(n["class_type"] == "SaveImage" for n in json.loads(text["prompt"]).values())


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_links_join_slots_of_one_type_at_both_ends(path: Path) -> None:
    workflow = load(path)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    for link, source, out, target, into, kind in workflow["links"]:
        assert nodes[source]["outputs"][out]["type"] == kind
        assert link in nodes[source]["outputs"][out]["links"]
        assert nodes[target]["inputs"][into]["type"] == kind
        assert nodes[target]["inputs"][into]["link"] == link
    assert workflow["last_node_id"] == max(nodes)
    assert workflow["last_link_id"] == max(link[0] for link in workflow["links"])


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_every_node_has_a_value_for_every_widget(path: Path) -> None:
    known = schemas(NODE_CLASS_MAPPINGS, {}, Place((), Path()))
    for node in load(path)["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        widgets = known[node["type"]].widgets
        expected = sum(2 if spec.has_control else 1 for spec in widgets)
        expected += node["type"] in ("LoadImage", "LoadImageMask")  # the editor's upload button
        assert len(node["widgets_values"]) == expected, node["type"]


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_nodes_do_not_cover_each_other(path: Path) -> None:
    title = 30
    boxes = [
        (x, y - title, x + w, y + h)
        for node in load(path)["nodes"]
        for (x, y), (w, h) in [(node["pos"], node["size"])]
    ]
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)


def test_pictures_that_the_examples_load_are_beside_them() -> None:
    for path in EXAMPLES:
        for node in load(path)["nodes"]:
            if node["type"] in ("LoadImage", "LoadImageMask"):
                assert (FOLDER / "inputs" / node["widgets_values"][0]).is_file()


def test_the_examples_name_only_models_that_ship() -> None:
    from glide_core.checkpoints.catalog import ENTRIES

    shipped = {f"bundled/{entry.filename}" for entry in ENTRIES if entry.bundled}
    used = {
        value
        for path in EXAMPLES
        for node in load(path)["nodes"]
        for value in node.get("widgets_values") or []
        if isinstance(value, str) and value.startswith("bundled/")
    }
    assert used == shipped
