"""GlideLoader's MODEL, CLIP and VAE in ComfyUI's own nodes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glide_core.checkpoints.loading import load_model
from glide_core.diffusion.denoiser import parse_model_output
from glide_core.diffusion.schedule import Schedule

FEW = (
    "euler",
    "euler_ancestral",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "ddpm",
    "ddim",
    "uni_pc",
    "lcm",
)


@pytest.fixture(scope="module", params=["base", "base_v"])
def glide(comfy: Any, request: pytest.FixtureRequest) -> Any:
    """MODEL, CLIP, VAE, two prompts, and the same file as a glide_core model."""
    model, clip, vae = comfy.load(request.param)
    glide_model = load_model(comfy.checkpoints.path(f"{request.param}.safetensors"))
    return model, clip, vae, comfy.prompt(clip, "a red fox"), comfy.prompt(clip, ""), glide_model


def test_schedules_are_the_reference_s(comfy: Any) -> None:
    for model in (comfy.load("base")[0], comfy.load_upsampler()):
        sampling = model.get_model_object("model_sampling")
        config = model.model.glide_config
        expected = Schedule.named(config.schedule.noise_schedule).alphas_cumprod
        expected = torch.from_numpy(((1 - expected) / expected) ** 0.5)
        torch.testing.assert_close(sampling.sigmas.double(), expected, rtol=1e-6, atol=0)
        steps = torch.arange(1000)
        assert torch.equal(sampling.timestep(sampling.sigmas), steps)


def test_text_encode_equals_glide_cores_text_encoder(comfy: Any, glide: Any) -> None:
    _, clip, _, positive, _, glide_model = glide
    states, extras = positive[0]
    features = glide_model.encode(extras["glide_ids"], extras["glide_mask"])
    torch.testing.assert_close(states, features.last_hidden_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(extras["pooled_output"], features.pooled, rtol=1e-5, atol=1e-5)
    assert extras["glide_text"] == "a red fox"
    ours = comfy("GlideTextEncode", clip=clip, text="a red fox")
    assert torch.equal(ours[0][0], states)


def test_weights_move_single_tokens(comfy: Any, glide: Any) -> None:
    _, clip, _, positive, negative, _ = glide
    weighted = comfy.prompt(clip, "a (red:0.5) fox")
    assert torch.equal(weighted[0][1]["glide_ids"], positive[0][1]["glide_ids"])
    plain, empty, found = positive[0][0], negative[0][0], weighted[0][0]
    changed = (found - plain).abs().amax(-1)[0] > 1e-6
    n = int(positive[0][1]["glide_mask"].sum())
    assert 0 < int(changed.sum()) < n
    middle = (empty + plain) / 2
    torch.testing.assert_close(found[0, changed], middle[0, changed])


def test_a_long_prompt_is_truncated_with_a_warning(
    comfy: Any, glide: Any, caplog: pytest.LogCaptureFixture
) -> None:
    clip = glide[1]
    states, extras = comfy.prompt(clip, "a red fox and " * 50)[0]
    assert states.shape[1] == 24 and bool(extras["glide_mask"].all())
    assert "cut" in caplog.text


def test_the_model_gives_glide_cores_x0(comfy: Any, glide: Any) -> None:
    model, _, _, positive, _, glide_model = glide
    x_t = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    comfy.management.load_models_gpu([model])
    schedule = Schedule.named("squaredcos_cap_v2")
    for t in (0, 400, 999):
        sigma = model.model.model_sampling.sigmas[t]
        with torch.inference_mode():
            x0 = model.model.apply_model(
                x_t * (1 + sigma**2) ** 0.5,
                sigma.expand(2),
                c_crossattn=positive[0][0].expand(2, -1, -1),
                y=positive[0][1]["pooled_output"].expand(2, -1),
            )
        with torch.no_grad():
            extras = positive[0][1]
            features = glide_model.encode(
                extras["glide_ids"].expand(2, -1), extras["glide_mask"].expand(2, -1)
            )
            times = torch.full((2,), t)
            raw = glide_model.unet(x_t, times, features)
        kind = glide_model.config.schedule.prediction_type
        eps = parse_model_output(raw, x_t, times, schedule, kind).eps
        expected = x_t * (1 + sigma**2) ** 0.5 - sigma * eps
        torch.testing.assert_close(x0, expected, rtol=1e-4, atol=1e-4 + 5e-6 * float(sigma))


@pytest.mark.parametrize("sampler", FEW)
def test_ksampler_makes_an_image(comfy: Any, glide: Any, sampler: str) -> None:
    model, _, vae, positive, negative, _ = glide
    samples = comfy.ksampler(model, positive, negative, sampler_name=sampler)
    assert samples.shape == (1, 3, 64, 64)
    assert torch.isfinite(samples).all()
    image = comfy("VAEDecode", vae=vae, samples={"samples": samples})
    assert image.shape == (1, 64, 64, 3)
    assert float(image.min()) >= 0 and float(image.max()) <= 1


def test_the_builtin_empty_latent_works(comfy: Any, glide: Any) -> None:
    model, _, _, positive, negative, _ = glide
    latent = comfy("EmptyLatentImage", width=128, height=64, batch_size=1)
    # newer versions say that it is divided by 8, and KSampler takes that back for a 1:1 latent
    if "downscale_ratio_spacial" not in latent:
        with pytest.raises(ValueError, match=r"is 16x8 pixels\. Expected at least 32x32"):
            comfy.ksampler(model, positive, negative, latent_image=latent, steps=2)
        latent = comfy("EmptyLatentImage", width=8 * 128, height=8 * 64, batch_size=1)
    samples = comfy.ksampler(model, positive, negative, latent_image=latent, steps=2)
    assert samples.shape == (1, 3, 64, 128)


def test_vae_round_trip_keeps_every_pixel(comfy: Any, glide: Any) -> None:
    vae = glide[2]
    pixels = torch.rand(2, 64, 48, 3)
    latent = comfy("VAEEncode", pixels=pixels, vae=vae)
    torch.testing.assert_close(comfy("VAEDecode", vae=vae, samples=latent), pixels)


def test_zeroed_out_means_no_prompt(comfy: Any, glide: Any) -> None:
    """Zeros themselves would be noise to GLIDE, whose unconditional input is the empty prompt."""
    model, _, _, positive, negative, _ = glide
    zeros = comfy("ConditioningZeroOut", conditioning=positive)
    expected = comfy.ksampler(model, positive, negative, steps=2)
    found = comfy.ksampler(model, positive, zeros, steps=2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    inputs = {"seed": 0, "steps": 2, "sampler_name": "ddim", "cfg": 3.0}
    inputs |= {"model": model, "positive": positive, "latent_image": comfy.empty()}
    expected, found = (
        comfy("GlideSampler", negative=n, **inputs)[1]["samples"].clone() for n in (negative, zeros)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("node", ["ConditioningConcat", "ConditioningAverage", "Combine", "Area"])
def test_conditioning_nodes_change_the_image(comfy: Any, glide: Any, node: str) -> None:
    model, clip, _, positive, negative, _ = glide
    other = comfy.prompt(clip, "blue sky over grass")
    if node == "ConditioningConcat":
        changed = comfy(node, conditioning_to=positive, conditioning_from=other)
    elif node == "ConditioningAverage":
        changed = comfy(
            node, conditioning_to=positive, conditioning_from=other, conditioning_to_strength=0.5
        )
    elif node == "Combine":
        changed = comfy("ConditioningCombine", conditioning_1=positive, conditioning_2=other)
    else:
        area = comfy(
            "ConditioningSetAreaPercentage",
            conditioning=other, width=0.5, height=1.0, x=0.5, y=0.0, strength=1.0,
        )  # fmt: skip
        changed = comfy("ConditioningCombine", conditioning_1=positive, conditioning_2=area)
    plain = comfy.ksampler(model, positive, negative, steps=2)
    found = comfy.ksampler(model, changed, negative, steps=2)
    assert torch.isfinite(found).all()
    assert float((found - plain).abs().max()) > 1e-3


def test_img2img_starts_from_the_image(comfy: Any, glide: Any) -> None:
    model, _, vae, positive, negative, _ = glide
    latent = comfy("VAEEncode", pixels=torch.full((1, 64, 64, 3), 0.9), vae=vae)
    near = comfy.ksampler(model, positive, negative, latent_image=latent, denoise=0.1)
    far = comfy.ksampler(model, positive, negative, latent_image=latent, denoise=1.0)
    distance = [float((v - latent["samples"]).abs().mean()) for v in (near, far)]
    assert distance[0] < distance[1]


def test_previews_and_progress_come_with_every_step(comfy: Any, glide: Any) -> None:
    model, _, _, positive, negative, _ = glide
    with comfy.progress() as reports:
        comfy.ksampler(model, positive, negative, steps=3)
    assert [(value, total) for value, total, _ in reports] == [(1, 3), (2, 3), (3, 3)]
    assert all(preview[1].size == (64, 64) for _, _, preview in reports)


def test_foreign_conditioning_is_named(comfy: Any, glide: Any) -> None:
    model, _, _, _, negative, _ = glide
    foreign = [[torch.zeros(1, 77, 768), {"pooled_output": torch.zeros(1, 768)}]]
    with pytest.raises(ValueError, match="CLIP output of GLIDE Loader"):
        comfy.ksampler(model, foreign, negative)
