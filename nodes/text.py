"""The node that reads a prompt."""

from __future__ import annotations

from typing import Any

from .host import Conditioning, current


class GlideTextEncode:
    CATEGORY = "GLIDE/conditioning"
    DESCRIPTION = (
        "Reads a prompt with GLIDE's text encoder. One result serves the base model, the "
        "inpainting models and the upsamplers; each encodes what it needs of it. Empty text is "
        "GLIDE's unconditional input. Core CLIP Text Encode works too."
    )
    SEARCH_ALIASES = ["glide prompt", "glide clip text encode", "glide conditioning"]
    FUNCTION = "encode"
    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_TOOLTIPS = ("The prompt, for every GLIDE model and for core samplers.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "The CLIP output of GLIDE Loader."}),
                "text": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "dynamicPrompts": True,
                        "tooltip": "The prompt. What goes past the model's length (128 tokens for "
                        "OpenAI's) is cut off, and the log says so.",
                    },
                ),
            }
        }

    def encode(self, clip: Any, text: str) -> tuple[Conditioning]:
        return (current().encode_text(clip, text),)
