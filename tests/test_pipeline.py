"""GlidePipeline on tiny models: diffusers' habits, one seed per image, saving, LoRA, cancelling."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAST, ONE, TINY_FILES
from PIL import Image

from glide_core import GlideError, GlidePipeline
from glide_core.checkpoints.loading import load_model
from glide_core.config import SamplerConfig
from glide_core.stages import StageInputs, sample_stage


@pytest.fixture
def image() -> Image.Image:
    return Image.effect_noise((90, 60), 80).convert("RGB")


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, glide_core; assert 'torch' not in sys.modules; glide_core.GlidePipeline"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_can_be_imported() -> None:
    import glide_core

    for name in glide_core.__all__:
        assert getattr(glide_core, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Pipeline'"):
        glide_core.Pipeline  # noqa: B018


def test_images_have_the_requested_output_type(pipe: GlidePipeline) -> None:
    (image,) = pipe("a cat", seed=1, **FAST).images
    assert image.size == (256, 256)
    array = pipe("a cat", seed=1, **{**FAST, "output_type": "np"}).images
    assert array.shape == (1, 256, 256, 3) and array.min() >= 0 and array.max() <= 1
    assert (np.asarray(image) == np.rint(array[0] * 255)).all()
    tensor = pipe("a cat", seed=1, **{**FAST, "output_type": "pt"}).images
    assert torch.equal(tensor, torch.from_numpy(array).movedim(-1, 1))


def test_image_i_equals_seed_plus_i_alone(pipe: GlidePipeline) -> None:
    both = pipe(["a cat", "a dog"], num_images_per_prompt=2, seed=5, batch_size=3, **ONE)
    assert both.seeds == [5, 6, 7, 8]
    assert [r.prompt for r in both.requests] == ["a cat", "a cat", "a dog", "a dog"]
    alone = pipe("a dog", seed=7, **ONE).images[0]
    assert np.abs(both.images[2] - alone).max() < 1e-4


def test_a_generator_gives_reproducible_images_and_advances(pipe: GlidePipeline) -> None:
    generator = torch.Generator().manual_seed(3)
    first, second = (pipe("a cat", generator=generator, **ONE) for _ in range(2))
    again = pipe("a cat", generator=torch.Generator().manual_seed(3), **ONE)
    assert first.seeds == again.seeds != second.seeds
    assert (first.images == again.images).all() and (first.images != second.images).any()
    with pytest.raises(GlideError, match="1 generators for 2 images"):
        pipe(["a", "b"], generator=[generator], **ONE)
    with pytest.raises(GlideError, match="generator and seed"):
        pipe("a", generator=generator, seed=1, **ONE)


def test_without_a_seed_images_differ_and_the_output_has_the_seeds(
    pipe: GlidePipeline,
) -> None:
    first, second = pipe("a cat", **ONE), pipe("a cat", **ONE)
    assert first.seeds != second.seeds
    assert (pipe("a cat", seed=second.seeds[0], **ONE).images == second.images).all()


def test_height_and_width_are_the_outputs(pipe: GlidePipeline) -> None:
    assert pipe("a cat", height=64, width=96, **ONE).images.shape == (1, 64, 96, 3)
    assert pipe("a cat", width=384, seed=0, **FAST).images[0].size == (384, 256)
    with pytest.raises(GlideError, match="multiples of 32"):
        pipe("a cat", width=100, **FAST)


def test_negative_prompt_and_clip_guidance_change_the_image(pipe: GlidePipeline) -> None:
    plain = pipe("a cat", seed=1, sampler="ddpm", **ONE).images
    assert (pipe("a cat", "blue", seed=1, sampler="ddpm", **ONE).images != plain).any()
    guided = pipe("a cat", seed=1, clip_guidance_scale=50, **ONE)
    assert (guided.images != plain).any()
    towards = {"clip_prompt": "a dog", "clip_guidance_scale": 50}
    assert (pipe("a cat", seed=1, **towards, **ONE).images != guided.images).any()
    assert guided.requests[0].base is not None and guided.requests[0].base.sampler != "ddim"


def test_ddim_under_clip_guidance_saturates_only_with_the_references_unclipped_estimates(
    pipe: GlidePipeline,
) -> None:
    def saturated(**options: Any) -> float:
        given = {"num_inference_steps": 5, "guidance_scale": 1.0, "upsample": False, "seed": 0}
        values = pipe(
            "a fox", sampler="ddim", clip_guidance_scale=2.0, output_type="np", **given, **options
        )
        return float(((values.images <= 0) | (values.images >= 1)).mean())

    assert saturated() < 0.5 < saturated(clip_guided=False)


def test_a_callback_sees_every_step_and_false_or_interrupt_ends_the_run(
    pipe: GlidePipeline,
) -> None:
    seen: list[tuple[int, int, str]] = []

    def callback(which: GlidePipeline, step: int, timestep: int, values: dict[str, Any]) -> Any:
        assert which is pipe and values["latents"].shape[1] == 3
        seen.append((step, values["num_steps"], values["stage"]))
        return values

    assert not pipe("a cat", callback_on_step_end=callback, **FAST).interrupted
    assert seen == [(0, 2, "base"), (1, 2, "base"), (0, 2, "upsampler"), (1, 2, "upsampler")]
    stopped = pipe("a cat", callback_on_step_end=lambda *_: False, **FAST)
    assert stopped.interrupted and stopped.images[0].size == (64, 64)
    stopped = pipe("a cat", callback_on_step_end=lambda p, *_: p.interrupt(), **FAST)
    assert stopped.interrupted

    def fail(*_: Any) -> None:
        raise RuntimeError("cancelled")

    with pytest.raises(RuntimeError, match="cancelled"):
        pipe("a cat", callback_on_step_end=fail, **FAST)


def test_a_callback_that_returns_other_values_is_an_error(pipe: GlidePipeline) -> None:
    def change(which: Any, step: int, timestep: int, values: dict[str, Any]) -> dict[str, Any]:
        values["latents"] = values["latents"] * 2
        return values

    with pytest.raises(GlideError, match="other values for latents"):
        pipe("a cat", callback_on_step_end=change, **FAST)
    with pytest.raises(GlideError, match="other values for prompt_embeds"):
        pipe("a cat", callback_on_step_end=lambda *_: {"prompt_embeds": 0}, **FAST)


def test_upscale_edit_and_inpaint(pipe: GlidePipeline, image: Image.Image) -> None:
    steps = {"upsample_steps": 1, "num_inference_steps": 2, "seed": 0}
    assert pipe.upscale(image, "noise", num_inference_steps=1).images[0].size == (384, 256)
    assert pipe.edit(image, "a cat", strength=0.5, **steps).images[0].size == (384, 256)
    kept = pipe.edit(image, "a cat", strength=0, upsample=False).images[0]
    small = np.asarray(image.resize((96, 64), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(np.asarray(kept).astype(int) - small).max() <= 1
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (30, 20, 60, 40))
    (inpainted,) = pipe.inpaint(image, mask, "a cat", **steps).images
    changed = (np.asarray(inpainted) != np.asarray(image)).any(axis=2)
    marked = np.asarray(mask) > 0
    assert changed[marked].any() and not changed[~marked].any()
    with pytest.raises(GlideError, match="the mask is 6x4 and the image 90x60"):
        pipe.inpaint(image, mask.resize((6, 4)), "a cat", **steps)


def test_upscaled_image_i_equals_seed_plus_i_alone(pipe: GlidePipeline, image: Image.Image) -> None:
    options = {"num_inference_steps": 2, "output_type": "np"}
    both = pipe.upscale(image, "noise", num_images_per_prompt=2, seed=5, **options)
    assert both.seeds == [5, 6] and len(both.images) == 2
    for together, seed in zip(both.images, both.seeds, strict=True):
        alone = pipe.upscale(image, "noise", seed=seed, **options).images[0]
        assert np.abs(together - alone).mean() < 1e-3  # rounding, magnified by random weights
    assert np.abs(both.images[0] - both.images[1]).mean() > 1e-2


def test_an_image_can_be_a_file_an_array_or_a_tensor(
    pipe: GlidePipeline, image: Image.Image, tmp_path: Path
) -> None:
    image.save(tmp_path / "image.png")
    array = np.array(image)
    forms = [tmp_path / "image.png", array, array / 255, torch.from_numpy(array).movedim(-1, 0)]
    one = {"strength": 0, "upsample": False, "output_type": "np"}
    expected = pipe.edit(image, "", **one).images
    for form in forms:
        assert np.abs(pipe.edit(form, "", **one).images - expected).max() < 1e-6
    with pytest.raises(GlideError, match="cannot be a int"):
        pipe.edit(3, "")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
        ({"clip_guidance_scale": float("nan")}, "clip_guidance_scale"),
        ({"seed": -1}, "seed is -1"),
        ({"sampler": "magic"}, "magic"),
        ({"num_inference_steps": 0}, "steps"),
        ({"height": 20}, "multiples of 8"),
        ({"height": "64"}, "multiples of 8"),
        ({"width": 0}, "from 8 to 4096"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": 10**5000}, "seed is a huge int"),
        ({"generator": 7, "seed": None}, "generator is 7"),
        ({"prompt": None}, "prompt is None"),
        ({"negative_prompt": 3}, "negative_prompt is 3"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"output_type": "jpg"}, "output_type is 'jpg'"),
        ({"callback_on_step_end": 3}, "callback_on_step_end is 3"),
        ({"upsample": None}, "upsample is None"),
        ({"clip_guidance_scale": "2"}, "clip_guidance_scale is '2'"),
    ],
)
def test_impossible_options_are_named(
    pipe: GlidePipeline, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(GlideError, match=expected):
        pipe(**{"prompt": "a cat", **ONE, **options})
    with pytest.raises(TypeError, match="'steps'"):
        pipe.edit(Image.new("RGB", (64, 64)), "a cat", steps=3)
    with pytest.raises(GlideError, match="height and width are for text to image"):
        pipe.edit(Image.new("RGB", (64, 64)), "a cat", height=64)


def made_by_every_call(folder: Path, *samplers: str) -> list[Any]:
    """Images of text to image with these samplers, CLIP guidance, and the other calls."""
    pipe = GlidePipeline.from_pretrained(folder, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    image, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    mask[20:40] = 255
    one: Any = {"num_inference_steps": 1, "output_type": "np", "seed": 3, "upsample": False}
    upsampler = load_model(folder / TINY_FILES["upsampler"])
    small = StageInputs(low_res=torch.zeros(1, 3, 16, 16, dtype=torch.float32, device="cpu"))
    return [
        *(pipe("a", sampler=name, **{**one, "num_inference_steps": 2}).images for name in samplers),
        pipe("a", sampler="ddim", clip_guidance_scale=2.0, **one).images,
        pipe.inpaint(image, mask, "a", **one).images,
        pipe.edit(image, "a", **one).images,
        sample_stage(upsampler, ["a"], [3], SamplerConfig(steps=2), inputs=small).numpy(),
    ]


@pytest.mark.parametrize("default", [torch.float16, torch.float64, "meta"], ids=str)
def test_torch_s_defaults_and_global_generator_change_no_image(
    default: torch.dtype | str, tiny_models: Path
) -> None:
    samplers = ["ddpm", "unipc"] if default == "meta" else ["ddpm"]
    expected, before = made_by_every_call(tiny_models, *samplers), torch.get_default_dtype()
    torch.manual_seed(9)
    state = torch.get_rng_state()
    try:
        if isinstance(default, str):
            torch.set_default_device(default)
        else:
            torch.set_default_dtype(default)
        found = made_by_every_call(tiny_models, *samplers)
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_more_input_images_than_prompts_are_one_error(model_folder: Path) -> None:
    pipe = GlidePipeline(base="tiny_base.safetensors")
    with pytest.raises(GlideError, match="image"):
        pipe.edit(np.zeros((2, 64, 64, 3), np.uint8), "a", num_inference_steps=2, upsample=False)
