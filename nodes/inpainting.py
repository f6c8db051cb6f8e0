"""Nodes that repaint the masked part of a picture, and the CONDITIONING for doing so elsewhere."""

from __future__ import annotations

import logging
from typing import Any

from . import inputs, stages
from .host import Conditioning, current
from .host.values import INPAINT_IMAGE, INPAINT_MASK, with_extras

NODE = "GLIDE Inpaint"
log = logging.getLogger("glide")


class GlideInpaint:
    CATEGORY = "GLIDE/inpainting"
    DESCRIPTION = (
        "Repaints where the mask is white, by a prompt, in a picture of any size: a square around "
        "the mask is cut out, repainted at 64x64 and, with an upsampler, at 256x256, and stitched "
        "back. Outside the mask not one pixel changes."
    )
    SEARCH_ALIASES = ["glide fill", "inpaint any size", "crop and stitch", "outpaint"]
    FUNCTION = "inpaint"
    RETURN_TYPES = ("IMAGE", "IMAGE")
    RETURN_NAMES = ("image", "patch")
    OUTPUT_TOOLTIPS = (
        "The whole picture, at its own size, with the repainted part stitched in.",
        "The repainted square alone, as the model drew it.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": inputs.model("An inpainting model, from GLIDE Loader."),
                "image": ("IMAGE", {"tooltip": "The picture to repaint in, of any size."}),
                "mask": (
                    "MASK",
                    {
                        "tooltip": "White (1) is repainted. Another size is fitted to the "
                        "picture's; soft edges are cut at one half."
                    },
                ),
                "positive": inputs.positive(),
                "negative": inputs.negative(),
                "seed": inputs.seed(),
                "steps": inputs.steps(30),
                "sampler_name": inputs.sampler_name("ddim"),
                "cfg": inputs.cfg(3.0),
            },
            "optional": {
                "upsampler": inputs.model(
                    "An upsampler-inpaint model, from GLIDE Upsampler Loader. Without it the "
                    "64x64 result is enlarged as it is."
                ),
                "upsample_steps": inputs.steps(27, inputs.UPSAMPLE_STEPS),
                "variations": (
                    "INT",
                    {
                        "default": 1,
                        "min": 1,
                        "max": 64,
                        "tooltip": "How many different repaintings of every picture.",
                    },
                ),
                "context": (
                    "FLOAT",
                    {
                        "default": 0.5,
                        "min": 0.0,
                        "max": 8.0,
                        "step": 0.05,
                        "advanced": True,
                        "tooltip": "How much of the surroundings the model sees on each side, as "
                        "a part of the mask's extent.",
                    },
                ),
                "feather": (
                    "INT",
                    {
                        "default": 8,
                        "min": 0,
                        "max": 256,
                        "advanced": True,
                        "tooltip": "Pixels, inside the mask, over which old fades into new.",
                    },
                ),
                "temperature": inputs.temperature(0.997),
            },
        }

    def inpaint(
        self,
        model: Any,
        image: Any,
        mask: Any,
        positive: Conditioning,
        negative: Conditioning,
        seed: int,
        steps: int,
        sampler_name: str,
        cfg: float,
        upsampler: Any = None,
        upsample_steps: int = 27,
        variations: int = 1,
        context: float = 0.5,
        feather: int = 8,
        temperature: float = 0.997,
    ) -> tuple[Any, Any]:
        from glide_core import crop, images
        from glide_core.config import SamplerConfig

        host = current()
        configs = [inputs.need(host, model, ("inpaint",), node=NODE)]
        if upsampler is not None:
            wanted = ("upsampler-inpaint",)
            configs.append(inputs.need(host, upsampler, wanted, node=NODE, name="upsampler"))
        batch = len(image) * variations
        image = images.cycle(image, batch)
        sides = tuple(config.unet.image_size for config in configs)
        cut = crop.crop_for_inpainting(image, mask, sides, context)
        if cut.soft:
            log.warning("%s: %s", NODE, images.SOFT_EDGES)
        prompts = stages.Prompts(NODE, positive, negative)
        with host.progress(NODE, len(configs)) as callback:
            patch = stages.sample(
                host,
                model,
                prompts,
                SamplerConfig(steps=steps, sampler=sampler_name, guidance_scale=cfg),
                seed=seed,
                batch=batch,
                size=(sides[0], sides[0]),
                callback=callback,
                image=cut.images[0],
                keep_mask=cut.keep_masks[0],
            )
            if upsampler is not None:
                patch = stages.sample(
                    host,
                    upsampler,
                    prompts,
                    stages.upsample_settings(
                        upsample_steps, sampler="ddpm", temperature=temperature
                    ),
                    seed=seed,
                    batch=batch,
                    size=(sides[1], sides[1]),
                    callback=callback,
                    low_res=images.quantize_8bit(patch),
                    image=cut.images[1],
                    keep_mask=cut.keep_masks[1],
                )
        stitched = crop.stitch(image, patch, cut.region, mask, feather)
        return host.compared(image, stitched, (stitched, images.to_comfy(patch)))


class GlideInpaintConditioning:
    CATEGORY = "GLIDE/inpainting"
    DESCRIPTION = (
        "Puts a picture and a mask into the prompts, for sampling GLIDE's inpainting model with "
        "GLIDE Sampler or KSampler. The picture is squeezed to the size given here; GLIDE Inpaint "
        "does crop and stitch as well."
    )
    SEARCH_ALIASES = ["inpaint model conditioning", "glide inpaint conditioning"]
    FUNCTION = "encode"
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    RETURN_NAMES = ("positive", "negative", "latent")
    OUTPUT_TOOLTIPS = (
        "The prompt, with picture and mask.",
        "The negative prompt, with picture and mask.",
        "The picture as a LATENT, masked, to sample from.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        def side(name: str) -> inputs.Declared:
            text = f"{name} to sample at; the models were trained at 64."
            return ("INT", {"default": 64, "min": 8, "max": 1024, "step": 8, "tooltip": text})

        return {
            "required": {
                "positive": inputs.positive(),
                "negative": inputs.negative(),
                "image": ("IMAGE", {"tooltip": "The picture to repaint in."}),
                "mask": ("MASK", {"tooltip": "White (1) is repainted."}),
                "width": side("Width"),
                "height": side("Height"),
                "noise_mask": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Give the LATENT the mask too, so that core samplers change "
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

        picture = images.resize(images.from_comfy(image), (height, width))
        keep, soft = images.keep_mask(mask, (height, width), len(picture))
        if soft:
            log.warning("GLIDE Inpaint Conditioning: %s", images.SOFT_EDGES)
        extras = {INPAINT_IMAGE: picture, INPAINT_MASK: 1 - keep}
        latent = {"samples": picture}
        if noise_mask:
            latent["noise_mask"] = 1 - keep
        return with_extras(positive, **extras), with_extras(negative, **extras), latent
