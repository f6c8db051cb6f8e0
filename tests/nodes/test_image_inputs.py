"""What nodes make of images and masks: batches, sizes, and those that do not fit."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from node_calls import base, call, latent, make_image, noisy_clip, prompts, sample, upsampler

from glide_core import images
from glide_core.errors import GlideError

pytestmark = pytest.mark.usefixtures("standalone")


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
        inputs["clip"] = noisy_clip()
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
