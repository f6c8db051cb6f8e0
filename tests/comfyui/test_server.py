"""The pack in a running ComfyUI server: every node, events, interruption, help and templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from comfyui.every_node import graph
from PIL import Image

from tools.comfyui import REPOSITORY

NODES = [
    "GlideClipGuidance",
    "GlideClipLoader",
    "GlideClipScore",
    "GlideEdit",
    "GlideEmptyLatent",
    "GlideGuidanceSweep",
    "GlideInpaint",
    "GlideInpaintConditioning",
    "GlideLoader",
    "GlideOpenClipLoader",
    "GlideSampler",
    "GlideTextEncode",
    "GlideUpsample",
    "GlideUpsampleConditioning",
    "GlideUpsamplerLoader",
]


@pytest.mark.usefixtures("photo")
def test_every_node_runs(server: Any) -> None:
    prompt = graph()
    used = {node["class_type"] for node in prompt.values()}
    assert set(NODES) - used == {"GlideOpenClipLoader"}  # needs weights that are not ours
    run = server.run(prompt)
    assert run.end == "execution_success", run.events[-1]
    folder = server.checkpoints.base_directory / "output"
    sizes = {
        name: Image.open(folder / run.outputs[f"save_{name}"]["images"][0]["filename"]).size
        for name in ("sampled", "upsampled", "shown", "inpainted", "decoded", "edited")
    }
    assert sizes["sampled"] == sizes["decoded"] == (64, 64)
    assert sizes["upsampled"] == sizes["shown"] == (128, 128)
    assert sizes["inpainted"] == (96, 80)
    assert "image" in run.outputs["scored"]["text"][0]
    assert run.outputs["swept"]["text"][0].count("ddpm") == 4  # a row for each cell


def sampling(**changes: Any) -> dict[str, Any]:
    """A prompt that only samples, with GlideSampler's inputs changed."""
    prompt = graph()
    keep = ("base", "positive", "negative", "empty", "sampled", "save_sampled")
    prompt = {name: prompt[name] for name in keep}
    prompt["sampled"]["inputs"] |= {"model": ["base", 0], **changes}
    return prompt


def test_each_step_reports_and_shows_a_preview(server: Any) -> None:
    run = server.run(sampling(steps=5, seed=11))
    steps = [(data["value"], data["max"]) for data in run.of("progress")]
    assert steps == [(n, 5) for n in range(1, 6)]
    assert run.previews >= 5


@pytest.mark.parametrize("node", ["GlideSampler", "KSampler"])
def test_interrupt_stops_within_a_step(server: Any, node: str) -> None:
    prompt = sampling(steps=200, seed=12)
    if node == "KSampler":
        inputs = prompt["sampled"]["inputs"]
        inputs |= {"scheduler": "normal", "denoise": 1.0}
        prompt["sampled"]["class_type"] = node
        prompt["decoded"] = graph()["decoded"]
        prompt["decoded"]["inputs"]["samples"] = ["sampled", 0]
        prompt["save_sampled"]["inputs"]["images"] = ["decoded", 0]
    run = server.run(prompt, interrupt_at=3)
    assert run.end == "execution_interrupted"
    assert run.of("progress")[-1]["value"] <= 6  # the request itself takes a step or two
    assert server.run(sampling(steps=1, seed=13)).end == "execution_success"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "smaller than min"),
        ({"steps": 1001}, "bigger than max"),
        ({"cfg": -1.0}, "smaller than min"),
        ({"cfg_sigma_max": 200000.0}, "bigger than max"),
        ({"sampler_name": "no such"}, "Unknown sampler 'no such'"),
    ],
)
def test_ranges_are_checked_before_the_run(
    server: Any, changes: dict[str, Any], words: str
) -> None:
    run = server.run(sampling(**changes))
    assert run.end == "refused"
    assert words in json.dumps(run.events[-1][1])


def test_a_wrong_respacing_is_refused_before_the_run(server: Any) -> None:
    run = server.run(sampling(respacing="ten"))
    assert run.end == "refused"
    assert "respacing 'ten'" in json.dumps(run.events[-1][1])


def test_a_missing_checkpoint_is_named_before_the_run(server: Any) -> None:
    prompt = sampling()
    prompt["base"]["inputs"]["checkpoint"] = "gone.safetensors"
    run = server.run(prompt)
    assert run.end == "refused"
    assert "gone.safetensors" in json.dumps(run.events[-1][1])


def test_a_file_of_the_wrong_kind_is_an_error_of_its_loader(server: Any) -> None:
    """Not of the validation, which the interface reports as a model to download."""
    prompt = sampling()
    prompt["base"]["inputs"]["checkpoint"] = "upsampler.safetensors"
    run = server.run(prompt)
    assert run.end == "execution_error"
    said = run.events[-1][1]["exception_message"]
    assert "upsampler.safetensors is GLIDE's upsampler model" in said
    assert "GLIDE Upsampler Loader" in said


def test_the_upsampler_in_the_base_s_place_is_explained(server: Any) -> None:
    prompt = sampling()
    prompt["up"] = graph()["up"]
    prompt["sampled"]["inputs"]["model"] = ["up", 0]
    run = server.run(prompt)
    assert run.end == "execution_error"
    message = run.events[-1][1]["exception_message"]
    assert "upsampler" in message and "GLIDE Loader" in message


def test_the_node_list_has_every_node_with_help(server: Any) -> None:
    info = server.get("/object_info")
    ours = sorted(
        name for name, node in info.items() if "custom_nodes.glide" in node["python_module"]
    )
    assert ours == NODES
    for name in ours:
        assert info[name]["description"] and info[name]["category"].startswith("GLIDE/")
        page = server.get(f"/extensions/glide/docs/{name}.md")
        assert page.startswith("#") and "## Inputs" in page and "## Outputs" in page


def test_help_pages_name_every_input_and_output(server: Any) -> None:
    info = server.get("/object_info")
    for name in NODES:
        page = (REPOSITORY / "web" / "docs" / f"{name}.md").read_text()
        inputs = [key for group in info[name]["input"].values() for key in group]
        missing = [key for key in inputs if f"`{key}`" not in page]
        assert not missing, f"{name}: {missing}"
        for output in info[name]["output_name"]:
            assert f"`{output}`" in page, f"{name}: output {output}"


def test_example_workflows_are_offered_as_templates(server: Any) -> None:
    offered = server.get("/workflow_templates")["glide"]
    files = sorted(path.stem for path in Path(REPOSITORY / "example_workflows").glob("*.json"))
    assert sorted(offered) == files
    for name in files:
        workflow = server.get(f"/api/workflow_templates/glide/{name}.json")
        assert workflow["nodes"]


def test_the_interface_gets_the_node_texts_in_every_language(server: Any) -> None:
    served = server.get("/i18n")
    for folder in Path(REPOSITORY / "locales").iterdir():
        nodes = json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8"))
        assert sorted(nodes) == NODES
        assert {name: served[folder.name]["nodeDefs"][name] for name in NODES} == nodes
        own = json.loads((folder / "main.json").read_text(encoding="utf-8"))["nodeCategories"]
        assert own.items() <= served[folder.name]["nodeCategories"].items()
