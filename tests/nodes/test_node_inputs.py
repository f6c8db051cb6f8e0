"""What nodes make of unusual inputs: masks, batches, metadata, lazy inputs, wrong wiring."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from glide_pack.nodes import NODE_CLASS_MAPPINGS, host
from glide_pack.nodes.inputs import PRESETS
from node_calls import base, call, latent, make_image, noisy_clip, sample

from glide_core.errors import GlideError

pytestmark = pytest.mark.usefixtures("standalone")


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


def test_percentages_limit_guidance_like_noise_levels() -> None:
    model, _, _ = base()
    clip = noisy_clip()
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

    clip = noisy_clip()
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
    clip = noisy_clip()
    (guided,) = call("GlideClipGuidance", model=model, clip=clip, text="an apple", scale=5.0)
    given = {"model": guided, "latent_image": latent(side=64), "steps": 3}
    clipped = sample(**given)[0]
    unclipped = sample(**given, clip_guided=False)[0]
    assert not torch.equal(clipped, unclipped)
    assert ((unclipped <= 0) | (unclipped >= 1)).float().mean() > 0.5
