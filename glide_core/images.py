"""Images and masks: layouts, value ranges, mask polarity, files.

ComfyUI and files have IMAGE [B, H, W, C] float in 0..1 and MASK [B, H, W] with 1 = inpaint. The
models take images [B, C, H, W] float32 in [-1, 1] and keep_mask [B, 1, H, W] with 1 = keep;
the polarity changes in `keep_mask` and `invert_mask` only. Input tensors are never written to.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from glide_core.errors import GlideError, as_glide_error, shorten
from glide_core.fields import short
from glide_core.names import MAX_SIDE

# Formats that are decoded in this process. GIF: the first frame.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 50_000_000  # a float32 copy takes 12 bytes a pixel
SOFT_EDGES = "the mask has soft edges: values from 0.5 up are inpainted, values below are kept"

_MAX_ASPECT = 16  # a thinner image has no shape left at 64 pixels


def from_comfy(image: Tensor) -> Tensor:
    """Convert IMAGE [B, H, W, C] or [H, W, C] in 0..1 to images [B, 3, H, W] in [-1, 1].

    Grey becomes RGB, an alpha channel is dropped, values outside 0..1 are clamped. GlideError for
    other shapes and for NaN.
    """
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise GlideError(
            f"an image of shape {list(image.shape)}: expected [batch, height, width, 1, 3 or 4]"
        )
    if image.isnan().any():
        raise GlideError("the image contains NaN: expected values from 0 to 1")
    rgb = image[..., :3].float().expand(*image.shape[:3], 3).movedim(-1, 1)
    return (rgb.clamp(0, 1) * 2 - 1).contiguous()


def to_comfy(images: Tensor) -> Tensor:
    """Convert images [B, C, H, W] in [-1, 1] to IMAGE [B, H, W, C] in 0..1, clamped."""
    return ((images.float() + 1) / 2).clamp(0, 1).movedim(1, -1).contiguous()


def keep_mask(
    mask: Tensor, size: tuple[int, int] | None = None, batch: int | None = None
) -> Tensor:
    """Convert MASK [H, W], [B, H, W] or [B, 1, H, W], 1 = inpaint, to a keep_mask of 0 and 1.

    Rounded at 0.5 first. size: resize to (height, width), see `resize_keep`. batch: the masks are
    repeated in turn. GlideError for other shapes and for NaN.
    """
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim == 3:
        mask = mask[:, None]
    if mask.ndim != 4 or mask.shape[1] != 1 or 0 in mask.shape:
        raise GlideError(f"a mask of shape {list(mask.shape)}: expected [(batch,) height, width]")
    if mask.isnan().any():
        raise GlideError("the mask contains NaN: expected values from 0 to 1")
    keep = (mask < 0.5).float()
    if size is not None:
        keep = resize_keep(keep, size)
    return keep if batch is None else cycle(keep, batch)


def is_soft(mask: Tensor) -> bool:
    """Whether a MASK has to be rounded (SOFT_EDGES is the warning)."""
    return bool((mask != (mask >= 0.5)).any())


def invert_mask(mask: Tensor) -> Tensor:
    """Turn a keep_mask into a mask with 1 = inpaint of the same shape, or back."""
    return 1 - mask


def resize_keep(keep: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a keep_mask to (height, width): a pixel is kept if all of it is, so that thin strokes
    to inpaint survive."""
    if keep.shape[2:] == size:
        return keep
    return -F.adaptive_max_pool2d(-keep, size)


def largest_within(values: Tensor, reach: int) -> Tensor:
    """The largest value of [B, C, H, W] within `reach` pixels, rows first for speed."""
    height, width = values.shape[2:]
    tall, wide = min(reach, height - 1), min(reach, width - 1)  # beyond are no pixels
    rows = F.max_pool2d(values, (1, 2 * wide + 1), stride=1, padding=(0, wide))
    return F.max_pool2d(rows, (2 * tall + 1, 1), stride=1, padding=(tall, 0))


def cycle(values: Tensor, batch: int) -> Tensor:
    """Repeat the rows of the first axis in turn until there are `batch`."""
    if batch < 1:
        raise GlideError(f"the batch size is {batch}: expected 1 or more")
    if len(values) == batch:
        return values
    return values[torch.arange(batch, device=values.device) % len(values)]


def to_uint8(images: Tensor) -> Tensor:
    """Convert images [B, C, H, W] in [-1, 1] to uint8 of the same shape, rounded."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def quantize_8bit(images: Tensor) -> Tensor:
    """Round to the 256 levels of a file, unclamped: the upsampler was trained on such images."""
    return ((images + 1) * 127.5).round() / 127.5 - 1


def to_pil(images: Tensor) -> list[Image.Image]:
    """Convert images [B, 3, H, W] in [-1, 1] to RGB PIL images."""
    return [Image.fromarray(p) for p in to_uint8(images).movedim(1, -1).cpu().numpy()]


def from_pil(image: Image.Image, size: tuple[int, int] | None = None) -> Tensor:
    """Convert a PIL image to [1, 3, H, W] in [-1, 1], resized to `size` (height, width) if given.

    As in the reference: PIL's bicubic filter on 8-bit values; the aspect ratio is not kept.
    """
    rgb = image.convert("RGB")
    if size is not None and rgb.size != size[::-1]:
        rgb = rgb.resize(size[::-1], Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.array(rgb))  # [H, W, 3]
    return values.movedim(-1, 0)[None].float() / 127.5 - 1


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images [B, 3, H, W] to (height, width) with PIL's bicubic filter, as `from_pil`."""
    if tuple(images.shape[2:]) == size:
        return images
    resized = [from_pil(image, size) for image in to_pil(images)]
    return torch.cat(resized).to(images.device)


def fit(images: Tensor, shorter: int) -> Tensor:
    """Resize images [B, 3, H, W] so that the shorter side has `shorter` pixels (0: unchanged).

    Both sides become multiples of 8, which the networks need; the aspect ratio is kept as well as
    that allows.
    """
    height, width = images.shape[2:]
    if not isinstance(shorter, int) or not 0 <= shorter <= MAX_SIDE:
        raise GlideError(f"shorter side of {short(shorter)} pixels: expected 0 to {MAX_SIDE}")
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise GlideError(f"{width}x{height} is too long and thin: expected {_MAX_ASPECT}:1 at most")
    scale = shorter / min(height, width) if shorter else 1.0
    sides = [max(1, round(side * scale / 8)) * 8 for side in (height, width)]
    return resize(images, (sides[0], sides[1]))


def load_image(image: Path | str | Image.Image, max_pixels: int = MAX_PIXELS) -> Tensor:
    """A file or PIL image as IMAGE [1, H, W, 3], upright, transparent parts on white."""
    return levels(on_white(open_image(image, max_pixels)))[None]


def read_image(image: Any, max_pixels: int = MAX_PIXELS) -> Tensor:
    """An image for the models, [B, 3, H, W] in [-1, 1].

    image: a file, a PIL image, an array [(B,) H, W, 3] or tensor [(B,) 3, H, W] in 0..1 (uint8:
    0..255), or a list of them with one size.
    """
    if isinstance(image, (list, tuple)):
        rows = [read_image(each) for each in image if not isinstance(each, (list, tuple))]
        if len(rows) != len(image) or len({row.shape[1:] for row in rows}) != 1:
            raise GlideError("expected at least one image, and images of one size in a list")
        return torch.cat(rows)
    if isinstance(image, (str, Path, Image.Image)):
        return from_comfy(load_image(image, max_pixels))
    values = _unit(image, "an image")
    channels_first = isinstance(image, Tensor) and values.ndim in (3, 4)
    return from_comfy(values.movedim(-3, -1) if channels_first else values)


def read_mask(mask: Any, max_pixels: int = MAX_PIXELS) -> Tensor:
    """A MASK [B, H, W], 1 = inpaint, from a file, PIL image, array or tensor [(B, (1,)) H, W].

    Of an image white is inpainted; of one with transparency, what is transparent.
    """
    if isinstance(mask, (str, Path, Image.Image)):
        image = open_image(mask, max_pixels)
        if image.mode == "RGBA":
            alpha = image.getchannel("A")
            if alpha.getextrema() != (255, 255):  # an opaque alpha channel carries no mask
                return invert_mask(levels(alpha)[None])
        return levels(on_white(image).convert("L"))[None]
    values = _unit(mask, "a mask")
    if not 2 <= values.ndim <= 4 or not values.numel():
        raise GlideError(f"a mask of shape {list(values.shape)}: expected [(batch,) height, width]")
    return values.reshape(-1, *values.shape[-2:])


def to_output(images: Tensor, output_type: str) -> Any:
    """Images [B, 3, H, W] in [-1, 1] as "pil" (a list), "np" [B, H, W, 3] or "pt" [B, 3, H, W],
    both in 0..1."""
    if output_type == "pil":
        return to_pil(images)
    unit = to_comfy(images).cpu()
    return unit.numpy() if output_type == "np" else unit.movedim(-1, 1).contiguous()


def _unit(values: Any, what: str) -> Tensor:
    """Numbers in 0..1 as float32; uint8 is 0..255. GlideError for others, and for NaN."""
    found = f"{what} cannot be a {type(values).__name__} of {getattr(values, 'dtype', 'objects')}"
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        values = values.astype(np.float32)
    if isinstance(values, np.ndarray) and values.dtype in (np.float32, np.uint8, np.bool_):
        values = torch.from_numpy(values.copy())
    if (
        not isinstance(values, Tensor)
        or not (values.is_floating_point() or values.dtype in (torch.uint8, torch.bool))
        or values.layout != torch.strided
        or values.is_nested
        or values.is_meta
    ):
        raise GlideError(
            f"{found}: expected a file, a PIL image, or an array or tensor of floating point "
            "numbers from 0 to 1, of integers from 0 to 255 as uint8, or of bool"
        )
    unit = values.float() / (255 if values.dtype == torch.uint8 else 1)
    if not bool(((unit > -1) & (unit < 2)).all()):  # resizing may overshoot 0..1 a little
        raise GlideError(f"{what} holds NaN or values far outside the expected 0 to 1")
    return unit


def levels(image: Image.Image) -> Tensor:
    """The values of an image in 0..1, in the layout of its mode."""
    return torch.from_numpy(np.array(image)).float() / 255


def on_white(image: Image.Image) -> Image.Image:
    """Convert any PIL image to RGB, transparent parts on white."""
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def open_image(image: Path | str | Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame of a file, turned as its EXIF data says, or a PIL image: L, RGB or RGBA.

    GlideError for a missing, unsupported, damaged or not regular file, for an image of more than
    `max_pixels`, and for numbers that are not finite.
    """
    if isinstance(image, Image.Image):
        with as_glide_error(f"a PIL image of mode {image.mode} cannot be used"):
            return _plain(image)
    # decoders raise nearly every type for damaged files
    with as_glide_error(f"{shorten(image, 200)} cannot be read as {', '.join(FORMATS)}"):
        if not stat.S_ISREG(os.stat(image).st_mode):
            raise ValueError("it is not a regular file")
        return decode(image, max_pixels)


def decode(file: Path | str | BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode like `open_image`, from a path or an open file; raises whatever PIL raises.

    Only `FORMATS` are tried: PIL would start Ghostscript for an EPS file of any name.
    """
    with Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:  # known from the header, before anything is decoded
            raise ValueError(f"{width}x{height} has more than the allowed {max_pixels:,} pixels")
        image.load()
        upright = ImageOps.exif_transpose(image)
    return _plain(upright)  # here, since a palette or the transparency can be damaged too


def _plain(image: Image.Image) -> Image.Image:
    """Convert to L, RGB or RGBA; raises whatever PIL raises.

    16 bits and more, which PIL would clip at 255, are scaled; so are floating point numbers in
    0..1.
    """
    if image.mode.startswith(("I", "F")):
        values = np.array(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("the image contains NaN or infinity")
        most = values.max(initial=0)
        scale = 255 if image.mode == "F" and most <= 1 else 1 if most <= 255 else 255 / 65535
        return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
