"""The node that redraws a picture by a prompt (SDEdit, Meng et al. 2021)."""

from __future__ import annotations

from typing import Any

from . import inputs, stages
from .host import Conditioning, current

NODE = "GLIDE Edit"


class GlideEdit:
    CATEGORY = "GLIDE/editing"
    DESCRIPTION = (
        "Redraws a picture by a prompt: noise is added up to `strength`, and the model takes it "
        "away again. A sketch in flat colours becomes a picture. With an upsampler the result is "
        "drawn at 256x256, `upsample_strength` saying how much of the original's detail goes."
    )
    SEARCH_ALIASES = ["sdedit", "img2img", "image to image", "sketch to image", "variation"]
    FUNCTION = "edit"
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The redrawn picture: its shorter side is 64, or 256 with an upsampler.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": inputs.model("A base model, from GLIDE Loader."),
                "image": ("IMAGE", {"tooltip": "The picture or sketch to redraw, of any size."}),
                "positive": inputs.positive(),
                "negative": inputs.negative(),
                "strength": inputs.strength(
                    0.6, "0 keeps the picture, 1 forgets it; 0.5 to 0.8 keeps its layout."
                ),
                "seed": inputs.seed(),
                "steps": inputs.steps(50),
                "sampler_name": inputs.sampler_name("ddim"),
                "cfg": inputs.cfg(3.0),
            },
            "optional": {
                "upsampler": inputs.model("An upsampler, from GLIDE Upsampler Loader."),
                "upsample_strength": inputs.strength(
                    1.0, "1 takes nothing from the original at 256x256; less keeps its detail."
                ),
                "upsample_steps": inputs.steps(27, inputs.UPSAMPLE_STEPS),
                "variations": (
                    "INT",
                    {
                        "default": 1,
                        "min": 1,
                        "max": 64,
                        "tooltip": "How many different edits of every picture.",
                    },
                ),
                "temperature": inputs.temperature(0.997),
            },
        }

    def edit(
        self,
        model: Any,
        image: Any,
        positive: Conditioning,
        negative: Conditioning,
        strength: float,
        seed: int,
        steps: int,
        sampler_name: str,
        cfg: float,
        upsampler: Any = None,
        upsample_strength: float = 1.0,
        upsample_steps: int = 27,
        variations: int = 1,
        temperature: float = 0.997,
    ) -> tuple[Any]:
        from glide_core import images
        from glide_core.config import SamplerConfig
        from glide_core.stages import upsampled_size

        host = current()
        config = inputs.need(host, model, ("base", "inpaint"), node=NODE)
        if upsampler is not None:
            inputs.need(host, upsampler, ("upsampler",), node=NODE, name="upsampler")
        batch = len(image) * variations
        original = images.cycle(images.from_comfy(image), batch)
        small = images.fit(original, config.unet.image_size)
        prompts = stages.Prompts(NODE, positive, negative)
        with host.progress(NODE, 1 if upsampler is None else 2) as callback:
            if strength > 0:
                small = stages.sample(
                    host,
                    model,
                    prompts,
                    SamplerConfig(steps=steps, sampler=sampler_name, guidance_scale=cfg),
                    seed=seed,
                    batch=batch,
                    size=(small.shape[2], small.shape[3]),
                    callback=callback,
                    init=small,
                    strength=strength,
                )
            if upsampler is None or upsample_strength == 0:
                edited = images.to_comfy(small)
                return host.compared(images.to_comfy(original), edited, (edited,))
            size = upsampled_size(small)
            pictures = stages.sample(
                host,
                upsampler,
                prompts,
                stages.upsample_settings(upsample_steps, temperature=temperature),
                seed=seed,
                batch=batch,
                size=size,
                callback=callback,
                low_res=images.quantize_8bit(small),
                init=images.resize(original, size),
                strength=upsample_strength,
            )
        edited = images.to_comfy(pictures)
        return host.compared(images.to_comfy(original), edited, (edited,))
