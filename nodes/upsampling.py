"""Nodes of the second stage, 64x64 to 256x256: in one step, and as CONDITIONING for KSampler."""

from __future__ import annotations

from typing import Any

from glide_core.errors import GlideError

from . import inputs, stages
from .host import Conditioning, current
from .host.values import LOW_RES, with_extras

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
            "tooltip": "Resize so that the shorter side has this many pixels before "
            "enlarging; 0 takes the picture as it is, cut to multiples of 8.",
        },
    )


class GlideUpsample:
    CATEGORY = "GLIDE/upsampling"
    DESCRIPTION = (
        "Enlarges pictures four times with GLIDE's upsampler, which reads the prompt too. It was "
        "made for 64x64 pictures: any other is first resized so that its shorter side is 64, "
        "unless `low_size` says otherwise."
    )
    SEARCH_ALIASES = ["glide upscale", "super resolution", "64 to 256", "upsampler"]
    FUNCTION = "upsample"
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The pictures, four times as large.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": inputs.model("The upsampler, from GLIDE Upsampler Loader."),
                "image": ("IMAGE", {"tooltip": "The small pictures, usually GLIDE Sampler's."}),
                "positive": inputs.positive(),
                "seed": inputs.seed(),
                "steps": inputs.steps(27, inputs.UPSAMPLE_STEPS),
            },
            "optional": {
                "negative": inputs.negative(),
                "respacing": inputs.respacing(""),
                "sampler_name": inputs.sampler_name("ddim"),
                "cfg": inputs.cfg(1.0),
                "temperature": inputs.temperature(0.997),
                "low_size": low_size(),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, respacing: str | None = None) -> str | bool:
        return inputs.respacing_problem(respacing)

    def upsample(
        self,
        model: Any,
        image: Any,
        positive: Conditioning,
        seed: int,
        steps: int,
        negative: Conditioning | None = None,
        respacing: str = "",
        sampler_name: str = "ddim",
        cfg: float = 1.0,
        temperature: float = 0.997,
        low_size: int = 64,
    ) -> tuple[Any]:
        from glide_core import images
        from glide_core.stages import upsampled_size

        host = current()
        inputs.need(host, model, ("upsampler",), node=NODE)
        if cfg != 1 and negative is None:
            raise GlideError(
                f"{NODE}: cfg is {cfg}, but nothing is connected to 'negative'. Expected a "
                "CONDITIONING to move away from. Connect one (an empty text will do), or set cfg "
                "to 1."
            )
        low_res = images.quantize_8bit(images.fit(images.from_comfy(image), low_size))
        settings = stages.upsample_settings(
            steps, respacing=respacing, sampler=sampler_name, cfg=cfg, temperature=temperature
        )
        with host.progress(NODE) as callback:
            pictures = stages.sample(
                host,
                model,
                stages.Prompts(NODE, positive, negative),
                settings,
                seed=seed,
                batch=len(low_res),
                size=upsampled_size(low_res),
                callback=callback,
                low_res=low_res,
            )
        large = images.to_comfy(pictures)
        return host.compared(images.to_comfy(low_res), large, (large,))


class GlideUpsampleConditioning:
    CATEGORY = "GLIDE/upsampling"
    DESCRIPTION = (
        "Puts a small picture into the prompts, for sampling GLIDE's upsampler with KSampler or "
        "any other core sampler. GLIDE Upsample does the same with the paper's own sampler."
    )
    SEARCH_ALIASES = ["upscale conditioning", "upsample with ksampler", "super resolution"]
    FUNCTION = "encode"
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    RETURN_NAMES = ("positive", "negative", "latent")
    OUTPUT_TOOLTIPS = (
        "The prompt, with the small picture.",
        "The negative prompt, with the small picture.",
        "An empty LATENT, four times as large, to sample into.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "positive": inputs.positive(),
                "negative": inputs.negative(),
                "image": ("IMAGE", {"tooltip": "The small pictures to enlarge."}),
                "low_size": low_size(),
            }
        }

    def encode(
        self, positive: Conditioning, negative: Conditioning, image: Any, low_size: int
    ) -> tuple[Any, Any, dict[str, Any]]:
        import torch

        from glide_core import images
        from glide_core.stages import upsampled_size

        low_res = images.quantize_8bit(images.fit(images.from_comfy(image), low_size))
        batch, channels, *_ = low_res.shape
        samples = torch.zeros(batch, channels, *upsampled_size(low_res))
        extras = {LOW_RES: low_res}
        return (
            with_extras(positive, **extras),
            with_extras(negative, **extras),
            {"samples": samples},
        )
