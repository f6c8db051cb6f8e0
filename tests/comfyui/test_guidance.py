"""CLIP guidance as a patch: on GLIDE with a noisy CLIP, on any model with an open_clip one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tools.comfyui.foreign import latent_model, open_clip_model


@pytest.fixture(scope="module")
def noisy(comfy: Any) -> Any:
    return comfy.load_clip()


@pytest.fixture(scope="module")
def open_clip(comfy: Any) -> Any:
    values = comfy.module("nodes.host.values")
    module, tokenizer = open_clip_model()
    made = values.GlideClip("open_clip", "tiny", module, tokenizer)
    return comfy.module("nodes.host.comfyui.gradient_patcher").managed_clip(made)


@pytest.fixture(scope="module")
def glide(comfy: Any) -> Any:
    model, clip, vae = comfy.load()
    return model, comfy.prompt(clip, "a red fox"), comfy.prompt(clip, ""), vae


@pytest.fixture(scope="module")
def latent(comfy: Any) -> Any:
    return latent_model()


def cosine(comfy: Any, clip: Any, samples: torch.Tensor, text: str) -> float:
    """Mean cosine of images in [-1, 1] with a text, by a GLIDE_CLIP."""
    lines = comfy("GlideClipScore", image=(samples.movedim(1, -1) + 1) / 2, clip=clip, text=text,
                  keep=0)[1]  # fmt: skip
    return float(lines.split()[0])


def test_noisy_clip_guides_builtin_samplers(
    comfy: Any, glide: Any, noisy: Any, builtin_sampler: str
) -> None:
    model, positive, negative, _ = glide
    guided = comfy("GlideClipGuidance", model=model, clip=noisy, text="a red fox", scale=20.0)
    plain = comfy.ksampler(model, positive, negative, sampler_name=builtin_sampler)
    found = comfy.ksampler(guided, positive, negative, sampler_name=builtin_sampler)
    assert torch.isfinite(found).all()
    assert float((found - plain).abs().max()) > 1e-2
    # x0 is clipped at every step; dpm_fast and dpm_adaptive do not end on one
    assert float(found.abs().max()) <= (
        3 if builtin_sampler in ("dpm_fast", "dpm_adaptive") else 1.01
    )


def test_guidance_raises_the_score(comfy: Any, glide: Any, noisy: Any) -> None:
    model, positive, negative, _ = glide
    guided = comfy("GlideClipGuidance", model=model, clip=noisy, text="blue", scale=30.0)
    plain = comfy.ksampler(model, positive, negative, steps=8)
    found = comfy.ksampler(guided, positive, negative, steps=8)
    assert cosine(comfy, noisy, found, "blue") > cosine(comfy, noisy, plain, "blue") + 0.02


def test_negative_scale_of_two_guides_cancels(comfy: Any, glide: Any, noisy: Any) -> None:
    """Guides add: the sum of one and its opposite is none."""
    model, positive, negative, _ = glide
    module = comfy.module("nodes.host.comfyui")
    values = comfy.module("nodes.host.values")
    host = module.ComfyHost()
    first = values.ClipGuide(noisy, "blue", 0.02)
    second = values.ClipGuide(noisy, "blue", -0.02)
    with torch.inference_mode():
        both = host.add_guide(host.add_guide(model, first), second)
    # a late start keeps the clamp of x0 out of the sum
    plain = comfy.ksampler(model, positive, negative, denoise=0.2)
    found = comfy.ksampler(both, positive, negative, denoise=0.2)
    torch.testing.assert_close(found, plain, rtol=0, atol=2e-2)


def test_interval_switches_guidance_off(comfy: Any, glide: Any, noisy: Any) -> None:
    model, positive, negative, _ = glide
    never = comfy(
        "GlideClipGuidance", model=model, clip=noisy, text="blue", scale=20.0,
        sigma_min=50000.0, sigma_max=60000.0,
    )  # fmt: skip
    plain = comfy.ksampler(model, positive, negative)
    assert torch.equal(comfy.ksampler(never, positive, negative), plain)


def test_the_unguided_model_stays_as_it_was(comfy: Any, glide: Any, noisy: Any) -> None:
    model, positive, negative, _ = glide
    before = comfy.ksampler(model, positive, negative)
    guided = comfy("GlideClipGuidance", model=model, clip=noisy, text="blue", scale=20.0)
    comfy.ksampler(guided, positive, negative)
    assert torch.equal(comfy.ksampler(model, positive, negative), before)


def test_gradients_survive_a_move_under_inference_mode(comfy: Any, glide: Any, noisy: Any) -> None:
    """A GPU would see `.to(device)` under inference mode; a change of dtype stands in for it."""
    model, positive, negative, _ = glide
    guided = comfy("GlideClipGuidance", model=model, clip=noisy, text="blue", scale=20.0)
    before = comfy.ksampler(guided, positive, negative, steps=2)
    patcher = noisy.patcher

    class Moving(type(patcher)):  # type: ignore[misc]
        def load(self, *args: Any, **options: Any) -> None:
            with torch.inference_mode(False):
                self.model.double().float()
            super().load(*args, **options)

    comfy.management.unload_all_models()
    with torch.inference_mode():
        patcher.__class__ = Moving
        try:
            after = comfy.ksampler(guided, positive, negative, steps=2)
        finally:
            patcher.__class__ = Moving.__mro__[1]
    assert not any(p.is_inference() for p in noisy.module.parameters())
    torch.testing.assert_close(after, before)


def test_the_clip_is_loaded_and_freed_with_the_model(comfy: Any, glide: Any, noisy: Any) -> None:
    model, positive, negative, _ = glide
    guided = comfy("GlideClipGuidance", model=model, clip=noisy, text="blue", scale=20.0)
    comfy.management.unload_all_models()
    comfy.ksampler(guided, positive, negative, steps=1)
    loaded = [entry.model.model for entry in comfy.management.current_loaded_models]
    assert noisy.module in loaded
    comfy.management.unload_all_models()
    assert not comfy.management.current_loaded_models


def test_open_clip_guides_glide(comfy: Any, glide: Any, open_clip: Any) -> None:
    model, positive, negative, _ = glide
    guided = comfy("GlideClipGuidance", model=model, clip=open_clip, text="blue", scale=20.0)
    plain = comfy.ksampler(model, positive, negative, steps=8)
    found = comfy.ksampler(guided, positive, negative, steps=8)
    assert cosine(comfy, open_clip, found, "blue") > cosine(comfy, open_clip, plain, "blue")


def test_open_clip_guides_a_latent_model(
    comfy: Any, latent: Any, open_clip: Any, builtin_sampler: str
) -> None:
    model, vae, conditioning = latent
    guided = comfy(
        "GlideClipGuidance",
        model=model,
        clip=open_clip,
        text="blue",
        scale=50.0,
        vae=vae,
        cutouts=2,
    )
    empty = {"samples": torch.zeros(1, 4, 8, 8)}
    run = {"latent_image": empty, "sampler_name": builtin_sampler}
    plain = comfy.ksampler(model, conditioning, conditioning, **run)
    found = comfy.ksampler(guided, conditioning, conditioning, **run)
    assert torch.isfinite(found).all()
    assert float((found - plain).abs().max()) > 1e-3


@pytest.mark.parametrize("sampling", ["v_prediction", "x0", "lcm", "flow"])
def test_open_clip_guides_any_prediction_type_of_a_latent_model(
    comfy: Any, latent: Any, open_clip: Any, sampling: str
) -> None:
    model, vae, conditioning = latent
    if sampling == "flow":
        model = comfy("ModelSamplingSD3", model=model, shift=3.0)
    else:
        model = comfy("ModelSamplingDiscrete", model=model, sampling=sampling, zsnr=False)
    guided = comfy(
        "GlideClipGuidance", model=model, clip=open_clip, text="blue", scale=50.0, vae=vae,
        cutouts=1,
    )  # fmt: skip
    run = {"latent_image": {"samples": torch.zeros(1, 4, 8, 8)}}
    plain = comfy.ksampler(model, conditioning, conditioning, **run)
    found = comfy.ksampler(guided, conditioning, conditioning, **run)
    assert torch.isfinite(found).all()
    assert float((found - plain).abs().max()) > 1e-3


@pytest.mark.parametrize("node", ["RescaleCFG", "FreeU_V2", "EasyCache"])
def test_guidance_combines_with_other_patches(
    comfy: Any, glide: Any, noisy: Any, node: str
) -> None:
    model, positive, negative, _ = glide
    inputs: dict[str, dict[str, Any]] = {
        "RescaleCFG": {"multiplier": 0.7},
        "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
        "EasyCache": {
            "reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False
        },
    }  # fmt: skip
    patched = comfy(node, model=model, **inputs[node])
    both = comfy("GlideClipGuidance", model=patched, clip=noisy, text="blue", scale=30.0)
    plain = comfy.ksampler(patched, positive, negative, steps=8)
    found = comfy.ksampler(both, positive, negative, steps=8)
    assert cosine(comfy, noisy, found, "blue") > cosine(comfy, noisy, plain, "blue") + 0.02


def test_open_clip_raises_a_latent_model_s_score(comfy: Any, latent: Any, open_clip: Any) -> None:
    model, vae, conditioning = latent
    guided = comfy(
        "GlideClipGuidance", model=model, clip=open_clip, text="blue", scale=100.0, vae=vae,
        cutouts=1,
    )  # fmt: skip
    scores = []
    for patcher in (model, guided):
        samples = comfy.ksampler(
            patcher, conditioning, conditioning, steps=8,
            latent_image={"samples": torch.zeros(1, 4, 8, 8)},
        )  # fmt: skip
        image = comfy("VAEDecode", vae=vae, samples={"samples": samples})
        lines = comfy("GlideClipScore", image=image, clip=open_clip, text="blue", keep=0)[1]
        scores.append(float(lines.split()[0]))
    assert scores[1] > scores[0]


def test_a_vae_of_another_model_is_an_error(comfy: Any, latent: Any, open_clip: Any) -> None:
    inputs = {"model": latent[0], "clip": open_clip, "text": "blue", "scale": 1.0}
    with pytest.raises(Exception, match="'vae' decodes latents of 3 channels"):
        comfy("GlideClipGuidance", **inputs, vae=comfy.load()[2])


def test_a_latent_model_without_its_vae_is_an_error(
    comfy: Any, latent: Any, open_clip: Any
) -> None:
    with pytest.raises(ValueError, match="Connect its VAE"):
        comfy("GlideClipGuidance", model=latent[0], clip=open_clip, text="blue", scale=1.0)


def test_a_noisy_clip_on_a_latent_model_is_an_error(comfy: Any, latent: Any, noisy: Any) -> None:
    with pytest.raises(ValueError, match="Open CLIP Loader"):
        comfy(
            "GlideClipGuidance", model=latent[0], clip=noisy, text="blue", scale=1.0, vae=latent[1]
        )
