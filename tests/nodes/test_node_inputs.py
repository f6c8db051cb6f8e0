"""What nodes make of unusual inputs: masks, batches, metadata, lazy inputs, wrong wiring."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from glide_pack.nodes import NODE_CLASS_MAPPINGS, host
from glide_pack.nodes.inputs import PRESETS

from glide_core import images
from glide_core.errors import GlideError

from .test_nodes import base, call, make_image, prompts, sample, standalone, upsampler

__all__ = ["standalone"]  # the fixture that every test here uses


def latent(batch: int = 1, side: int = 32, **more: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    return {"samples": torch.rand(batch, 3, side, side, generator=generator) * 2 - 1, **more}


def test_the_part_outside_a_noise_mask_stays_and_the_mask_is_passed_on() -> None:
    mask = torch.zeros(1, 32, 32)
    mask[:, :, 16:] = 1
    given = latent(noise_mask=mask)
    _, out = sample(latent_image=given, steps=3)
    assert torch.equal(out["samples"][..., :16], given["samples"][..., :16])
    assert not torch.allclose(out["samples"][..., 16:], given["samples"][..., 16:], atol=0.1)
    assert out["noise_mask"] is mask


@pytest.mark.parametrize("sampler", ["ddim", "plms", "euler", "dpmpp_2m"])
def test_a_noise_mask_of_another_size_is_resized_under_every_kind_of_sampler(sampler: str) -> None:
    mask = torch.ones(8, 8)
    mask[:, :4] = 0
    given = latent(noise_mask=mask)
    _, out = sample(latent_image=given, steps=3, sampler_name=sampler, denoise=0.7)
    assert torch.equal(out["samples"][..., :12], given["samples"][..., :12])


def test_batch_index_gives_an_image_its_own_noise_again() -> None:
    together = sample(4, seed=5)[0]
    one = sample(latent_image=latent(batch_index=[2]), seed=5)[0]
    assert torch.allclose(one[0], together[2], atol=1e-4)


def test_denoise_0_returns_the_latent() -> None:
    given = latent()
    image, out = sample(latent_image=given, denoise=0.0)
    assert torch.equal(out["samples"], given["samples"])
    assert torch.allclose(image.movedim(-1, 1) * 2 - 1, given["samples"], atol=1e-6)


def test_an_empty_latent_of_another_model_gives_its_size_in_pixels() -> None:
    empty = {"samples": torch.zeros(1, 4, 8, 8), "downscale_ratio_spacial": 8}
    image, out = sample(latent_image=empty, steps=1)
    assert image.shape == (1, 64, 64, 3) and "downscale_ratio_spacial" not in out


def test_an_empty_latent_in_latent_pixels_is_refused_with_the_node_to_use() -> None:
    with pytest.raises(GlideError, match=r"is 8x8 pixels.*GLIDE Empty Latent"):
        sample(latent_image={"samples": torch.zeros(1, 4, 8, 8)})


def test_a_preset_replaces_steps_sampler_and_respacing() -> None:
    chosen = PRESETS["fast"]
    by_name = sample(preset="fast", steps=3, sampler_name="euler", respacing="ddim5")[0]
    by_hand = sample(steps=chosen.steps, sampler_name=chosen.sampler)[0]
    assert torch.equal(by_name, by_hand)


def test_a_preset_says_what_it_sets_for_the_browser() -> None:
    node: Any = NODE_CLASS_MAPPINGS["GlideSampler"]
    choices, options = node.INPUT_TYPES()["required"]["preset"]
    assert set(choices) == {"custom", *options["glide_presets"]}
    for values in options["glide_presets"].values():
        assert values.keys() == {"steps", "sampler_name", "respacing"}


def test_a_negative_prompt_is_evaluated_only_under_guidance() -> None:
    for name in ("GlideSampler", "GlideEdit", "GlideInpaint", "GlideUpsample"):
        node: Any = NODE_CLASS_MAPPINGS[name]()
        given = {"denoise": 1.0, "negative": None}
        assert node.check_lazy_status(cfg=3.0, **given) == ["negative"]
        assert node.check_lazy_status(cfg=1.0, **given) == []
        assert node.check_lazy_status(cfg=3.0, **{**given, "negative": "evaluated"}) == []


def test_an_upsampler_at_0_and_a_clip_at_scale_0_are_not_evaluated() -> None:
    edit: Any = NODE_CLASS_MAPPINGS["GlideEdit"]()
    given = {"cfg": 1.0, "denoise": 0.5, "upsampler": None}
    assert edit.check_lazy_status(**given, upsample_denoise=0.0) == []
    assert edit.check_lazy_status(**given, upsample_denoise=0.5) == ["upsampler"]
    guide: Any = NODE_CLASS_MAPPINGS["GlideClipGuidance"]()
    assert guide.check_lazy_status(scale=0.0, clip=None, vae=None) == []
    assert guide.check_lazy_status(scale=1.0, clip=None, vae=None) == ["clip", "vae"]
    assert guide.check_lazy_status(scale=1.0, clip=None) == ["clip"]


def test_without_guidance_no_negative_prompt_is_needed() -> None:
    assert torch.equal(sample(cfg=1.0, negative=None)[0], sample(cfg=1.0)[0])
    with pytest.raises(GlideError, match="cfg is 3 and nothing is connected to 'negative'"):
        sample(cfg=3.0, negative=None)


def test_a_loader_with_a_linked_file_input_does_not_run_again_every_time() -> None:
    for name in ("GlideLoader", "GlideUpsamplerLoader", "GlideClipLoader", "GlideOpenClipLoader"):
        node: Any = NODE_CLASS_MAPPINGS[name]
        assert node.IS_CHANGED(dtype="auto") == node.IS_CHANGED(dtype="auto")
        assert isinstance(node.IS_CHANGED(checkpoint=None, weights=None), str)


def test_editing_with_upsample_denoise_0_enlarges_the_small_result() -> None:
    model, clip, _ = base()
    given = {
        "model": model,
        "image": make_image(64, 64),
        "steps": 2,
        "denoise": 0.5,
        **prompts(clip),
    }
    (small,) = call("GlideEdit", **given)
    (large,) = call("GlideEdit", **given, upsample_denoise=0.0)
    assert small.shape == (1, 64, 64, 3) and large.shape == (1, 256, 256, 3)
    enlarged = images.to_comfy(images.resize(images.from_comfy(small), (256, 256)))
    assert torch.allclose(large, enlarged, atol=2 / 255)


def inpaint(**inputs: Any) -> torch.Tensor:
    model, clip, _ = base("tiny_inpaint.safetensors")
    given = {"model": model, "steps": 1, "cfg": 1.0, **prompts(clip), **inputs}
    found: torch.Tensor = call("GlideInpaint", **given)[0]
    return found


def squares() -> torch.Tensor:
    masks = torch.zeros(2, 60, 300)
    masks[0, 10:30, 10:30] = 1
    masks[1, 20:50, 250:290] = 1
    return masks


def test_every_mask_of_a_batch_gets_its_own_crop() -> None:
    image, masks = make_image(300, 60, batch=2), squares()
    together = inpaint(image=image, mask=masks, seed=4)
    alone = inpaint(image=image[1:], mask=masks[1:], seed=5)
    assert torch.allclose(together[1], alone[0], atol=1e-3)


def test_images_and_masks_stay_paired_under_variations() -> None:
    image, masks = make_image(300, 60, batch=2), squares()
    found = inpaint(image=image, mask=masks, variations=2)
    for i in range(4):
        changed = (found[i] != image[i % 2]).any(dim=-1)
        assert changed.any() and not changed[masks[i % 2] < 0.5].any()


def test_several_masks_of_one_image_give_several_images() -> None:
    assert inpaint(image=make_image(300, 60), mask=squares()).shape == (2, 60, 300, 3)


def test_a_grown_mask_changes_more_and_a_blurred_one_fades_out_beyond_its_edge() -> None:
    image, mask = make_image(100, 100), torch.zeros(1, 100, 100)
    mask[:, 40:60, 40:60] = 1
    extent = {}
    for name, options in {
        "plain": {},
        "grown": {"mask_grow": 5},
        "shrunk": {"mask_grow": -5},
        "blurred": {"mask_blur": 6},
    }.items():
        found = inpaint(image=image, mask=mask, feather=0, **options)
        changed = (found[0] != image[0]).any(dim=-1).nonzero()
        extent[name] = (int(changed.min()), int(changed.max()))
    assert extent["plain"] == (40, 59)
    assert extent["grown"] == (35, 64)
    assert extent["shrunk"] == (45, 54)
    assert 34 <= extent["blurred"][0] < 40 and 59 < extent["blurred"][1] <= 65


def test_a_grey_image_is_inpainted_in_colour() -> None:
    mask = torch.ones(1, 64, 64)
    assert inpaint(image=torch.rand(1, 64, 64, 1), mask=mask).shape == (1, 64, 64, 3)


def nan_image() -> torch.Tensor:
    image = make_image(64, 64)
    image[0, 0, 0, 0] = torch.nan
    return image


IMAGES = [
    (nan_image, "IMAGE on 'image' holds NaN"),
    (lambda: torch.rand(1, 64, 64, 2), "IMAGE on 'image' has 2 channels"),
    (lambda: torch.rand(0, 64, 64, 3), "IMAGE on 'image' has the shape"),
    (lambda: torch.rand(64, 64, 3), "IMAGE on 'image' has the shape"),
]


@pytest.mark.parametrize(
    "node",
    [
        "GlideUpsample",
        "GlideUpsampleConditioning",
        "GlideInpaint",
        "GlideInpaintConditioning",
        "GlideEdit",
        "GlideClipScore",
    ],
)
@pytest.mark.parametrize(("make", "words"), IMAGES)
def test_an_image_that_does_not_fit_is_refused_by_name(node: str, make: Any, words: str) -> None:
    _, clip, _ = base()
    inputs: dict[str, Any] = {"image": make()}
    if node in ("GlideInpaint", "GlideInpaintConditioning"):
        inputs["mask"] = torch.ones(1, 64, 64)
    if node == "GlideClipScore":
        inputs["clip"] = call("GlideClipLoader", checkpoint="tiny_clip.safetensors")[0]
    else:
        inputs |= prompts(clip)
    if node == "GlideInpaint":
        inputs["model"] = base("tiny_inpaint.safetensors")[0]
    elif node in ("GlideUpsample", "GlideEdit"):
        inputs["model"] = upsampler() if node == "GlideUpsample" else base()[0]
    with pytest.raises(GlideError, match=words):
        call(node, **inputs)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"image": make_image(64, 64, batch=3), "mask": torch.ones(2, 64, 64)},
            "3 images.*2 masks",
        ),
        ({"image": make_image(64, 64), "mask": make_image(64, 64)}, "MASK on 'mask' has the shape"),
        (
            {"image": make_image(64, 64), "mask": torch.full((1, 64, 64), torch.nan)},
            "MASK on 'mask' holds NaN",
        ),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_by_name(given: dict[str, Any], words: str) -> None:
    with pytest.raises(GlideError, match=words):
        inpaint(**given)


def test_an_inpainting_model_without_image_and_mask_is_refused() -> None:
    model, _, _ = base("tiny_inpaint.safetensors")
    with pytest.raises(GlideError, match="Connect GLIDE Inpaint Conditioning"):
        sample(model=model)


def test_an_inpainting_model_takes_image_and_mask_of_the_latent() -> None:
    model, _, _ = base("tiny_inpaint.safetensors")
    mask = torch.zeros(1, 32, 32)
    mask[:, 8:24] = 1
    given = latent(noise_mask=mask)
    _, out = sample(model=model, latent_image=given)
    assert torch.equal(out["samples"][:, :, :8], given["samples"][:, :, :8])


@pytest.mark.parametrize(
    ("count", "given", "words"),
    [
        (1, latent(side=64), "'positive' carries an image of 32x32 pixels, and 64x64 are to be"),
        (
            2,
            latent(batch=3),
            "'positive' carries 2 images, and the LATENT on 'latent_image' holds 3",
        ),
    ],
)
def test_an_image_in_the_conditioning_that_does_not_fit_the_latent_is_refused(
    count: int, given: dict[str, Any], words: str
) -> None:
    model, clip, _ = base("tiny_inpaint.safetensors")
    image, mask = make_image(32, 32, batch=count), torch.ones(1, 32, 32)
    positive, negative, _ = call(
        "GlideInpaintConditioning", image=image, mask=mask, width=32, height=32, **prompts(clip)
    )
    with pytest.raises(GlideError, match=words):
        sample(model=model, positive=positive, negative=negative, latent_image=given)


def test_an_image_to_enlarge_is_refused_by_a_base_model() -> None:
    model, clip, _ = base()
    small = make_image(64, 64)
    positive, negative, _ = call("GlideUpsampleConditioning", image=small, **prompts(clip))
    with pytest.raises(GlideError, match="'positive' carries an image to enlarge"):
        sample(model=model, positive=positive, negative=negative)


def test_a_size_that_changes_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    _, clip, _ = base()
    with caplog.at_level(logging.INFO, logger="glide"):
        call(
            "GlideUpsample",
            model=upsampler(),
            image=make_image(512, 512),
            positive=prompts(clip)["positive"],
            steps=1,
        )
    assert "resized the image from 512x512 to 64x64 (low_size is 64" in caplog.text


def test_percentages_limit_guidance_like_noise_levels() -> None:
    model, _, _ = base()
    clip = call("GlideClipLoader", checkpoint="tiny_clip.safetensors")[0]
    given = {"model": model, "clip": clip, "text": "an apple", "scale": 5.0}
    (whole,) = call("GlideClipGuidance", **given)
    assert whole.guides[0].interval is None
    (late,) = call("GlideClipGuidance", **given, start_percent=0.5)
    low, high = late.guides[0].interval
    assert low == 0 and 0.5 < high < 2  # the cosine schedule's middle is at sigma 1
    (early,) = call("GlideClipGuidance", **given, end_percent=0.5, sigma_min=3.0)
    assert early.guides[0].interval[0] == 3.0
    (nothing,) = call("GlideClipGuidance", **given, end_percent=0.1, sigma_max=0.5)
    assert nothing is model


def test_scores_come_in_chunks_with_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    from glide_pack.nodes import scoring

    clip = call("GlideClipLoader", checkpoint="tiny_clip.safetensors")[0]
    image = make_image(64, 64, batch=5)
    whole = call("GlideClipScore", image=image, clip=clip, text="an apple")[1]
    monkeypatch.setattr(scoring, "CHUNK", 2)
    assert call("GlideClipScore", image=image, clip=clip, text="an apple")[1] == whole

    def cancel(info: Any) -> None:
        raise InterruptedError(info.index)

    monkeypatch.setattr(type(host.current()), "progress", lambda *args: nullcontext(cancel))
    with pytest.raises(InterruptedError, match="0"):
        call("GlideClipScore", image=image, clip=clip, text="an apple")


def test_old_sampler_names_in_saved_workflows_still_validate() -> None:
    node: Any = NODE_CLASS_MAPPINGS["GlideSampler"]
    for name in ("ancestral", "ddpm", "ddim"):
        assert node.VALIDATE_INPUTS(sampler_name=name) is True
    assert "Unknown sampler 'magic'" in node.VALIDATE_INPUTS(sampler_name="magic")


@pytest.mark.parametrize("given", [None, {}, {"samples": None}, {"samples": torch.zeros(3, 8, 8)}])
def test_a_latent_without_images_is_refused_by_name(given: Any) -> None:
    with pytest.raises(GlideError, match="the LATENT on 'latent_image' has the shape"):
        sample(latent_image=given)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(GlideError, match=r"unknown preset 'best'\. Expected one of custom"):
        sample(preset="best")


def test_clip_guided_off_restores_the_references_estimates() -> None:
    model, _, _ = base()
    clip = call("GlideClipLoader", checkpoint="tiny_clip.safetensors")[0]
    (guided,) = call("GlideClipGuidance", model=model, clip=clip, text="an apple", scale=5.0)
    given = {"model": guided, "latent_image": latent(side=64), "steps": 3}
    clipped = sample(**given)[0]
    unclipped = sample(**given, clip_guided=False)[0]
    assert not torch.equal(clipped, unclipped)
    assert ((unclipped <= 0) | (unclipped >= 1)).float().mean() > 0.5
