"""The blueprints in subgraphs/ on a real server: known to it, unfolded, run by the bundled models.

That the files are well formed is in nodes/test_workflow_files.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from glide_pack.nodes.host.standalone import workflow
from glide_pack.nodes.host.standalone.schema import from_object_info
from PIL import Image, ImageDraw
from workflow_files import BLUEPRINTS, load

each_blueprint = pytest.mark.parametrize("path", BLUEPRINTS, ids=[p.stem for p in BLUEPRINTS])
PHOTO, MASK = "blueprint.png", "blueprint_mask.png"
SIZES = {
    "GLIDE text to image 256": (256, 256),
    "GLIDE inpaint image 256": (96, 80),
    "GLIDE edit image 256": (320, 256),
}


def used(path: Path, **widgets: Any) -> dict[str, Any]:
    """A workflow of the blueprint's one node, with what it asks for connected and saved."""
    data = load(path)
    (outer,) = data["nodes"]
    names = [slot["name"] for slot in outer["inputs"] if "widget" in slot]
    for name, value in widgets.items():
        outer["widgets_values"][names.index(name)] = value
    loaders = {"IMAGE": ("LoadImage", [PHOTO]), "MASK": ("LoadImageMask", [MASK, "red"])}
    for number, slot in enumerate(outer["inputs"]):
        if slot["type"] in loaders:
            kind, values = loaders[slot["type"]]
            slot["link"] = key = 1000 + number
            data["nodes"].append({"id": key, "type": kind, "widgets_values": values})
            data["links"].append([key, key, 0, outer["id"], number, slot["type"]])
    save = {"name": "images", "type": "IMAGE", "link": 2000}
    values = [path.stem]
    data["nodes"].append(
        {"id": 2000, "type": "SaveImage", "inputs": [save], "widgets_values": values}
    )
    data["links"].append([2000, outer["id"], 0, 2000, 0, "IMAGE"])
    return data


@pytest.fixture(scope="module")
def schemas(server: Any) -> Any:
    return from_object_info(server.get("/object_info"))


@pytest.fixture(scope="module")
def input_images(server: Any) -> None:
    folder = server.checkpoints.base_directory / "input"
    Image.new("RGB", (96, 80), (80, 170, 90)).save(folder / PHOTO)
    mask = Image.new("RGB", (96, 80))
    ImageDraw.Draw(mask).rectangle((30, 20, 70, 60), fill=(255, 255, 255))
    mask.save(folder / MASK)


def test_there_is_a_blueprint_for_each_of_the_three_jobs() -> None:
    assert {path.stem for path in BLUEPRINTS} == set(SIZES)


@each_blueprint
def test_the_server_knows_every_inner_node_and_its_widgets(path: Path, schemas: Any) -> None:
    (graph,) = load(path)["definitions"]["subgraphs"]
    for node in graph["nodes"]:
        schema = schemas[node["type"]]
        count = sum(2 if spec.has_control else 1 for spec in schema.widgets)
        assert len(node["widgets_values"]) == count, node["type"]
        assert [slot["type"] for slot in node["outputs"]] == list(schema.outputs)
        for slot in node["inputs"]:
            assert schema.input(slot["name"]).type == slot["type"]


@each_blueprint
def test_what_it_offers_reaches_the_nodes_inside(path: Path, schemas: Any) -> None:
    values = {"prompt": "an owl", "negative_prompt": "a bee", "seed": 77, "steps": 3, "cfg": 1.5}
    graph = workflow.read(used(path, **values), schemas)
    inside = [node for node in graph.nodes.values() if ":" in node.id]
    texts = [node.inputs["text"] for node in inside if node.class_type == "GlideTextEncode"]
    assert sorted(texts) == ["a bee", "an owl"]
    seeds = {node.inputs["seed"] for node in inside if "seed" in node.inputs}
    assert seeds == {77}
    sampled = [
        node for node in inside if node.inputs.get("sampler_name") and "steps" in node.inputs
    ]
    assert any(node.inputs["steps"] == 3 and node.inputs["cfg"] == 1.5 for node in sampled)


@pytest.mark.bundled
@pytest.mark.usefixtures("input_images")
@each_blueprint
def test_it_samples_with_the_bundled_models(path: Path, server: Any, schemas: Any) -> None:
    graph = workflow.read(used(path, steps=2), schemas)
    prompt = graph.to_api()
    for node in prompt.values():
        if node["class_type"] == "GlideUpsample":
            node["inputs"]["steps"] = 1
        if "upsample_steps" in node["inputs"]:
            node["inputs"]["upsample_steps"] = 1
    run = server.run(prompt)
    assert run.end == "execution_success", run.events[-1]
    (saved,) = [data["output"] for data in run.of("executed") if data["node"] == "2000"]
    (image,) = saved["images"]
    output = server.checkpoints.base_directory / "output" / image["filename"]
    assert Image.open(output).size == SIZES[path.stem]
