"""The nodes on tiny models, as a workflow calls them: outside ComfyUI, under inference mode."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from glide_pack.nodes import NODE_CLASS_MAPPINGS
from node_calls import base, call, make_image, noisy_clip, prompts, sample, upsampler

from glide_core.errors import GlideError

pytestmark = pytest.mark.usefixtures("standalone")


def test_the_sampler_gives_images_and_the_same_images_as_a_latent() -> None:
    image, latent = sample(2)
    assert image.shape == (2, 32, 32, 3)
    assert image.min() >= 0 and image.max() <= 1
    expected = (latent["samples"].clamp(-1, 1) + 1) / 2
    assert torch.allclose(image.movedim(-1, 1), expected, atol=1e-6)


def test_image_i_of_a_batch_equals_seed_plus_i_alone() -> None:
    together, alone = sample(3, seed=7)[0], sample(1, seed=9)[0]
    assert torch.allclose(together[2], alone[0], atol=1e-4)


def test_the_largest_seed_works_and_wraps() -> None:
    together, wrapped = sample(2, seed=2**64 - 1)[0], sample(1, seed=0)[0]
    assert torch.allclose(together[1], wrapped[0], atol=1e-4)


def test_the_prompt_and_the_guidance_change_the_image() -> None:
    plain = sample(cfg=1.0)[0]
    assert not torch.equal(plain, sample(cfg=4.0)[0])
    assert not torch.equal(plain, sample(cfg=1.0, text="a blue car")[0])
    assert torch.equal(plain, sample(cfg=1.0)[0])


def test_an_empty_prompt_works() -> None:
    assert torch.isfinite(sample(text="")[0]).all()


def test_a_prompt_that_is_too_long_is_truncated_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="glide"):
        sample(text="a very long prompt about many apples " * 30)
    assert "cut off" in caplog.text


def test_clip_guidance_changes_a_copy_and_not_the_model() -> None:
    model, _, _ = base()
    clip = noisy_clip()
    (guided,) = call("GlideClipGuidance", model=model, clip=clip, text="an apple", scale=50.0)
    assert model.guides == () and len(guided.guides) == 1
    (twice,) = call("GlideClipGuidance", model=guided, clip=clip, text="a car", scale=1.0)
    assert len(guided.guides) == 1 and len(twice.guides) == 2
    size = call("GlideEmptyLatent", width=64, height=64, batch_size=1)[0]
    plain, pulled = (
        sample(model=m, latent_image=size, sampler_name="ddpm", steps=4)[0] for m in (model, guided)
    )
    assert not torch.allclose(plain, pulled, atol=1e-3)


def test_an_interval_the_wrong_way_round_is_refused() -> None:
    model, _, _ = base()
    clip = noisy_clip()
    with pytest.raises(GlideError, match=r"sigma_min 5.* is above sigma_max 1.*swap them"):
        call("GlideClipGuidance", model=model, clip=clip, text="x", sigma_min=5.0, sigma_max=1.0)


def test_clip_guidance_of_scale_0_is_the_model_itself() -> None:
    model, _, _ = base()
    clip = noisy_clip()
    assert call("GlideClipGuidance", model=model, clip=clip, text="x", scale=0.0)[0] is model


def test_denoise_0_5_starts_from_the_latent() -> None:
    start = {"samples": torch.full((1, 3, 32, 32), 0.5)}
    near, far = sample(latent_image=start, denoise=0.1, steps=20)[1], sample(steps=20)[1]
    error = [(found["samples"] - 0.5).abs().mean() for found in (near, far)]
    assert error[0] < error[1]


def test_upsampling_makes_sides_four_times_as_long_in_any_shape() -> None:
    _, clip, _ = base()
    positive = prompts(clip)["positive"]
    given = {"model": upsampler(), "positive": positive, "steps": 1}
    assert call("GlideUpsample", image=make_image(64, 64), **given)[0].shape == (1, 256, 256, 3)
    (wide,) = call("GlideUpsample", image=make_image(50, 25), low_size=16, **given)
    assert wide.shape == (1, 64, 128, 3)


@pytest.mark.parametrize("marked", ["nothing", "everything", "half", "soft"])
def test_inpainting_changes_nothing_outside_the_mask(
    marked: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, clip, _ = base("tiny_inpaint.safetensors")
    image, mask = make_image(100, 70), torch.zeros(1, 70, 100)
    if marked == "everything":
        mask[:] = 1
    elif marked != "nothing":
        mask[:, 20:60, 30:80] = 1 if marked == "half" else 0.7
    found, patch = call(
        "GlideInpaint", model=model, image=image, mask=mask, steps=2, **prompts(clip)
    )
    assert found.shape == image.shape and patch.shape == (1, 64, 64, 3)
    kept = mask < 0.5
    assert torch.equal(found[kept], image[kept])
    if marked != "nothing":
        assert not torch.equal(found, image)
    assert ("soft edges" in caplog.text) == (marked == "soft")


def test_inpainting_has_a_second_stage_and_variations() -> None:
    model, clip, _ = base("tiny_inpaint.safetensors")
    mask = torch.zeros(1, 12, 20)  # of another size than the image
    mask[:, 4:8, 5:15] = 1
    found, patch = call(
        "GlideInpaint",
        model=model,
        upsampler=upsampler("tiny_upsampler_inpaint.safetensors"),
        image=make_image(100, 60),
        mask=mask,
        steps=1,
        upsample_steps=1,
        variations=2,
        **prompts(clip),
    )
    assert found.shape == (2, 60, 100, 3) and patch.shape == (2, 256, 256, 3)
    assert not torch.equal(found[0], found[1])


def test_inpaint_conditioning_serves_the_sampler() -> None:
    model, clip, _ = base("tiny_inpaint.safetensors")
    image, mask = make_image(64, 64), torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    positive, negative, latent = call(
        "GlideInpaintConditioning", image=image, mask=mask, **prompts(clip)
    )
    found, _ = call(
        "GlideSampler",
        model=model,
        positive=positive,
        negative=negative,
        latent_image=latent,
        steps=3,
    )
    assert torch.allclose(found[:, :, :32], image[:, :, :32], atol=0.01)
    assert not torch.allclose(found[:, :, 32:], image[:, :, 32:], atol=0.01)


def test_editing_by_denoise_0_keeps_the_image() -> None:
    model, clip, _ = base()
    image = make_image(64, 64)
    (same,) = call("GlideEdit", model=model, image=image, denoise=0.0, steps=2, **prompts(clip))
    assert torch.allclose(same, image, atol=1 / 255)
    (other,) = call("GlideEdit", model=model, image=image, denoise=0.9, steps=4, **prompts(clip))
    assert not torch.allclose(other, image, atol=0.1)


def test_editing_with_an_upsampler_is_four_times_as_large() -> None:
    model, clip, _ = base()
    (found,) = call(
        "GlideEdit",
        model=model,
        upsampler=upsampler(),
        image=make_image(90, 60),
        steps=2,
        upsample_steps=2,
        upsample_denoise=0.5,
        **prompts(clip),
    )
    assert found.shape == (1, 256, 384, 3)


def test_scores_rank_the_images() -> None:
    clip = noisy_clip()
    image = make_image(64, 64, batch=3)
    ranked, lines = call("GlideClipScore", image=image, clip=clip, text="an apple", keep=2)
    values = [float(line.split()[0]) for line in lines.splitlines()]
    assert ranked.shape[0] == 2 and values == sorted(values, reverse=True)
    first = int(lines.splitlines()[0].split()[-1]) - 1
    assert torch.equal(ranked[0], image[first])


WRONG = [
    ("GlideSampler", "model", "upsampler", "GLIDE's upsampler model"),
    ("GlideUpsample", "model", "base", "GLIDE's base model"),
    ("GlideInpaint", "model", "base", "GLIDE's base model"),
    ("GlideInpaint", "upsampler", "upsampler", "Expected GLIDE's upsampler-inpaint"),
    ("GlideEdit", "model", "upsampler", "GLIDE's upsampler model"),
]


@pytest.mark.parametrize(("node", "name", "kind", "words"), WRONG)
def test_a_model_of_the_wrong_kind_is_named_with_its_input(
    node: str, name: str, kind: str, words: str
) -> None:
    _, clip, _ = base()
    good = base("tiny_inpaint.safetensors")[0] if node == "GlideInpaint" else base()[0]
    bad = upsampler() if kind == "upsampler" else base()[0]
    inputs: dict[str, Any] = {"model": good, **prompts(clip), name: bad}
    if node == "GlideSampler":
        inputs["latent_image"] = call("GlideEmptyLatent")[0]
    else:
        inputs["image"] = make_image()
    if node == "GlideInpaint":
        inputs["mask"] = torch.ones(1, 24, 40)
    if node == "GlideUpsample":
        inputs.pop("negative")
    with pytest.raises(GlideError, match=words) as caught:
        call(node, **inputs)
    assert f"'{name}'" in str(caught.value) and "Connect" in str(caught.value)


def test_a_loader_refuses_a_model_of_the_wrong_kind() -> None:
    with pytest.raises(GlideError, match="upsampler"):
        base("tiny_upsampler.safetensors")
    with pytest.raises(GlideError, match="base"):
        upsampler("tiny_base.safetensors")
    with pytest.raises(GlideError, match="noisy CLIP"):
        call("GlideClipLoader", checkpoint="tiny_base.safetensors")


@pytest.mark.parametrize(
    ("node", "file", "words"),
    [
        ("GlideLoader", "tiny_upsampler.safetensors", "upsampler model.*GLIDE Upsampler Loader"),
        ("GlideLoader", "tiny_clip.safetensors", "noisy CLIP model.*GLIDE Noisy CLIP Loader"),
        ("GlideUpsamplerLoader", "tiny_inpaint.safetensors", "inpaint model.*with GLIDE Loader"),
        ("GlideClipLoader", "tiny_base.safetensors", "base model.*with GLIDE Loader"),
    ],
)
def test_a_loader_says_where_a_file_of_another_kind_belongs(
    node: str, file: str, words: str
) -> None:
    """When it runs: ComfyUI reports what VALIDATE_INPUTS refuses as a file to download."""
    assert NODE_CLASS_MAPPINGS[node].VALIDATE_INPUTS(checkpoint=file) is True  # type: ignore[attr-defined]
    with pytest.raises(GlideError, match=words):
        call(node, checkpoint=file)


def test_a_loader_accepts_models_of_its_kind() -> None:
    nodes: Any = NODE_CLASS_MAPPINGS
    for kind in ("base", "inpaint"):
        assert nodes["GlideLoader"].VALIDATE_INPUTS(f"tiny_{kind}.safetensors") is True
    for kind in ("upsampler", "upsampler_inpaint"):
        assert nodes["GlideUpsamplerLoader"].VALIDATE_INPUTS(f"tiny_{kind}.safetensors") is True
    same = "(in the same file)"
    assert nodes["GlideClipLoader"].VALIDATE_INPUTS("tiny_clip.safetensors", same) is True


def test_a_noisy_clip_does_not_guide_what_it_was_not_trained_for() -> None:
    noisy = noisy_clip()
    with pytest.raises(GlideError, match="trained on images of 64"):
        call("GlideClipGuidance", model=upsampler(), clip=noisy, text="x", scale=1.0)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"respacing": "swift27"}, "swift27"),
        ({"sampler_name": "magic"}, "unknown sampler"),
        ({"cfg_sigma_min": 5.0, "cfg_sigma_max": 1.0}, "swap them"),
        ({"denoise": 0.5, "latent_image": {"samples": torch.ones(1, 4, 32, 32)}}, "4 channels"),
        ({"latent_image": {"samples": torch.zeros(0, 3, 32, 32)}}, "0 images"),
        ({"latent_image": {"samples": torch.zeros(1, 3, 33, 32)}}, "33"),
    ],
)
def test_bad_settings_are_explained(inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(GlideError, match=words):
        sample(**inputs)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler"])
def test_one_step_works(sampler: str) -> None:
    assert torch.isfinite(sample(steps=1, sampler_name=sampler)[0]).all()


def test_a_conditioning_of_another_text_encoder_is_refused() -> None:
    model, _, _ = base()
    foreign = [[torch.zeros(1, 77, 768), {"pooled_output": torch.zeros(1, 768)}]]
    with pytest.raises(GlideError, match="carries no GLIDE tokens"):
        sample(model=model, positive=foreign)


def test_the_file_of_a_loader_cannot_lie_outside_the_models_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    node: Any = NODE_CLASS_MAPPINGS["GlideLoader"]
    answer = node.VALIDATE_INPUTS(checkpoint=f"../../{tmp_path.name}/secret.safetensors")
    assert "was not found" in answer
