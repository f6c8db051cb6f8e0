"""GLIDE Sampler honours what changes guidance in a MODEL, as ComfyUI's own guiders do."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

NODES: dict[str, dict[str, Any]] = {
    "RescaleCFG": {"multiplier": 0.7},
    "APG": {"eta": 0.5, "norm_threshold": 5.0, "momentum": 0.0},
    "CFGZeroStar": {},
    "CFGNorm": {"strength": 1.0},
    "TCFG": {},
    "Mahiro": {},
    "FreSca": {"scale_low": 1.0, "scale_high": 1.25, "freq_cutoff": 20},
}


@pytest.fixture(scope="module")
def glide(comfy: Any) -> Any:
    model, clip, _ = comfy.load("base_v")
    return model, comfy.prompt(clip, "a red fox"), comfy.prompt(clip, "")


def sample(comfy: Any, glide: Any, model: Any, **changes: Any) -> torch.Tensor:
    inputs = {
        "latent_image": comfy.empty(), "seed": 5, "steps": 6, "sampler_name": "ddim", "cfg": 3.0,
        **changes,
    }  # fmt: skip
    found = comfy("GlideSampler", model=model, positive=glide[1], negative=glide[2], **inputs)
    return found[1]["samples"].clone()  # type: ignore[no-any-return]


def euler_on_glide_steps(comfy: Any, glide: Any, model: Any) -> torch.Tensor:
    """KSampler's euler at GLIDE Sampler's timesteps and first noise: DDIM in other coordinates."""
    from glide_core.diffusion.schedule import Schedule

    steps = Schedule.named("squaredcos_cap_v2").respaced("6").timestep_map
    sigmas = model.get_model_object("model_sampling").sigmas[torch.tensor(list(steps)).flip(0)]
    return comfy(  # type: ignore[no-any-return]
        "SamplerCustom", model=model, add_noise=True, noise_seed=5, cfg=3.0, positive=glide[1],
        negative=glide[2], sampler=comfy("KSamplerSelect", sampler_name="euler"),
        sigmas=torch.cat([sigmas, torch.zeros(1)]), latent_image=comfy.empty(),
    )[0]["samples"]  # fmt: skip


@pytest.mark.parametrize("node", NODES)
def test_cfg_patches_act_as_under_ksampler(comfy: Any, glide: Any, node: str) -> None:
    if comfy.find(node) is None:
        pytest.skip(f"this ComfyUI has no {node}")
    patched = comfy(node, model=glide[0], **NODES[node])
    # patches get a clipped estimate in both samplers; only GLIDE Sampler clips what they make of it
    run = {"clip_denoised": False}
    found, plain = (sample(comfy, glide, m, **run) for m in (patched, glide[0]))
    assert torch.isfinite(found).all()
    assert float((found - plain).abs().max()) > 1e-3
    expected = euler_on_glide_steps(comfy, glide, patched)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)


def test_a_cfg_function_decides_the_guidance(comfy: Any, glide: Any) -> None:
    """One that ignores the negative prompt gives what guidance scale 1 gives."""
    model = glide[0].clone()
    model.set_model_sampler_cfg_function(lambda args: args["cond"])
    expected = sample(comfy, glide, glide[0], cfg=1.0)
    torch.testing.assert_close(sample(comfy, glide, model), expected, rtol=0, atol=5e-3)


def test_pre_cfg_functions_see_and_change_the_predictions(comfy: Any, glide: Any) -> None:
    seen: list[tuple[float, int]] = []

    def swap(args: dict[str, Any]) -> Any:
        seen.append((args["cond_scale"], len(args["conds_out"])))
        return args["conds_out"][::-1]

    model = glide[0].clone()
    model.set_model_sampler_pre_cfg_function(swap)
    found = sample(comfy, glide, model)
    assert seen == [(3.0, 2)] * 6
    swapped = comfy("GlideSampler", model=glide[0], positive=glide[2], negative=glide[1], seed=5,
                    latent_image=comfy.empty(), steps=6, sampler_name="ddim", cfg=3.0)  # fmt: skip
    torch.testing.assert_close(found, swapped[1]["samples"], rtol=0, atol=1e-2)


@pytest.mark.parametrize("sampler", ["KSampler", "GlideSampler"])
def test_what_a_patch_writes_to_the_options_lasts_for_one_run(
    comfy: Any, glide: Any, sampler: str
) -> None:
    """Momentum of other packs' guidance is kept there."""
    counts: list[int] = []

    def count(args: dict[str, Any]) -> Any:
        options = args["model_options"]
        options["steps_seen"] = options.get("steps_seen", 0) + 1
        counts.append(options["steps_seen"])
        return args["denoised"]

    model = glide[0].clone()
    model.set_model_sampler_post_cfg_function(count)
    for _ in range(2):
        if sampler == "KSampler":
            comfy.ksampler(model, glide[1], glide[2], steps=3)
        else:
            sample(comfy, glide, model, steps=3)
    assert counts == [1, 2, 3] * 2


@pytest.mark.parametrize("sampler", ["ancestral", "plms"])
def test_an_identity_patch_changes_nothing(comfy: Any, glide: Any, sampler: str) -> None:
    """The learned variance is the positive prompt's, with patches that call the model, too."""
    samplers = comfy.samplers

    def again(args: dict[str, Any]) -> Any:
        samplers.calc_cond_batch(
            args["model"], [args["uncond"]], args["input"], args["sigma"], args["model_options"]
        )
        return args["denoised"]

    model = glide[0].clone()
    model.set_model_sampler_post_cfg_function(again)
    found, plain = (sample(comfy, glide, m, sampler_name=sampler) for m in (model, glide[0]))
    torch.testing.assert_close(found, plain, rtol=0, atol=2e-2)  # rounding, at sigma 20291


def test_a_patch_that_needs_the_negative_prompt_is_refused_without_guidance(
    comfy: Any, glide: Any
) -> None:
    model = glide[0].clone()
    model.set_model_sampler_post_cfg_function(
        lambda args: args["denoised"], disable_cfg1_optimization=True
    )
    with pytest.raises(ValueError, match="Set cfg above 1"):
        sample(comfy, glide, model, cfg=1.0)


def test_what_glide_sampler_cannot_honour_is_named(
    comfy: Any, glide: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = comfy("DifferentialDiffusion", model=glide[0])
    sample(comfy, glide, model, steps=1)
    assert "GLIDE Sampler ignores these patches" in caplog.text


@pytest.mark.parametrize("sampler", ["KSampler", "GlideSampler"])
@pytest.mark.parametrize("condition", ["control", "gligen"])
def test_conditions_that_glide_does_not_have_are_refused(
    comfy: Any, glide: Any, sampler: str, condition: str
) -> None:
    model, positive, negative = glide
    added: Any = object()
    if condition == "control":
        added = importlib.import_module("comfy.controlnet").ControlBase()
    extended = [[states, {**extras, condition: added}] for states, extras in positive]
    with pytest.raises(ValueError, match="which GLIDE does not support"):
        if sampler == "KSampler":
            comfy.ksampler(model, extended, negative, steps=1)
        else:
            sample(comfy, (model, extended, negative), model, steps=1)
