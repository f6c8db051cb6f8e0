"""The node that encodes a prompt."""

from __future__ import annotations

from typing import Any

from . import inputs
from .host import Conditioning, current


class GlideTextEncode:
    CATEGORY = "GLIDE/conditioning"
    DESCRIPTION = (
        "Encodes a prompt with GLIDE's text encoder, exactly as it is typed. Use CLIP Text Encode "
        "instead for weights in brackets, as in (fox:1.2). One result serves the base model, the "
        "inpainting models and the upsamplers. An empty text is GLIDE's unconditional input."
    )
    SEARCH_ALIASES = ["glide prompt", "glide clip text encode", "glide conditioning"]
    FUNCTION = "encode"
    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_TOOLTIPS = ("The prompt, for every GLIDE model and for ComfyUI's samplers.",)

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
                        "tooltip": "The prompt. Text beyond the model's length (128 tokens for "
                        "OpenAI's) is cut off with a warning in the log.",
                    },
                ),
            }
        }

    def encode(self, clip: Any, text: str) -> tuple[Conditioning]:
        text = inputs.require_text(text, node="GLIDE Text Encode")
        return (current().encode_text(clip, text),)
