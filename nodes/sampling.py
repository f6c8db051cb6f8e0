"""Nodes of the first stage: an empty image, and the sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from glide_core.errors import GlideError, shorten
from glide_core.names import PRESETS

from . import inputs, latents, stages
from .guidance import ANY_SIGMA, interval_of
from .host import Conditioning, current
from .host.values import INPAINT_IMAGE, part

NODE = "GLIDE Sampler"


class GlideEmptyLatent:
    CATEGORY = "GLIDE/sampling"
    DESCRIPTION = (
        "An empty LATENT for GLIDE. Width and height are real pixels, whereas Empty Latent Image "
        "divides them by 8."
    )
    SEARCH_ALIASES = ["glide latent", "empty pixel latent", "glide size"]
    FUNCTION = "make"
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("Size and batch, for GLIDE Sampler or KSampler.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "width": inputs.side("Width in pixels. The base models were trained at 64."),
                "height": inputs.side("Height in pixels. The base models were trained at 64."),
                "batch_size": (
                    "INT",
                    {"default": 1, "min": 1, "max": 64, "tooltip": "Number of images at once."},
                ),
            }
        }

    def make(self, width: int, height: int, batch_size: int) -> tuple[dict[str, Any]]:
        import torch

        if min(width, height, batch_size) < 1:  # possible where the inputs are connected
            raise GlideError(
                f"GLIDE Empty Latent: width is {width}, height {height}, batch_size {batch_size}. "
                "Expected 1 or more of each."
            )
        samples = torch.zeros(batch_size, 3, height, width)
        return ({"samples": samples, latents.RATIO: 1},)


class GlideSampler:
    CATEGORY = "GLIDE/sampling"
    DESCRIPTION = (
        "Samples a base or inpainting model exactly as the paper does: learned variance, timestep "
        "respacing, classifier-free guidance, and the CLIP guidance of the MODEL. KSampler works "
        "on the same MODEL, with ComfyUI's own samplers."
    )
    SEARCH_ALIASES = [
        "glide ksampler",
        "ddim",
        "ddpm",
        "ancestral sampler",
        "plms",
        "text to image",
    ]
    FUNCTION = "sample"
    RETURN_TYPES = ("IMAGE", "LATENT")
    OUTPUT_TOOLTIPS = (
        "The images, for GLIDE Upsample or Save Image.",
        "The same images as a LATENT, for another sampler.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        def sigma(default: float, tooltip: str) -> inputs.Declared:
            limits = {"default": default, "min": 0.0, "max": ANY_SIGMA, "step": 0.01}
            return ("FLOAT", {**limits, "advanced": True, "tooltip": tooltip})

        def advanced(default: float, tooltip: str) -> inputs.Declared:
            kind, options = inputs.share(default, tooltip)
            return (kind, {**options, "advanced": True})

        return {
            "required": {
                "model": inputs.model("A base or inpainting model, from GLIDE Loader."),
                "preset": inputs.preset(),
                "seed": inputs.seed(),
                "steps": inputs.steps(30),
                "cfg": inputs.cfg(3.0),
                "sampler_name": inputs.sampler_name("ddim"),
                "positive": inputs.positive(),
                "negative": inputs.negative(lazy=True),
                "latent_image": (
                    "LATENT",
                    {
                        "tooltip": "Size and batch; with `denoise` below 1 or a noise mask also "
                        "the image to start from."
                    },
                ),
                "denoise": inputs.share(
                    1.0,
                    "How much of the LATENT is replaced: 1 ignores its content, 0.5 keeps its "
                    "layout, 0 returns it unchanged.",
                ),
            },
            "optional": {
                "respacing": inputs.respacing(""),
                "eta": advanced(0.0, "Noise that ddim adds per step; 0 is deterministic."),
                "cfg_rescale": advanced(
                    0.0, "Rescales the guided output to reduce overexposure at a high cfg; try 0.7."
                ),
                "cfg_sigma_min": sigma(
                    0.0,
                    "Apply classifier-free guidance only while the noise level is at least this.",
                ),
                "cfg_sigma_max": sigma(
                    ANY_SIGMA,
                    "Apply classifier-free guidance only while the noise level is at most this.",
                ),
                "clip_denoised": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "advanced": True,
                        "tooltip": "Clip every estimate of the image to its range, as the paper "
                        "does. Without it, high guidance oversaturates.",
                    },
                ),
                "temperature": inputs.temperature(1.0),
                "clip_guided": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "advanced": True,
                        "tooltip": "Clip estimates again after CLIP guidance has moved them. "
                        "OpenAI's code does not, which oversaturates with every sampler but ddpm.",
                    },
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls, respacing: str | None = None, sampler_name: str | None = None
    ) -> str | bool:
        problem = inputs.sampler_problem(sampler_name)
        return inputs.respacing_problem(respacing) if problem is True else problem

    def check_lazy_status(
        self, cfg: float, denoise: float, negative: Any = None, **unused: Any
    ) -> list[str]:
        """Name the inputs that must be computed: without guidance there is no negative prompt."""
        return ["negative"] if negative is None and cfg != 1 and denoise > 0 else []

    def sample(
        self,
        model: Any,
        preset: str,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        positive: Conditioning,
        negative: Conditioning | None,
        latent_image: dict[str, Any],
        denoise: float,
        respacing: str = "",
        eta: float = 0.0,
        cfg_rescale: float = 0.0,
        cfg_sigma_min: float = 0.0,
        cfg_sigma_max: float = ANY_SIGMA,
        clip_denoised: bool = True,
        temperature: float = 1.0,
        clip_guided: bool = True,
    ) -> tuple[Any, dict[str, Any]]:
        from glide_core import images
        from glide_core.config import SamplerConfig
        from glide_core.request import image_seed
        from glide_core.stages import StageInputs

        if preset != inputs.CUSTOM:
            if preset not in PRESETS:  # possible where the input is connected
                raise GlideError(
                    f"{NODE}: unknown preset {shorten(repr(preset))}. Expected one of "
                    f"{', '.join([inputs.CUSTOM, *PRESETS])}."
                )
            chosen = PRESETS[preset]
            steps, sampler_name, respacing = chosen.steps, chosen.sampler, ""

        host = current()
        config = inputs.require_kind(host, model, ("base", "inpaint"), node=NODE)
        inputs.require_shares(NODE, denoise=denoise)
        start = latents.read(latent_image, config, content=denoise < 1, node=NODE)
        if denoise == 0:
            return images.to_comfy(start.samples), latents.write(latent_image, start.samples)
        settings = SamplerConfig(
            steps=steps,
            respacing=respacing.strip(),
            sampler=sampler_name,
            eta=eta,
            guidance_scale=cfg,
            guidance_rescale=cfg_rescale,
            guidance_interval=interval_of(
                NODE, cfg_sigma_min=cfg_sigma_min, cfg_sigma_max=cfg_sigma_max
            ),
            clip_denoised=clip_denoised,
            temperature=temperature,
            clip_guided=clip_guided,
        )
        carried = part(positive, where=f"{NODE}: 'positive'").get(INPAINT_IMAGE)
        known = None if start.keep_mask is None else (start.samples, start.keep_mask)
        seeds = [image_seed(seed, i) for i in start.indices]
        init = start.samples if denoise < 1 else None
        begin = StageInputs(init=init, strength=denoise, size=start.size)
        if config.is_inpaint and carried is None:
            if start.keep_mask is None:
                raise GlideError(
                    f"{NODE}: the MODEL on 'model' is GLIDE's inpainting model, and neither "
                    "'positive' nor 'latent_image' holds an image and a mask. Connect GLIDE "
                    "Inpaint Conditioning, or load a base model."
                )
            keep_mask = (start.keep_mask > 0.5).float()
            begin = replace(begin, image=start.samples, keep_mask=keep_mask)
        with host.progress(NODE) as callback:
            prompts = stages.Prompts(NODE, positive, negative)
            found = stages.sample(model, prompts, settings, seeds, begin, callback, known=known)
        return images.to_comfy(found), latents.write(latent_image, found)
