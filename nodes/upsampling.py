"""The node of the second stage: 64x64 to 256x256."""

from __future__ import annotations

from typing import Any

from glide_core.errors import GlideError

from . import inputs, stages
from .host import Conditioning, current

NODE = "GLIDE Upsample"


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
                "low_size": (
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
                ),
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
        from glide_core import images, pipeline

        host = current()
        inputs.need(host, model, ("upsampler",), node=NODE)
        if cfg != 1 and negative is None:
            raise GlideError(
                f"{NODE}: cfg is {cfg}, but nothing is connected to 'negative'. Expected a "
                "CONDITIONING to move away from. Connect one (an empty text will do), or set cfg "
                "to 1."
            )
        low_res = images.eight_bit_snap(images.fit(images.from_comfy(image), low_size))
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
                size=pipeline.upsampled_size(low_res),
                callback=callback,
                low_res=low_res,
            )
        large = images.to_comfy(pictures)
        return host.compared(images.to_comfy(low_res), large, (large,))
