"""The node that changes an image by a prompt (SDEdit, Meng et al. 2021)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from . import inputs, stages
from .host import Conditioning, current

NODE = "GLIDE Edit"


class GlideEdit:
    CATEGORY = "GLIDE/sampling"
    DESCRIPTION = (
        "Changes an image by a prompt (SDEdit): adds noise up to `denoise` and removes it again "
        "with the model. Turns a sketch in flat colours into an image. With an upsampler the "
        "result has 256x256 pixels, and `upsample_denoise` says how much of the original's detail "
        "is replaced."
    )
    SEARCH_ALIASES = ["sdedit", "img2img", "image to image", "sketch to image", "variation"]
    FUNCTION = "edit"
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The edited image: its shorter side is 64, or 256 with an upsampler.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": inputs.model("A base model, from GLIDE Loader."),
                "seed": inputs.seed(),
                "steps": inputs.steps(50),
                "cfg": inputs.cfg(3.0),
                "sampler_name": inputs.sampler_name("ddim"),
                "positive": inputs.positive(),
                "negative": inputs.negative(lazy=True),
                "image": inputs.image("The image or sketch to edit, of any size."),
                "denoise": inputs.share(
                    0.6,
                    "How much of the image is replaced: 0 keeps it, 0.5 to 0.8 keeps its layout, "
                    "1 ignores it.",
                ),
            },
            "optional": {
                "upsampler": inputs.model("An upsampler, from GLIDE Upsampler Loader.", lazy=True),
                "upsample_steps": inputs.steps(27, inputs.UPSAMPLE_STEPS),
                "upsample_denoise": inputs.share(
                    1.0,
                    "How much of the original's detail is replaced at 256x256: 1 ignores it, 0 "
                    "enlarges the 64x64 result without the upsampler.",
                ),
                "variations": inputs.variations("Number of different edits of each image."),
                "temperature": inputs.temperature(0.997),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, sampler_name: str | None = None) -> str | bool:
        return inputs.sampler_problem(sampler_name)

    def check_lazy_status(
        self,
        cfg: float,
        denoise: float,
        negative: Any = None,
        upsample_denoise: float = 1.0,
        **others: Any,
    ) -> list[str]:
        """Name the inputs that must be computed for these settings."""
        needed = ["negative"] if negative is None and cfg != 1 and denoise > 0 else []
        if "upsampler" in others and others["upsampler"] is None and upsample_denoise > 0:
            needed.append("upsampler")
        return needed

    def edit(
        self,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        positive: Conditioning,
        negative: Conditioning | None,
        image: Any,
        denoise: float,
        upsampler: Any = None,
        upsample_steps: int = 27,
        upsample_denoise: float = 1.0,
        variations: int = 1,
        temperature: float = 0.997,
    ) -> tuple[Any]:
        from glide_core import images
        from glide_core.config import SamplerConfig
        from glide_core.request import UPSAMPLE_SETTINGS, image_seeds
        from glide_core.stages import StageInputs, upsampled_size

        host = current()
        config = inputs.require_kind(host, model, ("base",), node=NODE)
        inputs.require_shares(NODE, denoise=denoise, upsample_denoise=upsample_denoise)
        upsamples = upsampler is not None and upsample_denoise > 0
        if upsamples:
            inputs.require_kind(host, upsampler, ("upsampler",), node=NODE, name="upsampler")
        image = inputs.require_image(image, node=NODE)
        batch = len(image) * variations
        original = images.cycle(images.from_comfy(image), batch)
        small = images.fit(original, config.unet.image_size)
        inputs.log_resize(NODE, original, small, "the size that the model works at")
        prompts, seeds = stages.Prompts(NODE, positive, negative), image_seeds(seed, batch)
        settings = SamplerConfig(steps=steps, sampler=sampler_name, guidance_scale=cfg)
        enlarging = replace(UPSAMPLE_SETTINGS, steps=upsample_steps, temperature=temperature)
        with host.progress(NODE, 2 if upsamples else 1) as callback:
            if denoise > 0:
                begin = StageInputs(
                    init=small, strength=denoise, size=(small.shape[2], small.shape[3])
                )
                small = stages.sample(model, prompts, settings, seeds, begin, callback)
            size = upsampled_size(small)
            if upsamples:
                begin = StageInputs(
                    low_res=images.quantize_8bit(small),
                    init=images.resize(original, size),
                    strength=upsample_denoise,
                    size=size,
                )
                edited = stages.sample(upsampler, prompts, enlarging, seeds, begin, callback)
            else:
                # connected but at 0 (then never computed), or not connected
                edited = images.resize(small, size) if upsample_denoise == 0 else small
        result = images.to_comfy(edited)
        return host.compared(images.to_comfy(original), result, (result,))
