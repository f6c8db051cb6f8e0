"""The node that lets a CLIP pull a model's samples towards a text."""

from __future__ import annotations

from typing import Any

from glide_core.errors import GlideError

from .host import ClipGuide, GlideClip, current

ANY_SIGMA = 100000.0  # above the largest of any schedule: no upper end
NODE = "GLIDE CLIP Guidance"


class GlideClipGuidance:
    CATEGORY = "GLIDE/guidance"
    DESCRIPTION = (
        "Adds CLIP guidance to a model: at every step the picture is moved to where CLIP finds it "
        "closer to the text. A noisy CLIP guides GLIDE's base models as in the paper; any "
        "open_clip model guides any MODEL by its estimate of the finished picture (give a VAE when "
        "that model works on latents). Several can be chained, and classifier-free guidance goes "
        "on beside them."
    )
    SEARCH_ALIASES = ["clip guidance", "clip guided diffusion", "noisy clip guidance"]
    NOT_IDEMPOTENT = True  # so that two equal ones are not one in the cache: each charts its own
    FUNCTION = "add"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("A guided copy of the model; the one that came in stays as it was.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model to guide."}),
                "clip": (
                    "GLIDE_CLIP",
                    {"tooltip": "From GLIDE CLIP Loader (noisy) or GLIDE Open CLIP Loader."},
                ),
                "text": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "dynamicPrompts": True,
                        "tooltip": "What CLIP should see; usually the prompt itself.",
                    },
                ),
                "scale": (
                    "FLOAT",
                    {
                        "default": 2.0,
                        "min": 0.0,
                        "max": 1000.0,
                        "step": 0.1,
                        "tooltip": "How hard it pulls: the paper's s, 1 to 4 with its noisy CLIP. "
                        "0 adds nothing.",
                    },
                ),
            },
            "optional": {
                "vae": (
                    "VAE",
                    {"tooltip": "Only for open_clip on a latent model that is not GLIDE."},
                ),
                "sigma_min": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": ANY_SIGMA,
                        "step": 0.01,
                        "advanced": True,
                        "tooltip": "Guide only while the noise level is at least this.",
                    },
                ),
                "sigma_max": (
                    "FLOAT",
                    {
                        "default": ANY_SIGMA,
                        "min": 0.0,
                        "max": ANY_SIGMA,
                        "step": 0.01,
                        "advanced": True,
                        "tooltip": "Guide only while the noise level is at most this. Less than "
                        "100 saves the first steps, when there is nothing to see yet.",
                    },
                ),
                "cutouts": (
                    "INT",
                    {
                        "default": 8,
                        "min": 1,
                        "max": 256,
                        "advanced": True,
                        "tooltip": "Crops an open_clip model looks at per step: more is steadier "
                        "and slower. A noisy CLIP sees the whole picture.",
                    },
                ),
                "cutout_seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**64 - 1,
                        "advanced": True,
                        "tooltip": "Where the crops lie.",
                    },
                ),
            },
        }

    def add(
        self,
        model: Any,
        clip: GlideClip,
        text: str,
        scale: float,
        vae: Any = None,
        sigma_min: float = 0.0,
        sigma_max: float = ANY_SIGMA,
        cutouts: int = 8,
        cutout_seed: int = 0,
    ) -> tuple[Any]:
        interval = interval_of(NODE, sigma_min=sigma_min, sigma_max=sigma_max)
        if scale == 0:
            return (model,)
        guide = ClipGuide(clip, text, scale, interval, cutouts, cutout_seed, vae)
        return (current().add_guide(model, guide),)


def interval_of(node: str, **ends: float) -> tuple[float, float] | None:
    """Two widgets, the lower end first, as glide_core's interval; None where it excludes nothing.

    GlideError when they are the wrong way round. Not in VALIDATE_INPUTS: an input that is named
    there loses ComfyUI's check of its range.
    """
    (low_name, low), (high_name, high) = ends.items()
    if low > high:
        raise GlideError(
            f"{node}: {low_name} {low} is above {high_name} {high}. Expected the smaller first. "
            "Swap them."
        )
    return None if low <= 0 and high >= ANY_SIGMA else (low, high)
