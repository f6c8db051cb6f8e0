"""Nodes of the second stage, 64x64 to 256x256: in one step, and as CONDITIONING for KSampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import inputs, stages
from .host import Conditioning, current
from .host.values import LOW_RES, with_extras

if TYPE_CHECKING:
    from torch import Tensor

NODE = "GLIDE Upsample"


def low_size() -> inputs.Declared:
    return (
        "INT",
        {
            "default": 64,
            "min": 0,
            "max": 1024,
            "step": 8,
            "advanced": True,
            "tooltip": "The image is first resized so that its shorter side has this many pixels; "
            "0 keeps its size, rounded to multiples of 8.",
        },
    )


class GlideUpsample:
    CATEGORY = "GLIDE/sampling"
    DESCRIPTION = (
        "Enlarges images four times with GLIDE's upsampler, which also reads the prompt. The model "
        "was trained on 64x64 images: a larger image is first reduced so that its shorter side is "
        "64, unless `low_size` is changed."
    )
    SEARCH_ALIASES = ["glide upscale", "super resolution", "64 to 256", "upsampler"]
    FUNCTION = "upsample"
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The images; their shorter side is four times `low_size`.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": inputs.model("The upsampler, from GLIDE Upsampler Loader."),
                "seed": inputs.seed(),
                "steps": inputs.steps(27, inputs.UPSAMPLE_STEPS),
                "cfg": inputs.cfg(1.0),
                "sampler_name": inputs.sampler_name("ddim"),
                "positive": inputs.positive(),
                "image": inputs.image("The small images, usually from GLIDE Sampler."),
            },
            "optional": {
                "negative": inputs.negative(lazy=True),
                "respacing": inputs.respacing(""),
                "temperature": inputs.temperature(0.997),
                "low_size": low_size(),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls, respacing: str | None = None, sampler_name: str | None = None
    ) -> str | bool:
        problem = inputs.sampler_problem(sampler_name)
        return inputs.respacing_problem(respacing) if problem is True else problem

    def check_lazy_status(self, cfg: float, **others: Any) -> list[str]:
        """Name the inputs that must be computed: without guidance there is no negative prompt."""
        waiting = "negative" in others and others["negative"] is None
        return ["negative"] if waiting and cfg != 1 else []

    def upsample(
        self,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        positive: Conditioning,
        image: Any,
        negative: Conditioning | None = None,
        respacing: str = "",
        temperature: float = 0.997,
        low_size: int = 64,
    ) -> tuple[Any]:
        from glide_core import images
        from glide_core.config import SamplerConfig
        from glide_core.request import image_seeds
        from glide_core.stages import StageInputs, upsampled_size

        host = current()
        inputs.require_kind(host, model, ("upsampler",), node=NODE)
        low_res = small(NODE, image, low_size)
        settings = SamplerConfig(
            steps=steps,
            respacing=respacing.strip(),
            sampler=sampler_name,
            guidance_scale=cfg,
            temperature=temperature,
        )
        with host.progress(NODE) as callback:
            prompts, seeds = (
                stages.Prompts(NODE, positive, negative),
                image_seeds(seed, len(low_res)),
            )
            begin = StageInputs(low_res=low_res, size=upsampled_size(low_res))
            found = stages.sample(model, prompts, settings, seeds, begin, callback)
        large = images.to_comfy(found)
        return host.compared(images.to_comfy(low_res), large, (large,))


class GlideUpsampleConditioning:
    CATEGORY = "GLIDE/conditioning"
    DESCRIPTION = (
        "Adds a small image to the prompts, for sampling GLIDE's upsampler with KSampler or any "
        "other sampler of ComfyUI. GLIDE Upsample does the same with the paper's sampler."
    )
    SEARCH_ALIASES = ["upscale conditioning", "upsample with ksampler", "super resolution"]
    FUNCTION = "encode"
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    RETURN_NAMES = ("positive", "negative", "latent")
    OUTPUT_TOOLTIPS = (
        "The prompt, with the small image.",
        "The negative prompt, with the small image.",
        "An empty LATENT, four times as large, to sample into.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "positive": inputs.positive(),
                "negative": inputs.negative(),
                "image": inputs.image("The small images to enlarge."),
                "low_size": low_size(),
            }
        }

    def encode(
        self, positive: Conditioning, negative: Conditioning, image: Any, low_size: int
    ) -> tuple[Any, Any, dict[str, Any]]:
        import torch

        from glide_core.stages import upsampled_size

        from .latents import RATIO

        node = "GLIDE Upsample Conditioning"
        inputs.require_prompts(positive, negative, node=node)
        low_res = small(node, image, low_size)
        batch, channels, *_ = low_res.shape
        samples = torch.zeros(batch, channels, *upsampled_size(low_res))
        extras = {LOW_RES: low_res}
        return (
            with_extras(positive, **extras),
            with_extras(negative, **extras),
            {"samples": samples, RATIO: 1},
        )


def small(node: str, image: Any, low_size: int) -> Tensor:
    """Give the upsampler's input [B, 3, h, w] in [-1, 1], resized and rounded to 8 bits."""
    from glide_core import images

    given = images.from_comfy(inputs.require_image(image, node=node))
    fitted = images.fit(given, low_size)
    inputs.log_resize(node, given, fitted, f"low_size is {low_size}; 0 keeps the size")
    return images.quantize_8bit(fitted)
