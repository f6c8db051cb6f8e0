"""Images and masks as the model's extra input channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..values import INPAINT_IMAGE, INPAINT_MASK


def inpaint_condition(noise: Tensor, extras: dict[str, Any]) -> Tensor:
    """Give [B, C + 1, H, W]: the known pixels and the keep mask, zeros where nothing is known.

    Reads InpaintModelConditioning's pair, else the LATENT and its noise mask (1 = repaint). The
    image is masked before it is resized, so no hidden pixel reaches the model.
    """
    batch, channels = noise.shape[:2]
    size = noise.shape[-2:]
    image = extras.get(INPAINT_IMAGE)
    image = extras.get("latent_image") if image is None else image
    repaint = extras.get(INPAINT_MASK)
    repaint = extras.get("denoise_mask") if repaint is None else repaint
    if image is None or repaint is None:
        return noise.new_zeros(batch, channels + 1, *size)
    image = image.to(noise.device, torch.float32)
    repaint = repaint.to(image)
    if repaint.ndim == 4:
        repaint = repaint[:, :1]  # a noise mask may come repeated over the channels
    repaint = repaint.reshape(-1, 1, *repaint.shape[-2:])
    keep = (resize(repaint, image.shape[-2:]) < 0.5).float()
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
