"""Nodes that load files: a base model, an upsampler, a noisy CLIP, any open_clip model."""

from __future__ import annotations

from typing import Any

from . import inputs
from .host import GlideClip, Purpose, current
from .open_clip_names import ARCHITECTURES, TAGS

SAME_FILE = "(in the same file)"
BY_TAG = "(by tag)"


class OneFile:
    """A loader whose only file input is `checkpoint`."""

    @classmethod
    def VALIDATE_INPUTS(cls, checkpoint: str | None = None) -> str | bool:
        return inputs.checkpoint_problem(checkpoint)

    @classmethod
    def IS_CHANGED(cls, checkpoint: str | None = None, **unused: Any) -> str:
        return inputs.changed(checkpoint)


class GlideLoader(OneFile):
    CATEGORY = "GLIDE/loaders"
    DESCRIPTION = (
        "Loads a GLIDE base or inpainting model from models/glide, or one of the small bundled "
        "models, which were trained on emoji."
    )
    SEARCH_ALIASES = ["load glide", "glide checkpoint", "glide base model", "glide inpaint model"]
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    OUTPUT_TOOLTIPS = (
        "The diffusion model, for GLIDE Sampler or any sampler. It works on pixels.",
        "Its text encoder and tokenizer, for GLIDE Text Encode or CLIP Text Encode.",
        "Converts the range of values only: GLIDE has no latent space, so that VAE Decode and "
        "VAE Encode keep every pixel.",
    )
    KINDS: tuple[Purpose, ...] = ("base", "inpaint")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "checkpoint": inputs.checkpoint(
                    cls.KINDS,
                    "A base or inpainting model. The kind is read from the file itself.",
                ),
                "dtype": inputs.dtype(),
            }
        }

    def load(self, checkpoint: str, dtype: str) -> tuple[Any, Any, Any]:
        host = current()
        path = host.checkpoint_path(checkpoint)
        inputs.require_file_kind("GLIDE Loader", checkpoint, path, self.KINDS)
        return host.load_base(path, dtype)


class GlideUpsamplerLoader(OneFile):
    CATEGORY = "GLIDE/loaders"
    DESCRIPTION = (
        "Loads GLIDE's second model, which enlarges 64x64 to 256x256: the plain one for GLIDE "
        "Upsample and GLIDE Edit, the inpainting one for GLIDE Inpaint."
    )
    SEARCH_ALIASES = ["load upsampler", "glide upscale model", "glide super resolution"]
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The upsampler, which contains its own text encoder.",)
    KINDS: tuple[Purpose, ...] = ("upsampler", "upsampler-inpaint")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "checkpoint": inputs.checkpoint(
                    cls.KINDS,
                    "An upsampler or upsampler-inpaint model.",
                ),
                "dtype": inputs.dtype(),
            }
        }

    def load(self, checkpoint: str, dtype: str) -> tuple[Any]:
        host = current()
        path = host.checkpoint_path(checkpoint)
        inputs.require_file_kind("GLIDE Upsampler Loader", checkpoint, path, self.KINDS)
        return (host.load_upsampler(path, dtype),)


class GlideClipLoader:
    CATEGORY = "GLIDE/loaders"
    DESCRIPTION = (
        "Loads a noisy CLIP: a CLIP trained on noised images, so that it can guide a sampler at "
        "every step. OpenAI's consists of two files: choose the image encoder first, the text "
        "encoder second."
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
                    ("clip",),
                    "A noisy CLIP with both encoders, or the image encoder (clip_image_enc).",
                ),
                "text_checkpoint": inputs.checkpoint(
                    (), "Text-encoder file (clip_text_enc), if separate.", first=[SAME_FILE]
                ),
                "dtype": inputs.dtype(),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls, checkpoint: str | None = None, text_checkpoint: str | None = None
    ) -> str | bool:
        return inputs.checkpoint_problem(*_files(checkpoint, text_checkpoint))

    @classmethod
    def IS_CHANGED(
        cls, checkpoint: str | None = None, text_checkpoint: str | None = None, **unused: Any
    ) -> str:
        return inputs.changed(*_files(checkpoint, text_checkpoint))

    def load(self, checkpoint: str, text_checkpoint: str, dtype: str) -> tuple[GlideClip]:
        host = current()
        paths = [host.checkpoint_path(name) for name in _files(checkpoint, text_checkpoint)]
        inputs.require_file_kind("GLIDE Noisy CLIP Loader", checkpoint, paths[0], (inputs.CLIP,))
        return (host.load_clip(paths, dtype),)


def _files(checkpoint: Any, text_checkpoint: Any) -> list[Any]:
    return [checkpoint] if text_checkpoint == SAME_FILE else [checkpoint, text_checkpoint]


class GlideOpenClipLoader:
    CATEGORY = "GLIDE/loaders"
    DESCRIPTION = (
        "Loads any open_clip model, for guiding any sampler by its estimate of the finished "
        "image, and for scoring. Weights come from a file in models/glide, or by tag from "
        "open_clip's cache. Nothing is downloaded unless `allow_download` is on."
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
                    list(ARCHITECTURES),
                    {"default": "ViT-B-32", "tooltip": "Architecture, as open_clip names it."},
                ),
                "weights": inputs.checkpoint(
                    ("open_clip",), "The file with its weights, or by tag.", first=[BY_TAG]
                ),
                "tag": (
                    list(TAGS),
                    {
                        "default": "laion2b_s34b_b79k",
                        "tooltip": "Pretrained weights, as open_clip names them; used only when "
                        "`weights` is by tag.",
                    },
                ),
                "allow_download": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Whether weights and tokenizers that are not in open_clip's "
                        "cache may be downloaded (ViT-B-32: about 600 MB).",
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls,
        architecture: str | None = None,
        weights: str | None = None,
        tag: str | None = None,
    ) -> str | bool:
        """Check the file, and that the tag exists for the architecture.

        Names that are not listed pass: an installed open_clip may know more than our list.
        """
        if weights != BY_TAG:
            return inputs.checkpoint_problem(weights)
        tags = ARCHITECTURES.get(architecture or "")
        if tags is None or tag is None or tag in tags or tag not in TAGS:
            return True
        known = ", ".join(tags) or "none: choose a file"
        return f"the tag {tag!r} does not exist for {architecture}. Expected one of: {known}."

    @classmethod
    def IS_CHANGED(cls, weights: str | None = None, **unused: Any) -> str:
        return "tag" if weights == BY_TAG else inputs.changed(weights)

    def load(
        self, architecture: str, weights: str, tag: str, allow_download: bool
    ) -> tuple[GlideClip]:
        host = current()
        path = None if weights == BY_TAG else host.checkpoint_path(weights)
        return (host.load_open_clip(architecture, path, tag, allow_download=allow_download),)
