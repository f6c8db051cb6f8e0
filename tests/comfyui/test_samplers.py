"""Every built-in sampler of ComfyUI, its schedulers, and its nodes that set up a sampler."""

from __future__ import annotations

from typing import Any

import pytest
import torch

SCHEDULERS = (
    "normal", "simple", "sgm_uniform", "beta", "kl_optimal", "ddim_uniform", "karras", "exponential"
)  # fmt: skip
WHOLE_BATCH = ("dpm_adaptive",)  # chooses its steps by the error of the whole batch
HARD = ("heun", "dpm_2_ancestral", "dpm_fast")  # lose the image on a step from sigma 20291 to 12


@pytest.fixture(scope="module")
def glide(comfy: Any) -> Any:
    model, clip, _ = comfy.load("base_v")
    return model, clip, comfy.prompt(clip, "a red fox"), comfy.prompt(clip, "")


def test_a_builtin_sampler_gives_an_image(comfy: Any, glide: Any, builtin_sampler: str) -> None:
    model, _, positive, negative = glide
    found = comfy.ksampler(model, positive, negative, sampler_name=builtin_sampler, cfg=2.0)
    assert torch.isfinite(found).all()
    assert float(found.abs().max()) < 3


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_sensible_scheduler_spreads_its_steps(comfy: Any, glide: Any, scheduler: str) -> None:
    model, _, positive, negative = glide
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, 10)
    steps = sampling.timestep(sigmas[:-1])
    assert int((steps < 900).sum()) >= 6
    assert torch.isfinite(comfy.ksampler(model, positive, negative, scheduler=scheduler)).all()


def test_ksampler_advanced_in_two_stages_is_one_run(comfy: Any, glide: Any) -> None:
    model, _, positive, negative = glide
    common = {
        "model": model, "positive": positive, "negative": negative, "noise_seed": 0, "steps": 6,
        "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal",
    }  # fmt: skip
    half = comfy(
        "KSamplerAdvanced", **common, add_noise="enable", latent_image=comfy.empty(),
        start_at_step=0, end_at_step=3, return_with_leftover_noise="enable",
    )  # fmt: skip
    found = comfy(
        "KSamplerAdvanced", **common, add_noise="disable", latent_image=half, start_at_step=3,
        end_at_step=100, return_with_leftover_noise="disable",
    )  # fmt: skip
    expected = comfy.ksampler(model, positive, negative, steps=6)
    torch.testing.assert_close(found["samples"], expected, rtol=0, atol=2e-3)


def test_sampler_custom_advanced_with_cfg_guider_is_ksampler(comfy: Any, glide: Any) -> None:
    model, _, positive, negative = glide
    guider = comfy("CFGGuider", model=model, positive=positive, negative=negative, cfg=3.0)
    found = comfy(
        "SamplerCustomAdvanced",
        noise=comfy("RandomNoise", noise_seed=0),
        guider=guider,
        sampler=comfy("KSamplerSelect", sampler_name="euler"),
        sigmas=comfy("BasicScheduler", model=model, scheduler="normal", steps=4, denoise=1.0),
        latent_image=comfy.empty(),
    )[0]["samples"]
    torch.testing.assert_close(found, comfy.ksampler(model, positive, negative), rtol=0, atol=1e-4)


def test_a_timestep_range_selects_the_prompt(comfy: Any, glide: Any) -> None:
    model, clip, positive, negative = glide
    other = comfy.prompt(clip, "blue sky over grass")
    early = comfy("ConditioningSetTimestepRange", conditioning=positive, start=0.0, end=0.5)
    late = comfy("ConditioningSetTimestepRange", conditioning=other, start=0.5, end=1.0)
    both = comfy("ConditioningCombine", conditioning_1=early, conditioning_2=late)
    images = [comfy.ksampler(model, c, negative) for c in (positive, other, both)]
    assert all(float((images[2] - p).abs().max()) > 1e-3 for p in images[:2])


def test_a_mask_confines_a_prompt_to_its_half(comfy: Any, glide: Any) -> None:
    """One step, so that the UNet cannot carry the prompt over to the other half."""
    model, clip, positive, negative = glide
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1.0
    other = comfy.prompt(clip, "blue sky over grass")
    masks = [("left", positive, 1 - mask), ("right", other, mask)]
    parts = [
        comfy("ConditioningSetMask", conditioning=c, mask=m, strength=1.0, set_cond_area="default")
        for _, c, m in masks
    ]
    both = comfy("ConditioningCombine", conditioning_1=parts[0], conditioning_2=parts[1])
    run = {"steps": 1, "cfg": 1.0}
    left, right, found = (
        comfy.ksampler(model, c, negative, **run) for c in (positive, other, both)
    )
    torch.testing.assert_close(found[..., :32], left[..., :32], rtol=0, atol=2e-2)
    torch.testing.assert_close(found[..., 32:], right[..., 32:], rtol=0, atol=2e-2)
    exact = comfy(
        "GlideSampler", model=model, positive=both, negative=negative,
        latent_image=comfy.empty(), seed=0, sampler_name="ddim", **run,
    )[1]["samples"]  # fmt: skip
    assert float((exact[..., 32:] - exact[..., :32]).abs().max()) > 1e-3


def test_image_i_is_the_same_in_any_batch(comfy: Any, glide: Any, builtin_sampler: str) -> None:
    """ComfyUI makes one noise tensor per batch: leading and selected images are unchanged."""
    if builtin_sampler in WHOLE_BATCH:
        pytest.skip("its steps depend on the whole batch")
    model, _, positive, negative = glide
    three, run = comfy.empty(3), {"sampler_name": builtin_sampler}
    together = comfy.ksampler(model, positive, negative, latent_image=three, **run)
    second = comfy("LatentFromBatch", samples=three, batch_index=1, length=1)
    alone = comfy.ksampler(model, positive, negative, latent_image=second, **run)
    torch.testing.assert_close(alone, together[1:2], rtol=0, atol=2e-3)
    assert float((together[1] - together[0]).abs().max()) > 1e-2
    first = comfy.ksampler(model, positive, negative, **run)
    torch.testing.assert_close(first, together[:1], rtol=0, atol=2e-3)


PATCHES: dict[str, dict[str, Any]] = {
    "RescaleCFG": {"multiplier": 0.7},
    "ModelSamplingDiscrete": {"sampling": "lcm", "zsnr": False},
    "PatchModelAddDownscale": {
        "block_number": 1, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.35,
        "downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic",
    },
    "HyperTile": {"tile_size": 256, "swap_size": 2, "max_depth": 0, "scale_depth": False},
    "TomePatchModel": {"ratio": 0.3},
    "CFGZeroStar": {},
    "Mahiro": {},
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "ModelComputeDtype": {"dtype": "bf16"},
    "EasyCache": {
        "reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False,
    },
    "LazyCache": {
        "reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("node", PATCHES)
def test_core_model_patch_runs(comfy: Any, glide: Any, node: str) -> None:
    model, _, positive, negative = glide
    cls = comfy.find(node)
    if cls is None:
        pytest.skip(f"this ComfyUI has no {node}")
    patched = comfy(node, model=model, **PATCHES[node])
    assert torch.isfinite(comfy.ksampler(patched, positive, negative, steps=6)).all()


@pytest.mark.parametrize("scheduler", ["normal", "karras", "exponential", "sgm_uniform"])
def test_schedulers_start_near_the_largest_sigma(comfy: Any, glide: Any, scheduler: str) -> None:
    """Sigma 71, not 20291: from there on, the steps of any sampler are of a bearable size."""
    sampling = glide[0].get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, 20)
    assert 60 < float(sigmas[0]) <= 80
    assert float(sampling.sigmas[-1]) == pytest.approx(20291.17, rel=1e-5)  # the table is whole


@pytest.mark.bundled
@pytest.mark.parametrize("scheduler", ["normal", "simple", "beta"])
@pytest.mark.parametrize("sampler", HARD)
def test_second_order_samplers_agree_with_euler(comfy: Any, sampler: str, scheduler: str) -> None:
    """On trained weights, where one bad step at the top would lose the image."""
    model, clip, _ = comfy("GlideLoader", checkpoint="bundled/base.safetensors", dtype="float32")
    prompts = comfy.prompt(clip, "a fox on a blue background"), comfy.prompt(clip, "")
    expected = comfy.ksampler(model, *prompts, steps=20, sampler_name="euler")
    found = comfy.ksampler(model, *prompts, steps=20, sampler_name=sampler, scheduler=scheduler)
    error = float((found - expected).square().mean().sqrt())
    # a lost image is 1.2 off; fresh noise gives another fox, simple's last step is coarse
    limits = {("dpm_2_ancestral", scheduler): 0.2, ("dpm_fast", "simple"): 0.1}
    assert error < limits.get((sampler, scheduler), 0.08)


@pytest.mark.parametrize("node", ["FreeU", "FreeU_V2", "PatchModelAddDownscale"])
def test_patches_of_blocks_act(comfy: Any, glide: Any, node: str) -> None:
    model, _, positive, negative = glide
    options: dict[str, Any] = {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}
    if node == "PatchModelAddDownscale":
        options = PATCHES[node]
    plain = comfy.ksampler(model, positive, negative, steps=3)
    patched = comfy.ksampler(comfy(node, model=model, **options), positive, negative, steps=3)
    assert torch.isfinite(patched).all()
    assert float((patched - plain).abs().max()) > 1e-3
    exact = [
        comfy(
            "GlideSampler", model=m, positive=positive, negative=negative, seed=0, steps=3,
            latent_image=comfy.empty(), sampler_name="ddim", cfg=3.0,
        )[1]["samples"]
        for m in (model, comfy(node, model=model, **options))
    ]  # fmt: skip
    assert float((exact[0] - exact[1]).abs().max()) > 1e-3
