"""Nodes that repaint the masked part of an image, and the CONDITIONING for other samplers."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glide_core.errors import GlideError

from . import inputs, stages
from .host import Conditioning, current
from .host.values import INPAINT_IMAGE, INPAINT_MASK, with_extras

if TYPE_CHECKING:
    from torch import Tensor

NODE = "GLIDE Inpaint"
log = logging.getLogger("glide")


class GlideInpaint:
    CATEGORY = "GLIDE/sampling"
    DESCRIPTION = (
        "Repaints the white part of a mask by a prompt, in an image of any size: crops a square "
        "around the mask, repaints it at 64x64 and, with an upsampler, at 256x256, and stitches it "
        "back. Pixels outside the mask do not change."
    )
    SEARCH_ALIASES = ["glide fill", "inpaint any size", "crop and stitch", "outpaint"]
    FUNCTION = "inpaint"
    RETURN_TYPES = ("IMAGE", "IMAGE")
    RETURN_NAMES = ("image", "patch")
    OUTPUT_TOOLTIPS = (
        "The whole image, at its own size, with the repainted part stitched in.",
        "The repainted square alone, as the model generated it.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        def pixels(default: int, least: int, tooltip: str) -> inputs.Declared:
            limits = {"default": default, "min": least, "max": 256}
            return ("INT", {**limits, "advanced": True, "tooltip": tooltip})

        return {
            "required": {
                "model": inputs.model("An inpainting model, from GLIDE Loader."),
                "seed": inputs.seed(),
                "steps": inputs.steps(30),
                "cfg": inputs.cfg(3.0),
                "sampler_name": inputs.sampler_name("ddim"),
                "positive": inputs.positive(),
                "negative": inputs.negative(lazy=True),
                "image": inputs.image("The image to repaint, of any size."),
                "mask": (
                    "MASK",
                    {
                        "tooltip": "White (1) is repainted. A mask of another size is resized to "
                        "the image; soft edges are cut at one half. One mask for all images, or "
                        "one for each."
                    },
                ),
            },
            "optional": {
                "upsampler": inputs.model(
                    "An upsampler-inpaint model, from GLIDE Upsampler Loader. Without it the "
                    "64x64 result is enlarged without added detail."
                ),
                "upsample_steps": inputs.steps(27, inputs.UPSAMPLE_STEPS),
                "variations": inputs.variations("Number of different results for each image."),
                "mask_grow": pixels(
                    0, -256, "Pixels by which the mask is enlarged; a negative number shrinks it."
                ),
                "mask_blur": pixels(
                    0, 0, "Pixels over which the result fades out beyond the mask's edge."
                ),
                "context": (
                    "FLOAT",
                    {
                        "default": 0.5,
                        "min": 0.0,
                        "max": 8.0,
                        "step": 0.05,
                        "advanced": True,
                        "tooltip": "How much of the surroundings the model sees on each side, "
                        "relative to the size of the mask.",
                    },
                ),
                "feather": pixels(
                    8, 0, "Pixels inside the mask over which the old image blends into the new one."
                ),
                "temperature": inputs.temperature(0.997),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, sampler_name: str | None = None) -> str | bool:
        return inputs.sampler_problem(sampler_name)

    def check_lazy_status(self, cfg: float, negative: Any = None, **unused: Any) -> list[str]:
        """Name the inputs that must be computed: without guidance there is no negative prompt."""
        return ["negative"] if negative is None and cfg != 1 else []

    def inpaint(
        self,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        positive: Conditioning,
        negative: Conditioning | None,
        image: Any,
        mask: Any,
        upsampler: Any = None,
        upsample_steps: int = 27,
        variations: int = 1,
        mask_grow: int = 0,
        mask_blur: int = 0,
        context: float = 0.5,
        feather: int = 8,
        temperature: float = 0.997,
    ) -> tuple[Any, Any]:
        import torch

        from glide_core import crop, images
        from glide_core.config import SamplerConfig
        from glide_core.request import UPSAMPLE_SETTINGS, image_seeds
        from glide_core.stages import StageInputs

        from . import masks

        host = current()
        configs = [inputs.require_kind(host, model, ("inpaint",), node=NODE)]
        if upsampler is not None:
            wanted = ("upsampler-inpaint",)
            configs.append(
                inputs.require_kind(host, upsampler, wanted, node=NODE, name="upsampler")
            )
        if mask_blur < 0 or feather < 0:  # possible where the inputs are connected
            raise GlideError(f"{NODE}: mask_blur is {mask_blur}, feather {feather}. Expected 0 up.")
        image = inputs.require_image(image, node=NODE)
        hole = _hole(NODE, inputs.require_mask(mask, node=NODE), image)
        hole, weight = masks.widened(hole, mask_grow, mask_blur)
        image, mask = masks.paired(image, hole[:, 0], node=NODE)
        batch, sides = len(image) * variations, tuple(c.unet.image_size for c in configs)
        # one crop per mask; with a single mask all images share its crop
        crops = [
            crop.crop_for_inpainting(
                image[i : i + 1] if len(mask) > 1 else image, one, sides, context
            )
            for i, one in enumerate(mask.split(1))
        ]
        known = [
            StageInputs(
                image=images.cycle(torch.cat([c.images[stage] for c in crops]), batch),
                keep_mask=images.cycle(torch.cat([c.keep_masks[stage] for c in crops]), batch),
                size=(side, side),
            )
            for stage, side in enumerate(sides)
        ]
        prompts, seeds = stages.Prompts(NODE, positive, negative), image_seeds(seed, batch)
        settings = SamplerConfig(steps=steps, sampler=sampler_name, guidance_scale=cfg)
        enlarging = replace(UPSAMPLE_SETTINGS, steps=upsample_steps, temperature=temperature)
        with host.progress(NODE, len(configs)) as callback:
            patch = stages.sample(model, prompts, settings, seeds, known[0], callback)
            if upsampler is not None:
                begin = replace(known[1], low_res=images.quantize_8bit(patch))
                patch = stages.sample(upsampler, prompts, enlarging, seeds, begin, callback)
        image, mask = images.cycle(image, batch), images.cycle(mask, batch)
        if len(crops) == 1:
            stitched = crop.stitch(image, patch, crops[0].region, mask, feather)
        else:
            parts = (image.split(1), patch.split(1), mask.split(1))
            stitched = torch.cat(
                [
                    crop.stitch(old, new, crops[i % len(crops)].region, one, feather)
                    for i, (old, new, one) in enumerate(zip(*parts, strict=True))
                ]
            )
        if weight is not None:
            share = images.cycle(weight, batch).movedim(1, -1).to(image)
            stitched = torch.where(share > 0, image + share * (stitched - image), image)
        return host.compared(image, stitched, (stitched, images.to_comfy(patch)))


class GlideInpaintConditioning:
    CATEGORY = "GLIDE/conditioning"
    DESCRIPTION = (
        "Adds an image and a mask to the prompts, for sampling GLIDE's inpainting model with GLIDE "
        "Sampler or KSampler. The image is resized to the size given here, whatever its aspect "
        "ratio; GLIDE Inpaint crops and stitches instead."
    )
    SEARCH_ALIASES = ["inpaint model conditioning", "glide inpaint conditioning"]
    FUNCTION = "encode"
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    RETURN_NAMES = ("positive", "negative", "latent")
    OUTPUT_TOOLTIPS = (
        "The prompt, with image and mask.",
        "The negative prompt, with image and mask.",
        "The image as a LATENT, with the mask, to sample from.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "positive": inputs.positive(),
                "negative": inputs.negative(),
                "image": inputs.image("The image to repaint."),
                "mask": ("MASK", {"tooltip": "White (1) is repainted."}),
                "width": inputs.side("Width to sample at; the models were trained at 64."),
                "height": inputs.side("Height to sample at; the models were trained at 64."),
                "noise_mask": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Add the mask to the LATENT too, so that samplers change "
                        "nothing outside it.",
                    },
                ),
            }
        }

    def encode(
        self,
        positive: Conditioning,
        negative: Conditioning,
        image: Any,
        mask: Any,
        width: int,
        height: int,
        noise_mask: bool,
    ) -> tuple[Any, Any, dict[str, Any]]:
        from glide_core import images

        from . import masks
        from .latents import RATIO

        node = "GLIDE Inpaint Conditioning"
        inputs.require_prompts(positive, negative, node=node)
        image, mask = masks.paired(
            inputs.require_image(image, node=node), inputs.require_mask(mask, node=node), node=node
        )
        given = images.from_comfy(image)
        pixels = images.resize(given, (height, width))
        inputs.log_resize(node, given, pixels, "width and height")
        hole = images.cycle(masks.rounded(mask, (height, width), node=node), len(pixels))
        extras = {INPAINT_IMAGE: pixels, INPAINT_MASK: hole}
        latent: dict[str, Any] = {"samples": pixels, RATIO: 1}
        if noise_mask:
            latent["noise_mask"] = hole
        return with_extras(positive, **extras), with_extras(negative, **extras), latent


def _hole(node: str, mask: Tensor, image: Tensor) -> Tensor:
    """Give the part to repaint [B, 1, H, W] of 0 and 1, at the image's size; log what was lost."""
    from .masks import rounded

    size = (image.shape[1], image.shape[2])
    hole = rounded(mask, size, node=node)
    if tuple(mask.shape[1:]) != size:
        text = "%s: resized the mask from %dx%d to the image's %dx%d."
        log.info(text, node, mask.shape[2], mask.shape[1], size[1], size[0])
    if not hole.any():
        log.warning("%s: the mask marks nothing (no white), so that nothing changes.", node)
    return hole
