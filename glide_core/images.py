"""Pictures and masks between the outside and the core: layouts, value ranges, polarity, files.

Outside (ComfyUI, files): IMAGE [B, H, W, C] float 0..1 and MASK [B, H, W] with 1 = repaint.
In the core: pictures [B, C, H, W] float32 in [-1, 1] and keep_mask [B, 1, H, W] with 1 = keep.
Nothing here writes into a tensor that came in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from glide_core.errors import GlideError

SOFT_EDGES = "The mask has soft edges. It was cut at one half: a pixel is repainted or kept."


_LONGEST = 16  # times as long as wide: thinner pictures have no shape left for a model to see


class KeepMask(NamedTuple):
    """A mask as the core wants it, and whether something was lost on the way."""

    keep: Tensor  # [B, 1, H, W] float32 of 0 and 1, 1 = keep
    soft: bool  # it had values between 0 and 1 (say SOFT_EDGES)


def from_comfy(image: Tensor) -> Tensor:
    """IMAGE [B, H, W, C] or [H, W, C] in 0..1 to a picture [B, 3, H, W] in [-1, 1].

    Grey becomes RGB, an alpha channel is dropped, values outside 0..1 are clamped.
    """
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise GlideError(
            f"This is no picture: its shape is {list(image.shape)}. Expected an IMAGE of at least "
            "one picture, [batch, height, width, channels] with 1, 3 or 4 channels."
        )
    rgb = image[..., :3].float().expand(*image.shape[:3], 3).movedim(-1, 1)
    return (rgb.clamp(0, 1) * 2 - 1).contiguous()


def to_comfy(pictures: Tensor) -> Tensor:
    """Picture [B, C, H, W] in [-1, 1] to IMAGE [B, H, W, C] in 0..1, clamped."""
    return ((pictures.float() + 1) / 2).clamp(0, 1).movedim(1, -1).contiguous()


def keep_mask(
    mask: Tensor, size: tuple[int, int] | None = None, batch: int | None = None
) -> KeepMask:
    """MASK [H, W], [B, H, W] or [B, 1, H, W], 1 = repaint, to the core's keep_mask.

    Cut at 0.5 first. Another size (height, width): a pixel is repainted if any part of it is, so
    that thin strokes survive. Another batch: the masks are used in turn.
    """
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim == 3:
        mask = mask[:, None]
    if mask.ndim != 4 or mask.shape[1] != 1 or 0 in mask.shape:
        raise GlideError(
            f"This is no mask: its shape is {list(mask.shape)}. Expected a MASK: [height, width], "
            "[batch, height, width] or [batch, 1, height, width]."
        )
    repaint = (mask >= 0.5).float()
    soft = bool((mask != repaint).any())
    if size is not None and repaint.shape[2:] != size:
        repaint = F.adaptive_max_pool2d(repaint, size)
    keep = 1 - repaint
    return KeepMask(keep if batch is None else cycle(keep, batch), soft)


def cycle(values: Tensor, batch: int) -> Tensor:
    """Take the entries of the first axis in turn until there are `batch`."""
    if batch < 1:
        raise GlideError(f"The batch size is {batch}. Expected 1 or more.")
    if len(values) == batch:
        return values
    return values[torch.arange(batch, device=values.device) % len(values)]


def to_uint8(pictures: Tensor) -> Tensor:
    """Picture [B, C, H, W] in [-1, 1] to uint8 of the same shape, rounded (the notebooks' way)."""
    return ((pictures.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def quantize_8bit(pictures: Tensor) -> Tensor:
    """Round to the 256 levels of a file, unclamped: what the upsampler was given in training."""
    return ((pictures + 1) * 127.5).round() / 127.5 - 1


def to_pil(pictures: Tensor) -> list[Image.Image]:
    """Picture [B, 3, H, W] in [-1, 1] to RGB images."""
    return [Image.fromarray(p) for p in to_uint8(pictures).movedim(1, -1).cpu().numpy()]


def from_pil(image: Image.Image, size: tuple[int, int] | None = None) -> Tensor:
    """RGB image to a picture [1, 3, H, W], resized to (height, width) where asked.

    As the reference does it: PIL's bicubic filter on 8-bit values, whatever the aspect ratio.
    """
    rgb = image.convert("RGB")
    if size is not None and rgb.size != size[::-1]:
        rgb = rgb.resize(size[::-1], Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.array(rgb))  # [H, W, 3]
    return values.movedim(-1, 0)[None].float() / 127.5 - 1


def resize(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize pictures [B, 3, H, W] to (height, width) by `from_pil`'s filter."""
    if tuple(pictures.shape[2:]) == size:
        return pictures
    resized = [from_pil(image, size) for image in to_pil(pictures)]
    return torch.cat(resized).to(pictures.device)


def fit(pictures: Tensor, shorter: int, multiple: int = 8) -> Tensor:
    """Resize pictures [B, 3, H, W] so that the shorter side has this many pixels (0: as it is).

    Both sides become multiples of `multiple`, so that the networks can halve them; the aspect
    ratio is kept as well as that allows.
    """
    height, width = pictures.shape[2:]
    if max(height, width) > _LONGEST * min(height, width):
        raise GlideError(
            f"The picture is {width}x{height}: too long and thin. Expected one side at most "
            f"{_LONGEST} times the other. Crop it first."
        )
    scale = shorter / min(height, width) if shorter else 1.0
    sides = [max(1, round(side * scale / multiple)) * multiple for side in (height, width)]
    return resize(pictures, (sides[0], sides[1]))


def load_image(path: Path | str) -> Tensor:
    """Read a picture file as IMAGE [1, H, W, 3], upright, what is transparent on white."""
    return _levels(on_white(open_image(path)))[None]


def load_mask(path: Path | str) -> Tensor:
    """Read a mask file as MASK [1, H, W]: white is repainted, or, with transparency, the holes."""
    return _mask_levels(open_image(path))


def _mask_levels(image: Image.Image) -> Tensor:
    if _has_alpha(image):
        return 1 - _levels(image.convert("RGBA").getchannel("A"))[None]
    return _levels(image.convert("L"))[None]


def load_channel(path: Path | str, channel: str) -> Tensor:
    """Read one channel as ComfyUI's Load Image (as Mask) does, MASK [1, H, W].

    channel: "red", "green", "blue", or "alpha", where the transparent is 1; without any
    transparency that is a mask of zeros, [1, 64, 64].
    """
    image = open_image(path)
    if channel == "alpha":
        if not _has_alpha(image):
            return torch.zeros(1, 64, 64)
        return 1 - _levels(image.convert("RGBA").getchannel("A"))[None]
    return _levels(image.convert("RGB").getchannel(channel[0].upper()))[None]


def read_image(image: Any) -> Tensor:
    """An image for the models, [B, 3, H, W] in [-1, 1].

    image: a file, a PIL image, an array [(B,) H, W, 3] or tensor [(B,) 3, H, W] in 0..1 (uint8:
    0..255), or a list of them with one size.
    """
    if isinstance(image, (list, tuple)):
        rows = [read_image(each) for each in image]
        if not rows or len({row.shape[1:] for row in rows}) > 1:
            raise GlideError("expected at least one image, and images of one size in a list")
        return torch.cat(rows)
    if isinstance(image, (str, Path)):
        return from_comfy(load_image(image))
    if isinstance(image, Image.Image):
        return from_comfy(_levels(on_white(image))[None])
    if isinstance(image, Tensor):
        return from_comfy(_unit(image).movedim(-3, -1) if image.ndim in (3, 4) else image)
    if isinstance(image, np.ndarray):
        return from_comfy(_unit(torch.from_numpy(np.ascontiguousarray(image))))
    raise GlideError(
        f"an image cannot be a {type(image).__name__}: expected a PIL image, an array, a tensor "
        "or a file"
    )


def read_mask(mask: Any) -> Tensor:
    """A MASK [B, H, W], 1 = inpaint, from a file, PIL image, array or tensor [(B, (1,)) H, W]."""
    if isinstance(mask, (str, Path)):
        return load_mask(mask)
    if isinstance(mask, Image.Image):
        return _mask_levels(mask)
    if isinstance(mask, np.ndarray):
        mask = torch.from_numpy(np.ascontiguousarray(mask))
    if isinstance(mask, Tensor) and 2 <= mask.ndim <= 4:
        return _unit(mask).reshape(-1, *mask.shape[-2:])
    raise GlideError(
        f"a mask cannot be a {type(mask).__name__}: expected a PIL image, an array or tensor "
        "[(batch,) height, width] in 0..1, or a file"
    )


def to_output(images: Tensor, output_type: str) -> Any:
    """Images [B, 3, H, W] in [-1, 1] as "pil" (a list), "np" [B, H, W, 3] or "pt" [B, 3, H, W],
    both in 0..1."""
    if output_type == "pil":
        return to_pil(images)
    unit = to_comfy(images).cpu()
    if output_type == "np":
        return unit.numpy()
    if output_type == "pt":
        return unit.movedim(-1, 1).contiguous()
    raise GlideError(f"unknown output_type {output_type!r}: expected pil, np or pt")


def _unit(values: Tensor) -> Tensor:
    """Integers 0..255 to 0..1; floating point numbers are in 0..1 already."""
    return values.float() / (255 if values.dtype == torch.uint8 else 1)


def _levels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).float() / 255


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def on_white(image: Image.Image) -> Image.Image:
    """Any image as RGB, what is transparent on white."""
    if _has_alpha(image):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def open_image(path: Path | str) -> Image.Image:
    """Decode a file's first frame, turned as its EXIF says, in at most 8 bits a channel."""
    try:
        return decode(path)
    except FileNotFoundError as error:
        raise GlideError(f"There is no file {path}. Expected a picture: check the name.") from error
    except (IsADirectoryError, PermissionError) as error:
        raise GlideError(
            f"{path} cannot be read: {error.strerror}. Expected a picture file: name another."
        ) from error
    except UnidentifiedImageError as error:
        raise GlideError(
            f"{path} is no picture that can be read. Expected PNG, JPEG, WebP, GIF, BMP or TIFF."
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise GlideError(
            f"{path} cannot be read as a picture: {error}. Expected a whole file: save it anew."
        ) from error


def decode(file: Path | str | BinaryIO) -> Image.Image:
    """Do what `open_image` does, on a file or an open one; raises whatever PIL raises."""
    with Image.open(file) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):  # 16 bits and more, which PIL would clip at 255
        values = np.array(upright, dtype=np.float64)
        scale = 1.0 if values.max(initial=0) <= 255 else 255 / 65535
        levels = np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
        return Image.fromarray(levels)
    return upright
