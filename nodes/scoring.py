"""The node that ranks images by how well they match a text, and the scores that it uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import inputs
from .host import GlideClip, Host, current

if TYPE_CHECKING:
    from torch import Tensor

NODE = "GLIDE CLIP Score"
CHUNK = 16  # images scored at once


class GlideClipScore:
    CATEGORY = "GLIDE/evaluation"
    DESCRIPTION = (
        "Scores images against a text and sorts them, best first: generate many, keep the best. An "
        "open_clip model gives the usual CLIP score; a noisy CLIP scores at 64x64."
    )
    SEARCH_ALIASES = ["clip score", "rank images", "rerank", "best of n", "pick best"]
    FUNCTION = "score"
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("ranked", "scores")
    OUTPUT_TOOLTIPS = (
        "The images, best first; only the best `keep` of them when that is not 0.",
        "One line per kept image: its cosine with the text, and its place in the batch.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": inputs.image("The images to compare."),
                "clip": (
                    "GLIDE_CLIP",
                    {"tooltip": "From GLIDE Open CLIP Loader or GLIDE Noisy CLIP Loader."},
                ),
                "text": (
                    "STRING",
                    {"default": "", "multiline": True, "tooltip": "What the images should show."},
                ),
                "keep": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 4096,
                        "tooltip": "Number of best images to keep; 0 keeps all.",
                    },
                ),
            }
        }

    def score(self, image: Any, clip: GlideClip, text: str, keep: int) -> dict[str, Any]:
        from glide_core import images

        image = inputs.require_image(image, node=NODE)
        clip, text = inputs.require_clip(clip, node=NODE), inputs.require_text(text, node=NODE)
        scores = score_in_chunks(current(), clip, images.from_comfy(image), text)
        order = sorted(range(len(scores)), key=lambda i: -scores[i])[: keep or None]
        lines = "\n".join(f"{scores[i]:.4f}  image {i + 1}" for i in order)
        return {"ui": {"text": [lines]}, "result": (image[order], lines)}


def score_in_chunks(host: Host, clip: GlideClip, pixels: Tensor, text: str) -> list[float]:
    """Score images [B, C, H, W] a few at a time, with a progress bar that can be interrupted."""
    from glide_core.diffusion.types import StepInfo

    chunks = pixels.split(CHUNK)
    found: list[float] = []
    with host.clip_loaded(clip) as device, host.progress(NODE) as callback:
        for i, chunk in enumerate(chunks):
            found += cosines(clip, chunk.to(device), text).tolist()
            callback(StepInfo(i, len(chunks), 0, chunk, chunk))
    return found


def cosines(clip: GlideClip, pixels: Tensor, text: str) -> Tensor:
    """Cosines [B] of images [B, C, H, W] in [-1, 1] with a text."""
    from glide_core.evaluation import features

    if clip.kind == "noisy":
        extractor = features.noisy_clip_features(clip.module)
    else:
        extractor = features.open_clip_features(clip.module, clip.tokenizer, "open_clip")
    return features.cosines(extractor, pixels, [text])
