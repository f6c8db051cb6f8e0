"""What GLIDE cannot sample is refused before the first step, naming the sampler's input."""

from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def prompts(comfy: Any) -> tuple[Any, Any]:
    clip = comfy.load()[1]
    return comfy.prompt(clip, "a red fox"), comfy.prompt(clip, "")


def refused(comfy: Any, model: Any, positive: Any, negative: Any, **inputs: Any) -> str:
    """Run KSampler on a spied clone of MODEL; gives the error, and checks that no step ran."""
    calls: list[int] = []
    clone = model.clone()

    def spy(apply: Any, args: dict[str, Any]) -> torch.Tensor:
        calls.append(1)
        return apply(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(spy)
    with pytest.raises(Exception) as caught:  # GlideError, of the pack as ComfyUI imported it
        comfy.ksampler(clone, positive, negative, **inputs)
    assert type(caught.value).__name__ == "GlideError"
    assert not calls
    return str(caught.value)


def test_a_tiny_latent(comfy: Any, prompts: Any) -> None:
    error = refused(comfy, comfy.load()[0], *prompts, latent_image=comfy.empty(size=8))
    assert "'latent_image' is 8x8 pixels. Expected at least 32x32" in error
    assert "GLIDE Empty Latent" in error


def test_a_latent_of_another_kind_of_model(comfy: Any, prompts: Any) -> None:
    latent = {"samples": torch.ones(1, 4, 64, 64)}
    error = refused(comfy, comfy.load()[0], *prompts, latent_image=latent)
    assert "'latent_image' has the shape [1, 4, 64, 64]" in error


def test_an_inpainting_model_without_an_image_and_a_mask(comfy: Any, prompts: Any) -> None:
    error = refused(comfy, comfy.load("inpaint")[0], *prompts)
    assert "neither the CONDITIONING on 'positive' nor 'latent_image' carries an image" in error
    assert "GLIDE Inpaint Conditioning" in error


def test_an_inpainting_model_with_an_image_on_one_prompt(comfy: Any, prompts: Any) -> None:
    image, mask = torch.rand(1, 64, 64, 3), torch.ones(1, 64, 64)
    positive, _, latent = comfy(
        "GlideInpaintConditioning", positive=prompts[0], negative=prompts[1], image=image,
        mask=mask, width=64, height=64, noise_mask=False,
    )  # fmt: skip
    model = comfy.load("inpaint")[0]
    error = refused(comfy, model, positive, prompts[1], latent_image=latent)
    assert "neither the CONDITIONING on 'negative'" in error
    inputs = {"positive": positive, "negative": prompts[1], "latent_image": latent, "steps": 2}
    found, _ = comfy("GlideSampler", model=model, preset="custom", **inputs)
    assert torch.isfinite(found).all()  # GLIDE Sampler takes the positive prompt's image for both


def test_an_upsampler_without_an_image(comfy: Any, prompts: Any) -> None:
    error = refused(comfy, comfy.load_upsampler(), *prompts)
    assert "'positive' carries no image to enlarge" in error
    assert "GLIDE Upsample Conditioning" in error


@pytest.mark.parametrize(
    ("size", "batch", "words"),
    [
        (64, 1, "an image of 64x64 pixels to enlarge, and the LATENT on 'latent_image' is 64x64"),
        (256, 3, "carries 2 images, and the LATENT on 'latent_image' holds 3"),
    ],
)
def test_an_upsampler_with_a_latent_that_does_not_fit(
    comfy: Any, prompts: Any, size: int, batch: int, words: str
) -> None:
    positive, negative, _ = comfy(
        "GlideUpsampleConditioning", positive=prompts[0], negative=prompts[1],
        image=torch.rand(2 if batch > 1 else 1, 64, 64, 3),
    )  # fmt: skip
    latent = comfy.empty(batch, size=size)
    error = refused(comfy, comfy.load_upsampler(), positive, negative, latent_image=latent)
    assert words in error


def test_a_base_model_with_an_image_to_enlarge(comfy: Any, prompts: Any) -> None:
    positive, negative, latent = comfy(
        "GlideUpsampleConditioning", positive=prompts[0], negative=prompts[1],
        image=torch.rand(1, 64, 64, 3),
    )  # fmt: skip
    error = refused(comfy, comfy.load()[0], positive, negative, latent_image=latent)
    assert "GLIDE's base model" in error and "'positive' carries an image to enlarge" in error


def test_a_prompt_of_another_kind_of_clip(comfy: Any, prompts: Any) -> None:
    foreign = [[torch.zeros(1, 77, 768), {"pooled_output": torch.zeros(1, 768)}]]
    error = refused(comfy, comfy.load()[0], prompts[0], foreign)
    assert "the CONDITIONING on 'negative' was not made by a GLIDE text encoder" in error


@pytest.mark.parametrize("sampler", ["KSampler", "GlideSampler"])
def test_areas_of_any_size_are_sampled(comfy: Any, prompts: Any, sampler: str) -> None:
    """The bounds of a mask need not be a size that the UNet can halve."""
    model, mask = comfy.load()[0], torch.zeros(1, 64, 96)
    mask[..., :51] = 1
    parts = [
        comfy(
            "ConditioningSetMask", conditioning=prompt, mask=m, strength=1.0,
            set_cond_area="mask bounds",
        )
        for prompt, m in zip(prompts, (mask, 1 - mask), strict=True)
    ]  # fmt: skip
    positive = comfy("ConditioningCombine", conditioning_1=parts[0], conditioning_2=parts[1])
    inputs = {"latent_image": {"samples": torch.zeros(1, 3, 64, 96)}, "steps": 2}
    if sampler == "KSampler":
        found = comfy.ksampler(model, positive, prompts[1], **inputs)
    else:
        found = comfy(
            sampler, model=model, positive=positive, negative=prompts[1], preset="custom", **inputs
        )[1]["samples"]
    assert found.shape == (1, 3, 64, 96) and torch.isfinite(found).all()
