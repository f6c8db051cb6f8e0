"""GlideSampler and GlideUpsample on ComfyUI's MODEL, against glide_core and against KSampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from glide_core import stages as pipeline
from glide_core.checkpoints.loading import load_model, save_model
from glide_core.config import SamplerConfig
from glide_core.diffusion import SeededNoise
from glide_core.diffusion.schedule import Schedule
from glide_core.models.glide import GlideModel

PROMPT = "a red fox"


@pytest.fixture(scope="module", params=["base", "base_v"])
def glide(comfy: Any, request: pytest.FixtureRequest) -> Any:
    """MODEL, CLIP, two prompts, and the same file as a glide_core model."""
    model, clip, _ = comfy.load(request.param)
    glide_model = load_model(comfy.checkpoints.path(f"{request.param}.safetensors"))
    return model, clip, comfy.prompt(clip, PROMPT), comfy.prompt(clip, ""), glide_model


def sample(comfy: Any, model: Any, positive: Any, negative: Any, **changes: Any) -> torch.Tensor:
    """GLIDE Sampler's images [B, 3, H, W] in [-1, 1]."""
    inputs = {
        "latent_image": comfy.empty(),
        "seed": 5,
        "steps": 6,
        "sampler_name": "ddim",
        "cfg": 3.0,
        **changes,
    }
    found = comfy("GlideSampler", model=model, positive=positive, negative=negative, **inputs)
    return found[1]["samples"].clone()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "plms", "dpmpp_2m"])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_it_equals_glide_core(comfy: Any, glide: Any, sampler: str, cfg: float) -> None:
    model, _, positive, negative, glide_model = glide
    found = sample(comfy, model, positive, negative, sampler_name=sampler, cfg=cfg)
    settings = SamplerConfig(steps=6, sampler=sampler, guidance_scale=cfg)
    expected = pipeline.sample_stage(glide_model, [PROMPT], [5], settings)
    # At t = 999 an eps made from v is 20000 times less exact than x0 is: rounding shows there.
    exact = glide_model.config.schedule.prediction_type == "epsilon"
    torch.testing.assert_close(found, expected, rtol=0, atol=4e-3 if exact else 2e-2)


def test_image_i_is_the_same_in_any_batch(comfy: Any, glide: Any) -> None:
    model, _, positive, negative, _ = glide
    several = {"latent_image": comfy.empty(3), "sampler_name": "ddpm"}
    three = sample(comfy, model, positive, negative, **several)
    alone = sample(comfy, model, positive, negative, seed=7, sampler_name="ddpm")
    torch.testing.assert_close(three[2:], alone, rtol=0, atol=2e-2)  # rounding, at sigma 20291


def test_builtin_euler_on_glides_steps_is_ddim(comfy: Any, glide: Any) -> None:
    """Deterministic DDIM is Euler's method in sigma: the two samplers give the same image."""
    model, _, positive, negative, _ = glide
    steps = Schedule.named("squaredcos_cap_v2").respaced("6").timestep_map
    sigmas = model.get_model_object("model_sampling").sigmas[torch.from_numpy(steps.copy())]
    sigmas = torch.cat([sigmas.flip(0), torch.zeros(1)])
    found = comfy(
        "SamplerCustom",
        model=model, add_noise=True, noise_seed=5, cfg=3.0, positive=positive, negative=negative,
        sampler=comfy("KSamplerSelect", sampler_name="euler"), sigmas=sigmas,
        latent_image=comfy.empty(),
    )[0]["samples"]  # fmt: skip
    expected = sample(comfy, model, positive, negative)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)


def test_a_prompt_of_weights_and_averages_reaches_it(comfy: Any, glide: Any) -> None:
    model, clip, positive, negative, _ = glide
    mixed = comfy(
        "ConditioningAverage",
        conditioning_to=positive,
        conditioning_from=comfy.prompt(clip, "blue sky"),
        conditioning_to_strength=0.3,
    )
    plain = sample(comfy, model, positive, negative)
    assert float((sample(comfy, model, mixed, negative) - plain).abs().max()) > 1e-3


def test_noisy_clip_guidance_is_the_reference_s(comfy: Any, glide: Any) -> None:
    """Condition-mean in the ancestral sampler, once, although the guide is a patch too."""
    from glide_core.checkpoints.loading import load_clip
    from glide_core.guidance.clip import noisy_clip_guide

    model, _, positive, negative, glide_model = glide
    noisy = comfy.load_clip()
    guided = comfy("GlideClipGuidance", model=model, clip=noisy, text="blue", scale=4.0)
    found = sample(comfy, guided, positive, negative, sampler_name="ddpm")
    clip = load_clip(comfy.checkpoints.path("clip.safetensors"))
    expected = pipeline.sample_stage(
        glide_model,
        [PROMPT],
        [5],
        SamplerConfig(steps=6, sampler="ddpm", guidance_scale=3.0),
        cond_fn=noisy_clip_guide(clip, clip.encode_prompts(["blue"]).detach(), 4.0),
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)
    plain = sample(comfy, model, positive, negative, sampler_name="ddpm")
    assert float((found - plain).abs().max()) > 1e-2


def test_progress_and_preview_come_with_every_step(comfy: Any, glide: Any) -> None:
    model, _, positive, negative, _ = glide
    with comfy.progress() as reports:
        sample(comfy, model, positive, negative, steps=3)
    assert [(value, total) for value, total, _ in reports] == [(1, 3), (2, 3), (3, 3)]
    assert all(preview[1].size == (64, 64) for _, _, preview in reports)


def test_interrupt_stops_within_a_step(comfy: Any, glide: Any) -> None:
    model, _, positive, negative, _ = glide
    with (
        comfy.progress(stop_at=2) as reports,
        pytest.raises(comfy.management.InterruptProcessingException),
    ):
        sample(comfy, model, positive, negative, steps=50)
    assert len(reports) == 2
    sample(comfy, model, positive, negative, steps=1)  # and the next run is whole


def test_a_lora_like_patch_reaches_it(comfy: Any, glide: Any) -> None:
    model, _, positive, negative, _ = glide
    plain = sample(comfy, model, positive, negative)
    patched = model.clone()
    key = "diffusion_model.out.2.weight"
    weight = model.model.state_dict()[key]
    assert patched.add_patches({key: ("diff", (0.1 * torch.ones_like(weight),))}, 1.0)
    assert float((sample(comfy, patched, positive, negative) - plain).abs().max()) > 1e-3
    assert torch.equal(sample(comfy, model, positive, negative), plain)


@pytest.mark.parametrize("name", ["upsampler"])
def test_upsample_equals_glide_core(comfy: Any, glide: Any, name: str) -> None:
    _, _, positive, _, _ = glide
    up = comfy.load_upsampler(name)
    glide_model = load_model(comfy.checkpoints.path(f"{name}.safetensors"))
    image = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(2))
    found = comfy(
        "GlideUpsample",
        model=up, image=image, positive=positive, seed=3, steps=4, low_size=0,
    )  # fmt: skip
    settings = SamplerConfig(
        steps=4, sampler="ddim", guidance_scale=1.0, temperature=0.997, respacing=""
    )
    low = image.movedim(-1, 1) * 2 - 1
    expected = pipeline.sample_stage(
        glide_model, [PROMPT], [3], settings, inputs=pipeline.StageInputs(low_res=low)
    )
    assert found.shape == (1, 128, 128, 3)
    torch.testing.assert_close(found.movedim(-1, 1) * 2 - 1, expected, rtol=0, atol=5e-3)


def test_a_model_of_temperature_0_starts_without_noise(comfy: Any, glide: Any) -> None:
    glide_model = glide[4]
    cold = GlideModel(replace(glide_model.config, temperature=0.0))
    cold.load_state_dict(glide_model.state_dict())
    save_model(cold, comfy.checkpoints.path("base.safetensors").parent / "cold.safetensors")
    model, clip, _ = comfy.load("cold")
    positive, negative = comfy.prompt(clip, PROMPT), comfy.prompt(clip, "")
    first, second = (sample(comfy, model, positive, negative, seed=seed) for seed in (1, 2))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4)
    first, second = (comfy.ksampler(model, positive, negative, seed=seed) for seed in (1, 2))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4)


def test_the_upsampler_in_the_base_s_place_is_an_error(comfy: Any, glide: Any) -> None:
    _, _, positive, negative, _ = glide
    up = comfy.load_upsampler()
    with pytest.raises(ValueError, match=r"upsampler model.*GLIDE Loader"):
        sample(comfy, up, positive, negative)
    with pytest.raises(ValueError, match="GLIDE Upsample Conditioning"):
        comfy.ksampler(up, positive, negative)


def upsampled_by_ksampler(
    comfy: Any, up: Any, positive: Any, negative: Any, image: Any, **run: Any
) -> torch.Tensor:
    first, second, latent = comfy(
        "GlideUpsampleConditioning",
        positive=positive, negative=negative, image=image, low_size=run.pop("low_size", 0),
    )  # fmt: skip
    return comfy.ksampler(up, first, second, latent_image=latent, cfg=1.0, **run)


def test_ksampler_upsamples_with_the_image_in_its_conditioning(comfy: Any, glide: Any) -> None:
    _, _, positive, negative, _ = glide
    up = comfy.load_upsampler()
    images = [torch.full((2, 32, 32, 3), value) for value in (0.05, 0.95)]
    found = [upsampled_by_ksampler(comfy, up, positive, negative, p) for p in images]
    assert found[0].shape == (2, 3, 128, 128)
    assert float((found[1] - found[0]).abs().mean()) > 1e-3


@pytest.mark.bundled
def test_ksampler_enlarges_as_glide_upsample_does(comfy: Any) -> None:
    """On trained weights: the same image as the pack's own node, up to each one's noise."""
    model, clip, _ = comfy("GlideLoader", checkpoint="bundled/base.safetensors", dtype="float32")
    up = comfy("GlideUpsamplerLoader", checkpoint="bundled/upsampler.safetensors", dtype="float32")
    positive, negative = comfy.prompt(clip, "a fox on a blue background"), comfy.prompt(clip, "")
    small, _ = comfy(
        "GlideSampler", model=model, positive=positive, negative=negative, seed=5, steps=20,
        latent_image=comfy.empty(), sampler_name="ddim", cfg=3.0,
    )  # fmt: skip
    ours = comfy("GlideUpsample", model=up, image=small, positive=positive, seed=0, steps=10)
    run = {"steps": 10, "low_size": 64}
    comfyui = upsampled_by_ksampler(comfy, up, positive, negative, small, **run)
    difference = comfyui - (ours.movedim(-1, 1) * 2 - 1)
    assert float(difference.square().mean().sqrt()) < 0.03


def ddpm_against_ancestral(
    comfy: Any, model: Any, prompts: tuple[Any, Any], steps: int, *, fixed: bool
) -> float:
    """RMS difference of ComfyUI's ddpm and GLIDE's ancestral sampler, given one stream of noise.

    fixed: take the learned variance away from the ancestral one.
    """
    sampling = model.get_model_object("model_sampling")
    kept = Schedule.named("squaredcos_cap_v2").respaced(steps).timestep_map
    sigmas = torch.cat([sampling.sigmas[torch.tensor(kept).flip(0)], torch.zeros(1)])
    noise = SeededNoise([5])
    start = noise(torch.empty(1, 3, 64, 64))

    class Given:
        seed = 5

        def generate_noise(self, latent: Any) -> torch.Tensor:
            return start

    sampler = comfy.samplers.ksampler("ddpm", {"noise_sampler": lambda *sigmas: noise(start)})
    guider = comfy("CFGGuider", model=model, positive=prompts[0], negative=prompts[1], cfg=3.0)
    comfyui = comfy(
        "SamplerCustomAdvanced", noise=Given(), guider=guider, sampler=sampler, sigmas=sigmas,
        latent_image=comfy.empty(),
    )[1]["samples"]  # fmt: skip
    sinks = comfy.module("nodes.host.comfyui.model").VarianceSink
    with pytest.MonkeyPatch.context() as patch:
        if fixed:
            patch.setattr(sinks, "take", lambda *unused: None)
        ours = sample(comfy, model, *prompts, steps=steps, sampler_name="ddpm")
    return float((ours - comfyui).square().mean().sqrt())


def test_builtin_ddpm_differs_from_ours_only_by_the_variance(comfy: Any, glide: Any) -> None:
    model, _, positive, negative, _ = glide
    exact = ddpm_against_ancestral(comfy, model, (positive, negative), 6, fixed=True)
    learned = ddpm_against_ancestral(comfy, model, (positive, negative), 6, fixed=False)
    assert exact < 5e-3  # rounding, at sigma 20291
    assert learned > 10 * exact


@pytest.mark.bundled
def test_builtin_ddpm_samples_the_same_subject_as_ours(comfy: Any) -> None:
    """On trained weights; docs/compatibility.md has the numbers of more steps."""
    model, clip, _ = comfy("GlideLoader", checkpoint="bundled/base.safetensors", dtype="float32")
    prompts = comfy.prompt(clip, "a fox on a blue background"), comfy.prompt(clip, "")
    assert ddpm_against_ancestral(comfy, model, prompts, 30, fixed=True) < 1e-3
    assert 1e-3 < ddpm_against_ancestral(comfy, model, prompts, 30, fixed=False) < 0.03


@pytest.mark.parametrize("node", ["GlideUpsample", "GlideEdit"])
def test_the_other_looping_nodes_report_show_and_stop_too(
    comfy: Any, glide: Any, node: str
) -> None:
    model, _, positive, negative, _ = glide
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(2))
    inputs = {"image": image, "positive": positive, "negative": negative, "seed": 0}
    if node == "GlideUpsample":
        inputs |= {"model": comfy.load_upsampler(), "low_size": 32}
    else:
        inputs |= {"model": model, "denoise": 1.0, "sampler_name": "ddim", "cfg": 3.0}
    with comfy.progress() as reports:
        comfy(node, **inputs, steps=3)
    assert [(value, total) for value, total, _ in reports] == [(1, 3), (2, 3), (3, 3)]
    assert all(preview[1].size[0] in (64, 128) for _, _, preview in reports)
    with (
        comfy.progress(stop_at=2) as reports,
        pytest.raises(comfy.management.InterruptProcessingException),
    ):
        comfy(node, **inputs, steps=30)
    assert len(reports) == 2
