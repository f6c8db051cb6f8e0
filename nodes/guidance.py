"""The node that adds CLIP guidance to a MODEL."""

from __future__ import annotations

import math
from typing import Any

from glide_core.errors import GlideError

from . import inputs
from .host import ClipGuide, GlideClip, current

ANY_SIGMA = 100000.0  # above the largest of any schedule: no upper end
NODE = "GLIDE CLIP Guidance"


class GlideClipGuidance:
    CATEGORY = "GLIDE/conditioning"
    DESCRIPTION = (
        "Adds CLIP guidance to a model: every step moves the image in the direction that CLIP "
        "scores as closer to the text. A noisy CLIP guides GLIDE's base models as in the paper; an "
        "open_clip model guides any MODEL by its estimate of the finished image (connect a VAE if "
        "that model works on latents). Several guides can be chained, and classifier-free guidance "
        "still applies."
    )
    SEARCH_ALIASES = ["clip guidance", "clip guided diffusion", "noisy clip guidance"]
    NOT_IDEMPOTENT = True  # two equal nodes are not one in the cache: each has a chart of its own
    FUNCTION = "add"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("A guided copy of the model; the given one is not changed.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        def number(default: float, most: float, tooltip: str, step: float = 0.01) -> Any:
            limits = {"default": default, "min": 0.0, "max": most, "step": step}
            return ("FLOAT", {**limits, "advanced": True, "tooltip": tooltip})

        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model to guide."}),
                "clip": (
                    "GLIDE_CLIP",
                    {
                        "lazy": True,
                        "tooltip": "From GLIDE Noisy CLIP Loader or GLIDE Open CLIP Loader.",
                    },
                ),
                "text": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "dynamicPrompts": True,
                        "tooltip": "The text that CLIP compares the image with; usually the "
                        "prompt.",
                    },
                ),
                "scale": (
                    "FLOAT",
                    {
                        "default": 4.0,
                        "min": 0.0,
                        "max": 1000.0,
                        "step": 0.1,
                        "tooltip": "Guidance strength: the paper's s, 1 to 4 with its noisy CLIP. "
                        "0 turns it off.",
                    },
                ),
            },
            "optional": {
                "vae": (
                    "VAE",
                    {
                        "lazy": True,
                        "tooltip": "Only for an open_clip model on a latent model that is not "
                        "GLIDE.",
                    },
                ),
                "start_percent": number(
                    0.0, 1.0, "Share of the sampling at which guidance begins.", 0.001
                ),
                "end_percent": number(
                    1.0, 1.0, "Share of the sampling at which guidance ends.", 0.001
                ),
                "sigma_min": number(
                    0.0, ANY_SIGMA, "Guide only while the noise level is at least this."
                ),
                "sigma_max": number(
                    ANY_SIGMA,
                    ANY_SIGMA,
                    "Guide only while the noise level is at most this. A value below 100 saves the "
                    "first steps, in which the image is still noise.",
                ),
                "cutouts": (
                    "INT",
                    {
                        "default": ClipGuide.cutouts,
                        "min": 1,
                        "max": 256,
                        "advanced": True,
                        "tooltip": "Random crops per step for an open_clip model: more are "
                        "steadier and slower. A noisy CLIP sees the whole image.",
                    },
                ),
                "cutout_seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**64 - 1,
                        "advanced": True,
                        "tooltip": "Seed for crop positions.",
                    },
                ),
            },
        }

    def check_lazy_status(self, scale: float, **others: Any) -> list[str]:
        """Name the inputs that must be computed: at scale 0 neither the CLIP nor the VAE."""
        waiting = [name for name in ("clip", "vae") if name in others and others[name] is None]
        return waiting if scale > 0 else []

    def add(
        self,
        model: Any,
        clip: GlideClip | None,
        text: str,
        scale: float,
        vae: Any = None,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        sigma_min: float = 0.0,
        sigma_max: float = ANY_SIGMA,
        cutouts: int = ClipGuide.cutouts,
        cutout_seed: int = 0,
    ) -> tuple[Any]:
        interval = interval_of(NODE, sigma_min=sigma_min, sigma_max=sigma_max)
        ordered(NODE, start_percent=start_percent, end_percent=end_percent)
        if scale == 0:
            return (model,)
        if not math.isfinite(scale):
            raise GlideError(f"{NODE}: scale is {scale}. Expected a finite number.")
        clip, text = inputs.require_clip(clip, node=NODE), inputs.require_text(text, node=NODE)
        if not hasattr(model, "model"):  # as MODELs of both hosts have
            raise GlideError(
                f"{NODE}: 'model' is {type(model).__name__}, not a MODEL. Connect a loader's."
            )
        host = current()
        if start_percent > 0 or end_percent < 1:
            low, high = interval or (0.0, ANY_SIGMA)
            high = min(high, host.sigma_at(model, start_percent))
            interval = (max(low, host.sigma_at(model, end_percent)), high)
            if interval[0] > interval[1]:
                return (model,)  # the two intervals have nothing in common
        guide = ClipGuide(clip, text, scale, interval, cutouts, cutout_seed, vae)
        return (host.add_guide(model, guide),)


def interval_of(node: str, **ends: float) -> tuple[float, float] | None:
    """Two widgets, the lower end first, as glide_core's interval; None where it excludes nothing.

    GlideError when they are the wrong way round. Not in VALIDATE_INPUTS: an input that is named
    there loses ComfyUI's check of its range.
    """
    low, high = ordered(node, **ends)
    return None if low <= 0 and high >= ANY_SIGMA else (low, high)


def ordered(node: str, **ends: float) -> tuple[float, float]:
    """Give two widgets' values; GlideError when the first is above the second."""
    (low_name, low), (high_name, high) = ends.items()
    if low > high:
        raise GlideError(
            f"{node}: {low_name} {low:g} is above {high_name} {high:g}. Expected the smaller value "
            f"in {low_name}: swap them."
        )
    return low, high
