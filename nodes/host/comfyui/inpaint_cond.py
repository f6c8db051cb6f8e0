"""Images and masks as the model's extra input channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..values import known_pixels


def find_known(extras: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Give InpaintModelConditioning's image and mask as a keep_mask, else the LATENT's."""
    return known_pixels(extras) or known_pixels(extras, ("latent_image", "denoise_mask"))


def inpaint_condition(noise: Tensor, extras: dict[str, Any]) -> Tensor:
    """Give [B, C + 1, H, W]: the known pixels and the keep mask, zeros where nothing is known.

    The image is masked before it is resized, so no hidden pixel reaches the model.
    """
    batch, channels = noise.shape[:2]
    size = noise.shape[-2:]
    found = find_known(extras)
    if found is None:
        return noise.new_zeros(batch, channels + 1, *size)
    image, keep = (value.to(noise.device, torch.float32) for value in found)
    image, keep = (to_batch(v, max(len(image), len(keep))) for v in (image, keep))
    known = image * keep
    if known.shape[-2:] != size:
        share = resize(keep, size)  # how much of each small pixel is known
        keep = (share > 0.99).float()
        known = resize(known, size) * keep
    return to_batch(torch.cat([known, keep], dim=1), batch)


def resize(x: Tensor, size: Any) -> Tensor:
    """Resize [B, C, h, w] bilinearly, averaging where it shrinks."""
    if x.shape[-2:] == tuple(size):
        return x
    shrinks = x.shape[-1] > size[-1] or x.shape[-2] > size[-2]
    return torch.nn.functional.interpolate(
        x, tuple(size), mode="bilinear", align_corners=False, antialias=shrinks
    )


def to_batch(x: Tensor, batch: int) -> Tensor:
    """Repeat or cut the first axis to `batch`."""
    repeats = -(-batch // x.shape[0])
    return x.repeat(repeats, *[1] * (x.ndim - 1))[:batch]
