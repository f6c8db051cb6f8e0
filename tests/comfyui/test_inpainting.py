"""Both inpainting models in ComfyUI's nodes and in ours: what is hidden stays hidden."""

from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def glide(comfy: Any) -> Any:
    """The inpainting MODEL, its VAE, and two prompts."""
    model, clip, vae = comfy.load("inpaint")
    return model, vae, comfy.prompt(clip, "a red fox"), comfy.prompt(clip, "")


def make_image(size: int = 64, hidden: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """An image whose right half is `hidden`, and the mask that covers that half (1 = repaint)."""
    image = torch.rand(1, size, size, 3, generator=torch.Generator().manual_seed(4))
    mask = torch.zeros(1, size, size)
    mask[:, :, size // 2 :] = 1.0
    image[:, :, size // 2 :] = hidden
    return image, mask


def model_sees(comfy: Any, model: Any, run: Any) -> list[torch.Tensor]:
    """Collect the inpainting channels of every model call while `run` samples with a clone."""
    seen: list[torch.Tensor] = []
    clone = model.clone()

    def spy(apply: Any, args: dict[str, Any]) -> torch.Tensor:
        seen.append(args["c"]["c_concat"].clone())
        return apply(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(spy)
    run(clone)
    assert seen
    return seen


@pytest.mark.parametrize("noise_mask", [True, False])
@pytest.mark.parametrize("node", ["InpaintModelConditioning", "GlideInpaintConditioning"])
def test_conditioning_hides_what_the_mask_covers(
    comfy: Any, glide: Any, node: str, noise_mask: bool
) -> None:
    model, vae, positive, negative = glide

    def channels(hidden: float) -> torch.Tensor:
        image, mask = make_image(hidden=hidden)
        inputs = {"positive": positive, "negative": negative, "mask": mask}
        if node.startswith("Glide"):
            inputs |= {"image": image, "width": 64, "height": 64}
        else:
            inputs |= {"pixels": image, "vae": vae}
        plus, minus, latent = comfy(node, noise_mask=noise_mask, **inputs)

        def run(clone: Any) -> None:
            comfy.ksampler(clone, plus, minus, latent_image=latent, steps=1)

        return model_sees(comfy, model, run)[0]

    dark, light = channels(0.0), channels(1.0)
    assert torch.equal(dark, light)
    image, _ = make_image()
    torch.testing.assert_close(dark[0, :3, :, :32], image[0, :, :32].movedim(-1, 0) * 2 - 1)
    assert float(dark[:, :3, :, 32:].abs().max()) == 0
    assert torch.equal(dark[0, 3].unique(), torch.tensor([0.0, 1.0]))
    assert float(dark[0, 3, :, :32].min()) == 1 and float(dark[0, 3, :, 32:].max()) == 0


def test_a_noise_mask_alone_hides_too(comfy: Any, glide: Any) -> None:
    model, vae, positive, negative = glide

    def channels(hidden: float) -> torch.Tensor:
        image, mask = make_image(hidden=hidden)
        latent = comfy("VAEEncode", pixels=image, vae=vae)
        latent = comfy("SetLatentNoiseMask", samples=latent, mask=mask)
        return model_sees(
            comfy,
            model,
            lambda clone: comfy.ksampler(clone, positive, negative, latent_image=latent, steps=1),
        )[0]

    assert torch.equal(channels(0.0), channels(1.0))


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m", "lcm", "euler_ancestral"])
@pytest.mark.parametrize("name", ["inpaint", "base"])
def test_a_noise_mask_keeps_the_known_half(comfy: Any, name: str, sampler: str) -> None:
    model, clip, vae = comfy.load(name)
    positive, negative = comfy.prompt(clip, "a red fox"), comfy.prompt(clip, "")
    image, mask = make_image()
    latent = comfy("VAEEncode", pixels=image, vae=vae)
    latent = comfy("SetLatentNoiseMask", samples=latent, mask=mask)
    found = comfy.ksampler(model, positive, negative, latent_image=latent, sampler_name=sampler)
    kept = latent["samples"][..., :32]
    torch.testing.assert_close(found[..., :32], kept, rtol=0, atol=1e-3)
    assert float((found[..., 32:] - latent["samples"][..., 32:]).abs().mean()) > 0.05


def test_under_a_full_mask_the_model_samples_from_text_alone(comfy: Any, glide: Any) -> None:
    model, _, positive, negative = glide
    latent = {**comfy.empty(), "noise_mask": torch.ones(1, 64, 64)}
    seen = model_sees(
        comfy, model, lambda m: comfy.ksampler(m, positive, negative, steps=1, latent_image=latent)
    )
    assert float(seen[0].abs().max()) == 0


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_masks_of_one_value_work(comfy: Any, glide: Any, value: float) -> None:
    model, vae, positive, negative = glide
    image, _ = make_image()
    mask = torch.full((1, 64, 64), value)
    plus, minus, latent = comfy(
        "InpaintModelConditioning",
        positive=positive, negative=negative, vae=vae, pixels=image, mask=mask, noise_mask=True,
    )  # fmt: skip
    found = comfy.ksampler(model, plus, minus, latent_image=latent)
    assert torch.isfinite(found).all()
    if value == 0.0:
        torch.testing.assert_close(found, latent["samples"], rtol=0, atol=1e-3)


def test_a_large_image_is_resized_without_leaking_hidden_pixels(comfy: Any, glide: Any) -> None:
    model, _, positive, negative = glide
    values = comfy.module("nodes.host.values")

    def channels(hidden: float) -> torch.Tensor:
        image, mask = make_image(size=200, hidden=hidden)
        extras = {
            values.INPAINT_IMAGE: image.movedim(-1, 1) * 2 - 1,
            values.INPAINT_MASK: mask[:, None],
        }
        plus, minus = (values.with_extras(c, **extras) for c in (positive, negative))
        return model_sees(comfy, model, lambda m: comfy.ksampler(m, plus, minus, steps=1))[0]

    assert torch.equal(channels(0.0), channels(1.0))


def inpaint(comfy: Any, glide: Any, **changes: Any) -> torch.Tensor:
    model, _, positive, negative = glide
    image, mask = make_image(size=96)
    inputs = {
        "model": model, "image": image, "mask": mask, "positive": positive, "negative": negative,
        "seed": 0, "steps": 3, "sampler_name": "ddim", "cfg": 3.0, **changes,
    }  # fmt: skip
    return comfy("GlideInpaint", **inputs)[0]


def test_our_node_leaves_untouched_pixels_as_they_are(comfy: Any, glide: Any) -> None:
    image, _ = make_image(size=96)
    found = inpaint(comfy, glide, feather=0)
    assert found.shape == image.shape
    assert torch.equal(found[:, :, :48], image[:, :, :48])
    assert float((found[:, :, 48:] - image[:, :, 48:]).abs().mean()) > 0.01


def test_our_node_uses_both_inpainting_models(comfy: Any, glide: Any) -> None:
    upsampler = comfy.load_upsampler("upsampler-inpaint")
    with comfy.progress() as reports:
        found = inpaint(comfy, glide, upsampler=upsampler, upsample_steps=2)
    assert torch.isfinite(found).all()
    assert len(reports) == 5 and reports[-1][0] == reports[-1][1]


def test_our_node_stops_within_a_step(comfy: Any, glide: Any) -> None:
    with (
        comfy.progress(stop_at=2) as reports,
        pytest.raises(comfy.management.InterruptProcessingException),
    ):
        inpaint(comfy, glide, steps=40)
    assert len(reports) == 2
