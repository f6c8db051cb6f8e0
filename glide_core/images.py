"""Images and masks: layouts, value ranges, mask polarity, files.

ComfyUI and files have IMAGE [B, H, W, C] float in 0..1 and MASK [B, H, W] with 1 = inpaint. The
models take images [B, C, H, W] float32 in [-1, 1] and keep_mask [B, 1, H, W] with 1 = keep;
the polarity changes in `keep_mask` and `invert_mask` only. Input tensors are never written to.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from glide_core.errors import GlideError, shorten
from glide_core.names import MAX_SIDE

# Formats that are decoded in this process. GIF: the first frame.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 50_000_000  # a float32 copy takes 12 bytes a pixel
SOFT_EDGES = "the mask has soft edges: values from 0.5 up are inpainted, values below are kept"

_MAX_ASPECT = 16  # a thinner image has no shape left at 64 pixels


class KeepMask(NamedTuple):
    """A mask for the models, and whether it had to be rounded."""

    keep: Tensor  # [B, 1, H, W] float32 of 0 and 1, 1 = keep
    soft: bool  # it had values between 0 and 1 (SOFT_EDGES is the warning)


def from_comfy(image: Tensor) -> Tensor:
    """Convert IMAGE [B, H, W, C] or [H, W, C] in 0..1 to images [B, 3, H, W] in [-1, 1].

    Grey becomes RGB, an alpha channel is dropped, values outside 0..1 are clamped. GlideError for
    other shapes and for NaN.
    """
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise GlideError(
            f"an image of shape {list(image.shape)} cannot be used: expected [batch, height, "
            "width, channels] with 1, 3 or 4 channels and nothing empty"
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
) -> KeepMask:
    """Convert MASK [H, W], [B, H, W] or [B, 1, H, W], 1 = inpaint, to a keep_mask.

    Rounded at 0.5 first. size: resize to (height, width), see `resize_keep`. batch: the masks are
    repeated in turn. GlideError for other shapes and for NaN.
    """
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim == 3:
        mask = mask[:, None]
    if mask.ndim != 4 or mask.shape[1] != 1 or 0 in mask.shape:
        raise GlideError(
            f"a mask of shape {list(mask.shape)} cannot be used: expected [height, width], "
            "[batch, height, width] or [batch, 1, height, width]"
        )
    if mask.isnan().any():
        raise GlideError("the mask contains NaN: expected values from 0 to 1")
    inpaint = mask >= 0.5
    soft = bool((mask != inpaint).any())
    keep = (~inpaint).float()
    if size is not None:
        keep = resize_keep(keep, size)
    return KeepMask(keep if batch is None else cycle(keep, batch), soft)


def invert_mask(mask: Tensor) -> Tensor:
    """Turn a keep_mask into a mask with 1 = inpaint of the same shape, or back."""
    return 1 - mask


def resize_keep(keep: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a keep_mask to (height, width): a pixel is kept if all of it is, so that thin strokes
    to inpaint survive."""
    if keep.shape[2:] == size:
        return keep
    return -F.adaptive_max_pool2d(-keep, size)


def check_mask_size(image: Tensor, mask: Tensor) -> None:
    """Raise GlideError unless mask [B, H, W] and image [B, 3, H, W] have one size."""
    if image.shape[-2:] != mask.shape[-2:]:
        (height, width), (mask_height, mask_width) = image.shape[-2:], mask.shape[-2:]
        raise GlideError(
            f"the mask is {mask_width}x{mask_height} and the image {width}x{height}: expected a "
            "mask of the image's size"
        )


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


def fit(images: Tensor, shorter: int, multiple: int = 8) -> Tensor:
    """Resize images [B, 3, H, W] so that the shorter side has `shorter` pixels (0: unchanged).

    Both sides become multiples of `multiple`, which the networks need; the aspect ratio is kept as
    well as that allows.
    """
    height, width = images.shape[2:]
    if not isinstance(shorter, int) or not 0 <= shorter <= MAX_SIDE:
        raise GlideError(
            f"{shorten(repr(shorter))} pixels for the shorter side of an image are out of range: "
            f"expected 0 to {MAX_SIDE}"
        )
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise GlideError(
            f"an image of {width}x{height} is too long and thin: expected one side to be at most "
            f"{_MAX_ASPECT} times the other"
        )
    scale = shorter / min(height, width) if shorter else 1.0
    sides = [max(1, round(side * scale / multiple)) * multiple for side in (height, width)]
    return resize(images, (sides[0], sides[1]))


def load_image(path: Path | str, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read an image file as IMAGE [1, H, W, 3], upright, transparent parts on white."""
    return levels(on_white(open_image(path, max_pixels)))[None]


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
    if isinstance(image, (str, Path)):
        return from_comfy(load_image(image, max_pixels))
    if isinstance(image, Image.Image):
        return from_comfy(levels(on_white(_given(image)))[None])
    if isinstance(image, (Tensor, np.ndarray)):
        values = _unit(image, "an image")
        channels_first = isinstance(image, Tensor) and values.ndim in (3, 4)
        return from_comfy(values.movedim(-3, -1) if channels_first else values)
    raise GlideError(
        f"an image cannot be a {type(image).__name__}: expected a PIL image, an array, a tensor "
        "or a file"
    )


def read_mask(mask: Any, max_pixels: int = MAX_PIXELS) -> Tensor:
    """A MASK [B, H, W], 1 = inpaint, from a file, PIL image, array or tensor [(B, (1,)) H, W].

    Of an image white is inpainted; of one with transparency, what is transparent.
    """
    if isinstance(mask, (str, Path)):
        mask = open_image(mask, max_pixels)
    if isinstance(mask, Image.Image):
        mask = _given(mask)
        if has_alpha(mask):
            alpha = mask.convert("RGBA").getchannel("A")
            if alpha.getextrema() != (255, 255):  # an opaque alpha channel carries no mask
                return invert_mask(levels(alpha)[None])
        return levels(on_white(mask).convert("L"))[None]
    what = f"a {type(mask).__name__}"
    if isinstance(mask, (Tensor, np.ndarray)):
        values = _unit(mask, "a mask")
        if 2 <= values.ndim <= 4 and values.numel():
            return values.reshape(-1, *values.shape[-2:])
        what = f"of shape {list(values.shape)}"
    raise GlideError(
        f"a mask cannot be {what}: expected a PIL image, an array or tensor "
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
    raise GlideError(f"output_type is {output_type!r}: expected pil, np or pt")


def _unit(values: Tensor | np.ndarray[Any, Any], what: str) -> Tensor:
    """Numbers in 0..1 as float32; uint8 is 0..255. GlideError for others, and for NaN."""
    if isinstance(values, np.ndarray) and (
        values.dtype.kind == "f" or values.dtype in (np.uint8, np.bool_)
    ):
        own = np.float32 if values.dtype.kind == "f" else values.dtype
        values = torch.from_numpy(np.array(values, dtype=own))
    if (
        not isinstance(values, Tensor)
        or not (values.is_floating_point() or values.dtype in (torch.uint8, torch.bool))
        or values.layout != torch.strided
        or values.is_nested
        or values.is_meta
    ):
        raise GlideError(
            f"{what} cannot hold {values.dtype}: expected floating point numbers from 0 to 1, "
            "integers from 0 to 255 as uint8, or bool"
        )
    unit = values.float() / (255 if values.dtype == torch.uint8 else 1)
    if not bool(((unit > -1) & (unit < 2)).all()):  # resizing may overshoot 0..1 a little
        raise GlideError(
            f"{what} holds NaN or values far outside 0 to 1: expected floating point numbers from "
            "0 to 1, or integers from 0 to 255 as uint8"
        )
    return unit


def levels(image: Image.Image) -> Tensor:
    """The values of an image in 0..1, in the layout of its mode."""
    return torch.from_numpy(np.array(image)).float() / 255


def has_alpha(image: Image.Image) -> bool:
    """Whether a PIL image has transparency of any kind."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def on_white(image: Image.Image) -> Image.Image:
    """Convert any PIL image to RGB, transparent parts on white."""
    if has_alpha(image):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def open_image(path: Path | str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a file's first frame, turned as its EXIF data says, with at most 8 bits a channel.

    GlideError for a missing, unsupported, damaged or not regular file, and for an image of more
    than `max_pixels`.
    """
    shown = shorten(path, 200)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise GlideError(f"{shown} is not a regular file: expected an image file")
        return decode(path, max_pixels)
    except GlideError as error:
        raise GlideError(f"{shown}: {error}" if shown not in str(error) else str(error)) from error
    except FileNotFoundError as error:
        raise GlideError(f"{shown} was not found: expected an image file") from error
    except UnidentifiedImageError as error:
        names = ", ".join(FORMATS)
        raise GlideError(
            f"{shown} is an unsupported or damaged image: expected one of {names}"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise nearly every type for damaged files
        reason = getattr(error, "strerror", None) or shorten(error) or type(error).__name__
        raise GlideError(f"{shown} cannot be read as an image: {reason}") from error


def decode(file: Path | str | BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode like `open_image`, from a path or an open file; raises whatever PIL raises.

    Only `FORMATS` are tried: PIL would start Ghostscript for an EPS file of any name.
    """
    with Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:  # known from the header, before anything is decoded
            raise GlideError(
                f"an image of {width}x{height} has more than the allowed {max_pixels:,} pixels"
            )
        image.load()
        upright = ImageOps.exif_transpose(image)
    return _plain(upright)  # here, since a palette or the transparency can be damaged too


def _plain(image: Image.Image) -> Image.Image:
    """Convert to L, RGB or RGBA; raises whatever PIL raises.

    16 bits and more, which PIL would clip at 255, are scaled; so are floating point numbers in
    0..1. GlideError for NaN and infinity.
    """
    if image.mode.startswith(("I", "F")):
        values = np.array(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise GlideError("the image contains NaN or infinity: expected finite values")
        most = values.max(initial=0)
        scale = 255 if image.mode == "F" and most <= 1 else 1 if most <= 255 else 255 / 65535
        return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
    if has_alpha(image):
        return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _given(image: Image.Image) -> Image.Image:
    """`_plain` for an image that a caller made."""
    try:
        return _plain(image)
    except Exception as error:
        reason = shorten(error) or type(error).__name__
        raise GlideError(f"a PIL image of mode {image.mode} cannot be used: {reason}") from error
