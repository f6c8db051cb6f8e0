"""Nodes of the first stage: an empty picture, and the sampler."""

from __future__ import annotations

from typing import Any

from glide_core.errors import GlideError
from glide_core.names import PRESETS

from . import inputs, stages
from .guidance import ANY_SIGMA, interval_of
from .host import Conditioning, current

NODE = "GLIDE Sampler"
CUSTOM = "custom"


class GlideEmptyLatent:
    CATEGORY = "GLIDE/sampling"
    DESCRIPTION = (
        "An empty picture to start from, in real pixels. (Core Empty Latent Image divides by 8: "
        "there 512 means 64.)"
    )
    SEARCH_ALIASES = ["glide latent", "empty pixel latent", "glide size"]
    FUNCTION = "make"
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("Size and batch, for GLIDE Sampler or KSampler.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        def side(name: str) -> inputs.Declared:
            text = f"{name} in pixels. The base models were trained at 64."
            return ("INT", {"default": 64, "min": 8, "max": 1024, "step": 8, "tooltip": text})

        return {
            "required": {
                "width": side("Width"),
                "height": side("Height"),
                "batch_size": (
                    "INT",
                    {"default": 1, "min": 1, "max": 64, "tooltip": "How many pictures at once."},
                ),
            }
        }

    def make(self, width: int, height: int, batch_size: int) -> tuple[dict[str, Any]]:
        import torch

        return ({"samples": torch.zeros(batch_size, 3, height, width)},)


class GlideSampler:
    CATEGORY = "GLIDE/sampling"
    DESCRIPTION = (
        "Samples a base or inpainting model exactly as the paper does: learned variance, timestep "
        "respacing, classifier-free guidance, CLIP guidance of the MODEL. KSampler works on the "
        "same MODEL, with ComfyUI's own samplers."
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
        "The pictures, for GLIDE Upsample or Save Image.",
        "The same pictures as a LATENT, for another sampler.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": inputs.model("A base or inpainting model, from GLIDE Loader."),
                "positive": inputs.positive(),
                "negative": inputs.negative(),
                "latent_image": (
                    "LATENT",
                    {"tooltip": "Size and batch; with denoise below 1, also where to start."},
                ),
                "seed": inputs.seed(),
                "steps": inputs.steps(30),
                "sampler_name": inputs.sampler_name("ddim"),
                "cfg": inputs.cfg(3.0),
            },
            "optional": {
                "denoise": inputs.strength(
                    1.0, "How much of the LATENT is redrawn: 1 ignores it, 0.5 keeps its layout."
                ),
                "respacing": inputs.respacing(""),
                "eta": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "advanced": True,
                        "tooltip": "ddim's share of fresh noise per step: 0 is deterministic.",
                    },
                ),
                "cfg_rescale": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "advanced": True,
                        "tooltip": "Draws the guided prediction's contrast back to the unguided "
                        "one's: 0.7 takes the burn out of a high cfg.",
                    },
                ),
                "cfg_sigma_min": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": ANY_SIGMA,
                        "step": 0.01,
                        "advanced": True,
                        "tooltip": "Classifier-free guidance only while the noise level is at "
                        "least this.",
                    },
                ),
                "cfg_sigma_max": (
                    "FLOAT",
                    {
                        "default": ANY_SIGMA,
                        "min": 0.0,
                        "max": ANY_SIGMA,
                        "step": 0.01,
                        "advanced": True,
                        "tooltip": "Classifier-free guidance only while the noise level is at "
                        "most this.",
                    },
                ),
                "clip_denoised": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "advanced": True,
                        "tooltip": "Clip every estimate of the picture to its range, as the paper "
                        "does. Off makes high guidance burn.",
                    },
                ),
                "temperature": inputs.temperature(1.0),
                "preset": (
                    [CUSTOM, *PRESETS],
                    {
                        "default": CUSTOM,
                        "tooltip": "Steps and sampler in one word, instead of `steps`, "
                        "`respacing` and `sampler_name`: "
                        + "; ".join(
                            f"{name}: {p.sampler}, {p.steps} steps" for name, p in PRESETS.items()
                        )
                        + f". {CUSTOM}: what the node says.",
                    },
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, respacing: str | None = None) -> str | bool:
        return inputs.respacing_problem(respacing)

    def sample(
        self,
        model: Any,
        positive: Conditioning,
        negative: Conditioning,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        sampler_name: str,
        cfg: float,
        denoise: float = 1.0,
        respacing: str = "",
        eta: float = 0.0,
        cfg_rescale: float = 0.0,
        cfg_sigma_min: float = 0.0,
        cfg_sigma_max: float = ANY_SIGMA,
        clip_denoised: bool = True,
        temperature: float = 1.0,
        preset: str = CUSTOM,
    ) -> tuple[Any, dict[str, Any]]:
        from glide_core import images
        from glide_core.config import SamplerConfig

        if preset != CUSTOM:
            chosen = PRESETS[preset]
            steps, sampler_name, respacing = chosen.steps, chosen.sampler, ""

        host = current()
        config = inputs.need(host, model, ("base", "inpaint"), node=NODE)
        start = latent_image["samples"]
        if start.ndim != 4:
            raise GlideError(
                f"{NODE}: the LATENT on 'latent_image' has the shape {list(start.shape)}. Expected "
                "[batch, channels, height, width]. Connect GLIDE Empty Latent."
            )
        batch, channels, height, width = start.shape
        if denoise < 1 and channels != config.unet.channels:
            raise GlideError(
                f"{NODE}: denoise is {denoise}, but the LATENT on 'latent_image' has {channels} "
                f"channels. Expected a picture's {config.unet.channels}. Encode a picture with "
                "the VAE of GLIDE Loader, or set denoise to 1."
            )
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
        )
        with host.progress(NODE) as callback:
            pictures = stages.sample(
                host,
                model,
                stages.Prompts(NODE, positive, negative),
                settings,
                seed=seed,
                batch=batch,
                size=(height, width),
                callback=callback,
                init=start if denoise < 1 else None,
                strength=denoise,
            )
        return images.to_comfy(pictures), {"samples": pictures}
