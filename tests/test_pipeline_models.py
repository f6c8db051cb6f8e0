"""The pipeline's models: where they come from, LoRA, moving, and the settings they bring."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAST, ONE

from glide_core import GlideError, GlidePipeline
from glide_core.cli import main
from glide_core.components import INDEX
from glide_core.config import BASE, UPSAMPLER, SamplerConfig


def test_a_saved_folder_loads_to_the_same_images(pipe: GlidePipeline, tmp_path: Path) -> None:
    expected = pipe("a cat", seed=1, **ONE).images
    folder = pipe.save_pretrained(tmp_path / "mine")
    index = json.loads((folder / INDEX).read_text())
    assert index["_class_name"] == "GlidePipeline" and index["base"] == "base.safetensors"
    again = GlidePipeline.from_pretrained(folder, device="cpu")
    assert (again("a cat", seed=1, **ONE).images == expected).all()
    assert again.components.keys() == pipe.components.keys() and len(again.components) == 5
    with pytest.raises(GlideError, match="not overwritten"):
        pipe.save_pretrained(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"_class_name": "X"}', '{"base": "../x"}'])
def test_a_broken_index_is_one_error(content: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(GlideError, match="cannot be used"):
        GlidePipeline.from_pretrained(tmp_path)


def test_models_can_be_named_by_file_or_role(tiny_models: Path) -> None:
    base = tiny_models / "tiny_base.safetensors"
    pipe = GlidePipeline.from_pretrained(base, device="cpu")
    assert pipe("a cat", **ONE).images.shape == (1, 64, 64, 3)
    with pytest.raises(GlideError, match="no model for 'upsampler'"):
        pipe("a cat", **FAST)
    upsampler = tiny_models / "tiny_upsampler.safetensors"
    both = GlidePipeline.from_pretrained(base, upsampler=upsampler, device="cpu")
    assert both("a cat", **FAST).images[0].size == (256, 256)
    assert GlidePipeline(**pipe.components, device="cpu")("a", **ONE).images.shape[0] == 1
    with pytest.raises(TypeError, match="vae"):
        GlidePipeline.from_pretrained(base, vae="x")  # type: ignore[call-arg]
    with pytest.raises(GlideError, match="glide models download openai-base"):
        GlidePipeline.from_pretrained("openai")


def test_a_lora_is_merged_and_removed_bit_for_bit(pipe: GlidePipeline, tiny_lora: Path) -> None:
    before = pipe("a cat", seed=1, **ONE).images
    pipe.load_lora_weights(tiny_lora, 0.5)
    pipe.load_lora_weights(tiny_lora, 0.5)
    assert (pipe("a cat", seed=1, **ONE).images != before).any()
    pipe.unload_lora_weights()
    assert (pipe("a cat", seed=1, **ONE).images == before).all()


def test_offloading_and_moving_keep_the_images(pipe: GlidePipeline) -> None:
    before = pipe("a cat", seed=1, **ONE).images
    pipe.enable_model_cpu_offload("cpu")
    assert (pipe("a cat", seed=1, **ONE).images == before).all()
    assert pipe.to("cpu").device == torch.device("cpu")
    pipe.to(torch.bfloat16)
    assert pipe.dtype == torch.bfloat16
    assert np.abs(pipe("a cat", seed=1, **ONE).images - before).mean() < 0.05


def test_a_merged_lora_is_a_model_of_its_own_and_overwrites_nothing(
    tiny_models: Path, tiny_lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, target = tiny_models / "tiny_base.safetensors", tmp_path / "merged.safetensors"
    words = ["models", "merge", str(base), str(tiny_lora), str(target), "--strength", "0.5"]
    assert main(words) == 0
    merged = GlidePipeline.from_pretrained(target, device="cpu")("a cat", seed=1, **ONE).images
    pipe = GlidePipeline.from_pretrained(base, device="cpu")
    plain = pipe("a cat", seed=1, **ONE).images
    pipe.load_lora_weights(tiny_lora, 0.5)
    # the file stores float16
    assert np.abs(pipe("a cat", seed=1, **ONE).images - merged).max() < 0.02
    assert np.abs(plain - merged).max() > 0.02
    assert main(words) == 1
    assert "not overwritten" in capsys.readouterr().err


def test_a_model_of_temperature_0_starts_without_noise(pipe: GlidePipeline) -> None:
    model = pipe.components["base"]
    model.config = replace(model.config, temperature=0.0)
    images = pipe("a fox", seed=1, num_images_per_prompt=2, **ONE).images
    assert np.abs(images[0] - images[1]).max() < 1e-5


def test_a_model_brings_its_own_guidance_scale(pipe: GlidePipeline) -> None:
    options = {**ONE, "prompt": "a fox", "seed": 1}
    three = pipe(**options, guidance_scale=3.0).images
    assert (pipe(**options).images == three).all()
    model = pipe.components["base"]
    model.config = replace(model.config, guidance_scale=1.5)
    found = pipe(**options)
    assert (found.images == pipe(**options, guidance_scale=1.5).images).all()
    assert (found.images != three).any()
    assert found.requests[0].metadata()["guidance_scale"] == 1.5


def test_a_model_brings_its_own_sampler(pipe: GlidePipeline) -> None:
    model = pipe.components["base"]
    model.config = replace(model.config, sampler="ddpm")
    options: Any = {**ONE, "prompt": "a fox", "seed": 2}
    found = pipe(**options)
    assert (found.images == pipe(**options, sampler="ddpm").images).all()
    assert (found.images != pipe(**options, sampler="ddim").images).any()
    assert found.requests[0].metadata()["sampler"] == "ddpm"
    assert SamplerConfig(eta=0.5).for_model(model.config).sampler == "ddim"  # ddpm has no eta


def test_a_model_brings_its_own_number_of_steps(pipe: GlidePipeline) -> None:
    assert SamplerConfig().for_model(BASE).steps == 30
    assert SamplerConfig().for_model(UPSAMPLER).respacing == "fast27"  # the paper's uneven spacing
    given = SamplerConfig(respacing="10").for_model(UPSAMPLER)
    assert (given.respacing, given.steps) == ("10", None)
    options: Any = {"prompt": "a fox", "seed": 3, "output_type": "np"}
    wanted = pipe(num_inference_steps=3, upsample_steps=2, **options).images
    for role, steps in (("base", 3), ("upsampler", 2)):
        model = pipe.components[role]
        model.config = replace(model.config, steps=steps)
    found = pipe(**options)
    assert (found.images == wanted).all()
    kept = found.requests[0].metadata()
    assert (kept["steps"], kept["upsample_steps"]) == (3, 2)
    assert (pipe(num_inference_steps=2, **options).images != wanted).any()


def test_an_inpainting_is_upsampled_with_ddpm() -> None:
    model = replace(UPSAMPLER, kind="upsampler-inpaint")
    assert SamplerConfig().for_model(model).sampler == "ddpm"
    assert SamplerConfig(sampler="heun").for_model(model).sampler == "heun"
    assert SamplerConfig().for_model(UPSAMPLER).sampler == "ddim"


@pytest.mark.parametrize(
    "value",
    [5, 1.5, True, b"x", [], {}, object(), torch.int64],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("name", ["torch_dtype", "device", "base", "clip"])
def test_arguments_of_wrong_types_are_one_error(name: str, value: Any, model_folder: Path) -> None:
    given = {"base": "tiny_base.safetensors", name: value}
    with pytest.raises(GlideError):
        GlidePipeline.from_pretrained(None, **given).components  # noqa: B018


@pytest.mark.parametrize("value", [None, 5, b"x", []], ids=repr)
def test_paths_of_wrong_types_are_one_error(value: Any, model_folder: Path) -> None:
    pipe = GlidePipeline.from_pretrained("tiny_base.safetensors")
    for call in (pipe.load_lora_weights, pipe.save_pretrained, GlidePipeline.from_pretrained):
        if call != GlidePipeline.from_pretrained or value:
            with pytest.raises(GlideError):
                call(value)
    with pytest.raises(GlideError, match="component"):
        pipe.load_lora_weights("x", component=value)
