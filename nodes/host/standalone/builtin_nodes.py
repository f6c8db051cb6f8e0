"""Stand-ins for the built-in nodes that the example workflows need outside ComfyUI.

Inputs, outputs and the order of widgets are ComfyUI's. `Place` says where images are read and
written.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glide_core.errors import GlideError

from .. import current
from ..files import is_file
from .builtin_masks import MASK_NODES
from .graph import shown

PER_LATENT_PIXEL = 8  # built-in nodes count pixels of an SD image: 512 there is 64 here


@dataclass
class Place:
    """Where LoadImage looks, where SaveImage writes, and what it writes into the PNGs."""

    inputs: tuple[Path, ...]
    out: Path
    text: dict[str, Any] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)

    def find(self, name: str) -> Path:
        """Resolve an image's name; "photo.png [input]", as ComfyUI writes it, is photo.png."""
        plain = name.rsplit(" [", 1)[0] if name.endswith("]") else name
        for folder in self.inputs:
            path = folder / plain  # an absolute name stays as it is
            if is_file(path):
                return path
        places = ", ".join(str(folder) for folder in self.inputs)
        raise GlideError(
            f"image {shown(plain)} was not found in {places}. Put it there, or "
            "name another with --set LoadImage.image=PATH."
        )


class _Placed:
    def __init__(self, place: Place) -> None:
        self.place = place


class _ReadsImage(_Placed):
    def problem(self, image: Any) -> str | bool:
        """Answer as VALIDATE_INPUTS of the real node; an instance method, as it needs the place."""
        if isinstance(image, str):
            try:
                self.place.find(image)
            except GlideError as error:
                return str(error)
        return True


def _channel(path: Path, channel: str) -> Any:
    """Read one channel as MASK [1, H, W]: "red", "green", "blue", or "alpha", where transparent is
    1; without an alpha channel that is a mask of zeros, [1, 64, 64]."""
    import torch

    from glide_core.images import invert_mask, levels, open_image

    image = open_image(path)
    if channel != "alpha":
        return levels(image.convert("RGB").getchannel(channel[0].upper()))[None]
    if not image.has_transparency_data:
        return torch.zeros(1, 64, 64)
    return invert_mask(levels(image.convert("RGBA").getchannel("A")))[None]


class LoadImage(_ReadsImage):
    """As ComfyUI's, except that transparent pixels become white, not the colour below them."""

    FUNCTION = "load"
    RETURN_TYPES = ("IMAGE", "MASK")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("STRING", {})}}

    def load(self, image: str) -> tuple[Any, Any]:
        from glide_core.images import load_image

        path = self.place.find(image)
        return load_image(path), _channel(path, "alpha")


class LoadImageMask(_ReadsImage):
    FUNCTION = "load"
    RETURN_TYPES = ("MASK",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        channels = ["alpha", "red", "green", "blue"]
        return {"required": {"image": ("STRING", {}), "channel": (channels, {"default": "alpha"})}}

    def load(self, image: str, channel: str) -> tuple[Any]:
        return (_channel(self.place.find(image), channel),)


def _fill_fields(prefix: str, width: int, height: int) -> str:
    """Fill ComfyUI's fields of a file name: %year%, %month%, ..., %width%, %height%."""
    codes = {"year": "Y", "month": "m", "day": "d", "hour": "H", "minute": "M", "second": "S"}
    fields = {name: time.strftime(f"%{code}") for name, code in codes.items()}
    fields |= {"width": str(width), "height": str(height)}
    return re.sub(r"%(\w+)%", lambda m: fields.get(m.group(1), m.group(0)), prefix)


class SaveImage(_Placed):
    FUNCTION = "save"
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    PREFIX = "ComfyUI"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": ("IMAGE", {}),
                "filename_prefix": ("STRING", {"default": cls.PREFIX}),
            }
        }

    def save(self, images: Any, filename_prefix: str) -> tuple[()]:
        from glide_core import io
        from glide_core.images import from_comfy, to_pil

        made = to_pil(from_comfy(images))
        prefix = _fill_fields(filename_prefix, *made[0].size)
        self.place.written += io.save_images(
            made, self.place.out, prefix, [self.place.text] * len(made)
        )
        return ()


class PreviewImage(SaveImage):
    """ComfyUI shows the image; here it is written as preview_00001_.png."""

    FUNCTION = "preview"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE", {})}}

    def preview(self, images: Any) -> tuple[()]:
        return self.save(images, "preview")


class CLIPTextEncode(_Placed):
    FUNCTION = "encode"
    RETURN_TYPES = ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"text": ("STRING", {"multiline": True}), "clip": ("CLIP", {})}}

    def encode(self, text: str, clip: Any) -> tuple[Any]:
        return (current().encode_text(clip, text),)


class EmptyLatentImage(_Placed):
    """Its pixels are those of an SD image: 512 means 64 here, exactly as in ComfyUI."""

    FUNCTION = "generate"
    RETURN_TYPES = ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        side = ("INT", {"default": 512, "min": 16, "max": 16384, "step": 8})
        batch = ("INT", {"default": 1, "min": 1, "max": 4096})
        return {"required": {"width": side, "height": side, "batch_size": batch}}

    def generate(self, width: int, height: int, batch_size: int) -> tuple[Any]:
        import torch

        size = (height // PER_LATENT_PIXEL, width // PER_LATENT_PIXEL)
        return ({"samples": torch.zeros(batch_size, 3, *size)},)


class VAEDecode(_Placed):
    FUNCTION = "decode"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT", {}), "vae": ("VAE", {})}}

    def decode(self, samples: Any, vae: Any) -> tuple[Any]:
        return (vae.decode(samples["samples"]),)


class VAEEncode(_Placed):
    FUNCTION = "encode"
    RETURN_TYPES = ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"pixels": ("IMAGE", {}), "vae": ("VAE", {})}}

    def encode(self, pixels: Any, vae: Any) -> tuple[Any]:
        return ({"samples": vae.encode(pixels)},)


BUILTIN_NODES: dict[str, tuple[type[Any], str]] = {
    "LoadImage": (LoadImage, "Load Image"),
    "LoadImageMask": (LoadImageMask, "Load Image (as Mask)"),
    "SaveImage": (SaveImage, "Save Image"),
    "PreviewImage": (PreviewImage, "Preview Image"),
    "CLIPTextEncode": (CLIPTextEncode, "CLIP Text Encode (Prompt)"),
    "EmptyLatentImage": (EmptyLatentImage, "Empty Latent Image"),
    "VAEDecode": (VAEDecode, "VAE Decode"),
    "VAEEncode": (VAEEncode, "VAE Encode"),
    **MASK_NODES,
}
