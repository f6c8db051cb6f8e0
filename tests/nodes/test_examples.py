"""Every example workflow: run by `glide run`, or sent to ComfyUI; laid out to be read.

That the files are well formed is in test_workflow_files.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from glide_pack.nodes import NODE_CLASS_MAPPINGS
from glide_pack.nodes.host.standalone.execute import Place, schemas
from glide_pack.nodes.host.standalone.ui_format import NOTES
from images_on_disk import png_text
from PIL import Image
from workflow_files import EXAMPLES, load

from glide_core.cli import main

NAMES = [path.stem for path in EXAMPLES]
TINY = {  # what stands in for the bundled models here
    "bundled/base.safetensors": "tiny_base.safetensors",
    "bundled/inpaint.safetensors": "tiny_inpaint.safetensors",
    "bundled/upsampler.safetensors": "tiny_upsampler.safetensors",
    "bundled/upsampler_inpaint.safetensors": "tiny_upsampler_inpaint.safetensors",
    "bundled/clip.safetensors": "tiny_clip.safetensors",
}
SIZES = {  # of an example's final images
    "glide_clip_guided": [(256, 256)],
    "glide_inpaint": [(256, 256)],
    "glide_text_to_image": [(256, 256)],
    "glide_upscale": [(256, 256), (256, 256), (64, 64)],
}


def foreign_types(path: Path) -> set[str]:
    """Nodes that only ComfyUI has."""
    known = schemas(NODE_CLASS_MAPPINGS, {}, Place((), Path())).keys() | set(NOTES)
    return {node["type"] for node in load(path)["nodes"]} - known


def needs_download(path: Path) -> bool:
    return any(node.get("properties", {}).get("models") for node in load(path)["nodes"])


HERE = [path for path in EXAMPLES if not foreign_types(path) and not needs_download(path)]
ELSEWHERE = [path for path in EXAMPLES if foreign_types(path)]


@pytest.mark.parametrize("path", HERE, ids=[path.stem for path in HERE])
def test_it_runs_here_and_writes_its_images_with_the_workflow_inside(
    path: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workflow = load(path)
    options = [word for change in made_tiny(workflow) for word in ("--set", change)]
    assert main(["run", str(path), "--out", str(tmp_path), "--quiet", *options]) == 0
    written = sorted(tmp_path.iterdir())
    assert sorted(capsys.readouterr().out.split("\n")) == ["", *map(str, written)]
    prefixes = [
        node["widgets_values"][0] if node["type"] == "SaveImage" else "preview"
        for node in workflow["nodes"]
        if node["type"] in ("SaveImage", "PreviewImage")
    ]
    assert prefixes
    assert {file.name.rsplit("_", 2)[0] for file in written} == set(prefixes)
    sizes = [Image.open(file).size for file in written]
    if path.stem in SIZES:
        assert sizes == SIZES[path.stem]
    text = png_text(written[0])
    assert json.loads(text["workflow"]) == workflow
    assert any(n["class_type"] == "SaveImage" for n in json.loads(text["prompt"]).values())


@pytest.mark.parametrize("path", ELSEWHERE, ids=[path.stem for path in ELSEWHERE])
def test_a_workflow_with_other_nodes_is_referred_to_a_server(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = foreign_types(path)
    assert main(["run", str(path), "--out", str(tmp_path), "--quiet"]) == 1
    stderr = capsys.readouterr().err
    assert all(f"is of type {name}" in stderr for name in foreign)
    assert "--server URL" in stderr
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_to_download_is_named_before_anything_runs(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = (path for path in EXAMPLES if path.stem == "glide_openai_checkpoints")
    assert main(["run", str(path), "--out", str(tmp_path), "--quiet"]) == 1
    said = capsys.readouterr().err
    assert "Model file 'base.pt' was" in said and "Model file 'upsample.pt' was" in said
    assert list(tmp_path.iterdir()) == []


def made_tiny(workflow: dict[str, Any]) -> list[str]:
    """Changes that make an example quick: tiny models in place of the bundled ones, few steps."""
    changes = []
    for node in workflow["nodes"]:
        values = node.get("widgets_values") or []
        if values and values[0] in TINY:
            changes.append(f"{node['id']}.checkpoint={TINY[values[0]]}")
        if node["type"] == "GlideSampler":
            changes.append(f"{node['id']}.preset=custom")
        if node["type"] in ("GlideSampler", "GlideInpaint", "GlideEdit", "GlideUpsample"):
            changes.append(f"{node['id']}.steps=2")
        if node["type"] in ("GlideInpaint", "GlideEdit"):
            changes.append(f"{node['id']}.upsample_steps=1")
        if node["type"] == "GlideGuidanceSweep":
            changes += [f"{node['id']}.{change}" for change in ("steps=2", "images=1")]
    return changes


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


def test_no_example_needs_a_file_that_is_not_there() -> None:
    """Every loaded file ships with the pack, or its node says where it can be downloaded."""
    for path in EXAMPLES:
        for node in load(path)["nodes"]:
            assert node["type"] not in ("LoadImage", "LoadImageMask"), path.stem
            if "Loader" not in node["type"]:
                continue
            models = node["properties"].get("models", [])
            known = {model["name"] for model in models}
            for value in node["widgets_values"]:
                if str(value).endswith((".pt", ".safetensors")):
                    assert value.startswith("bundled/") or value in known, (path.stem, value)
            for model in models:
                assert model["url"].startswith("https://") and model["url"].endswith(model["name"])
                assert model["directory"] in ("glide", "checkpoints")


def test_files_are_found_by_searching_for_glide_and_written_by_their_script() -> None:
    from tools.templates import files

    assert all(path.stem.startswith("glide_") for path in EXAMPLES)
    written = files()
    assert set(written) == set(EXAMPLES)
    for path, content in written.items():
        how = "run `python -m tools.templates`"
        assert json.loads(content) == load(path), how


def test_notes_have_three_lines_at_most_and_the_graph_opens_at_a_readable_size() -> None:
    """ComfyUI fits a template into the window; below a zoom of about 0.57 it hides all text."""
    for path in EXAMPLES:
        nodes = load(path)["nodes"]
        (note,) = [node for node in nodes if node["type"] == "MarkdownNote"]
        heading, *lines = note["widgets_values"][0].split("\n\n")
        assert heading.startswith("## ") and 1 <= len(lines) <= 3, path.stem
        right = max(node["pos"][0] + node["size"][0] for node in nodes)
        bottom = max(node["pos"][1] + node["size"][1] for node in nodes)
        most = 1700 if path.stem == "glide_prompt_by_prompt" else 1600  # of 29 nodes
        assert right <= 2400 and bottom <= most, (path.stem, right, bottom)


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
