"""Nodes that load files: a base model, an upsampler, a noisy CLIP, any open_clip model."""

from __future__ import annotations

from typing import Any

from . import inputs
from .host import GlideClip, current

SAME_FILE = "(in the same file)"
BY_TAG = "(by tag)"


class GlideLoader:
    CATEGORY = "GLIDE/loaders"
    DESCRIPTION = (
        "Loads GLIDE's base or inpainting model. The bundled ones are small models that draw emoji "
        "art; OpenAI's go into models/glide (`glide models download openai-base`)."
    )
    SEARCH_ALIASES = ["load glide", "glide checkpoint", "glide base model", "glide inpaint model"]
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    OUTPUT_TOOLTIPS = (
        "The diffusion model, for GLIDE Sampler or any sampler. It works on pixels.",
        "Its text encoder and tokenizer, for GLIDE Text Encode or CLIP Text Encode.",
        "Pixels to pixels: GLIDE has no latent space, so that VAE Decode and Encode change only "
        "the range of values.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "checkpoint": inputs.checkpoint(
                    ("base", "inpaint"),
                    "A base or inpainting model. What a file holds is read from the file itself.",
                ),
                "dtype": inputs.dtype(),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, checkpoint: str | None) -> str | bool:
        return inputs.checkpoint_problem(checkpoint, kinds=("base", "inpaint"))

    @classmethod
    def IS_CHANGED(cls, checkpoint: str, dtype: str) -> str:
        return inputs.changed(checkpoint)

    def load(self, checkpoint: str, dtype: str) -> tuple[Any, Any, Any]:
        host = current()
        return host.load_base(host.checkpoint_path(checkpoint), dtype)


class GlideUpsamplerLoader:
    CATEGORY = "GLIDE/loaders"
    DESCRIPTION = (
        "Loads GLIDE's second model, which enlarges 64x64 to 256x256: the plain one for GLIDE "
        "Upsample and GLIDE Edit, the inpainting one for GLIDE Inpaint."
    )
    SEARCH_ALIASES = ["load upsampler", "glide upscale model", "glide super resolution"]
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The upsampler, with its own text encoder inside.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "checkpoint": inputs.checkpoint(
                    ("upsampler", "upsampler-inpaint"),
                    "An upsampler or upsampler-inpaint model.",
                ),
                "dtype": inputs.dtype(),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, checkpoint: str | None) -> str | bool:
        return inputs.checkpoint_problem(checkpoint, kinds=("upsampler", "upsampler-inpaint"))

    @classmethod
    def IS_CHANGED(cls, checkpoint: str, dtype: str) -> str:
        return inputs.changed(checkpoint)

    def load(self, checkpoint: str, dtype: str) -> tuple[Any]:
        host = current()
        return (host.load_upsampler(host.checkpoint_path(checkpoint), dtype),)


class GlideClipLoader:
    CATEGORY = "GLIDE/loaders"
    DESCRIPTION = (
        "Loads a noisy CLIP: one trained on noised pictures, so that it can guide a sampler at "
        "every step. OpenAI's comes as two files: choose the image tower first, the text tower "
        "second."
    )
    SEARCH_ALIASES = ["noisy clip", "noised clip", "load glide clip", "clip guidance model"]
    FUNCTION = "load"
    RETURN_TYPES = ("GLIDE_CLIP",)
    OUTPUT_TOOLTIPS = ("The noisy CLIP, for GLIDE CLIP Guidance and GLIDE CLIP Score.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "checkpoint": inputs.checkpoint(
                    ("clip",), "A noisy CLIP with both towers, or the image tower (clip_image_enc)."
                ),
                "text_checkpoint": inputs.checkpoint(
                    (), "The text tower's file (clip_text_enc), if it is apart.", first=[SAME_FILE]
                ),
                "dtype": inputs.dtype(),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls, checkpoint: str | None = None, text_checkpoint: str | None = None
    ) -> str | bool:
        files = _files(checkpoint, text_checkpoint)
        return inputs.checkpoint_problem(*files, kinds=(inputs.CLIP,))

    @classmethod
    def IS_CHANGED(cls, checkpoint: str, text_checkpoint: str, dtype: str) -> str:
        return inputs.changed(*_files(checkpoint, text_checkpoint))

    def load(self, checkpoint: str, text_checkpoint: str, dtype: str) -> tuple[GlideClip]:
        host = current()
        paths = [host.checkpoint_path(name) for name in _files(checkpoint, text_checkpoint)]
        return (host.load_clip(paths, dtype),)


def _files(checkpoint: Any, text_checkpoint: Any) -> list[Any]:
    return [checkpoint] if text_checkpoint == SAME_FILE else [checkpoint, text_checkpoint]


class GlideOpenClipLoader:
    CATEGORY = "GLIDE/loaders"
    DESCRIPTION = (
        "Loads any open_clip model, for guiding any sampler by its estimate of the finished "
        "picture, and for scoring. Weights come from a file in models/glide, or by tag from "
        "open_clip's cache; it downloads only when you allow it."
    )
    SEARCH_ALIASES = ["open clip", "openclip", "laion clip", "clip score model"]
    FUNCTION = "load"
    RETURN_TYPES = ("GLIDE_CLIP",)
    OUTPUT_TOOLTIPS = ("The CLIP, for GLIDE CLIP Guidance and GLIDE CLIP Score.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "architecture": (
                    "STRING",
                    {"default": "ViT-B-32", "tooltip": "open_clip's name of the architecture."},
                ),
                "weights": inputs.checkpoint(
                    ("open_clip",), "The file with its weights, or by tag.", first=[BY_TAG]
                ),
                "tag": (
                    "STRING",
                    {
                        "default": "laion2b_s34b_b79k",
                        "tooltip": "open_clip's name of the pretrained weights, used when the "
                        "weights are chosen by tag.",
                    },
                ),
                "allow_download": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Whether weights by tag may be fetched from the internet when "
                        "they are not in the cache (ViT-B-32: about 600 MB).",
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, weights: str | None) -> str | bool:
        return True if weights == BY_TAG else inputs.checkpoint_problem(weights)

    @classmethod
    def IS_CHANGED(cls, architecture: str, weights: str, tag: str, allow_download: bool) -> str:
        return "tag" if weights == BY_TAG else inputs.changed(weights)

    def load(
        self, architecture: str, weights: str, tag: str, allow_download: bool
    ) -> tuple[GlideClip]:
        host = current()
        path = None if weights == BY_TAG else host.checkpoint_path(weights)
        return (host.load_open_clip(architecture, path, tag, allow_download=allow_download),)
