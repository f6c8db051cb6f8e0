"""The node that asks a CLIP which pictures fit a text best."""

from __future__ import annotations

from typing import Any

from .host import GlideClip, current


class GlideClipScore:
    CATEGORY = "GLIDE/scoring"
    DESCRIPTION = (
        "Scores pictures against a text and gives them best first: draw many, keep the best. An "
        "open_clip model gives the usual CLIP score; a noisy CLIP judges at 64x64."
    )
    SEARCH_ALIASES = ["clip score", "rank images", "rerank", "best of n", "pick best"]
    FUNCTION = "score"
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("ranked", "scores")
    OUTPUT_TOOLTIPS = (
        "The pictures, best first; only the best `keep` of them when that is not 0.",
        "One line per kept picture: its cosine with the text, and its place in the batch.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The pictures to compare."}),
                "clip": (
                    "GLIDE_CLIP",
                    {"tooltip": "From GLIDE Open CLIP Loader or GLIDE CLIP Loader."},
                ),
                "text": (
                    "STRING",
                    {"default": "", "multiline": True, "tooltip": "What they should show."},
                ),
                "keep": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 4096,
                        "tooltip": "How many of the best to pass on; 0 passes all.",
                    },
                ),
            }
        }

    def score(self, image: Any, clip: GlideClip, text: str, keep: int) -> dict[str, Any]:
        from glide_core import images

        host = current()
        with host.clip_loaded(clip) as device:
            scores = cosines(clip, images.from_comfy(image).to(device), text)
        order = sorted(range(len(scores)), key=lambda i: -scores[i])[: keep or None]
        lines = "\n".join(f"{scores[i]:.4f}  picture {i + 1}" for i in order)
        return {"ui": {"text": [lines]}, "result": (image[order], lines)}


def cosines(clip: GlideClip, pictures: Any, text: str) -> list[float]:
    """Cosines of pictures [B, C, H, W] with a text."""
    from glide_core.guidance.score import noisy_clip_scores, open_clip_scores

    if clip.kind == "noisy":
        return noisy_clip_scores(clip.module, pictures, text)
    return open_clip_scores(clip.module, clip.tokenizer, pictures, text)
