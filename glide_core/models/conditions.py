"""Channels concatenated to x_t: the masked image and its mask, the low-resolution image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from glide_core.config import GlideConfig
from glide_core.errors import GlideError


def spatial_conditions(
    config: GlideConfig,
    x: Tensor,
    low_res: Tensor | None,
    image: Tensor | None,
    keep_mask: Tensor | None,
) -> list[Tensor]:
    """Return the extra channels for x [B, C, H, W], in the order of OpenAI's first convolution:
    masked image and mask, then the resized low_res.

    GlideError if the image size is not supported, or an input is missing or not accepted.
    """
    b, c, height, width = x.shape
    step = config.unet.side_multiple
    if height % step or width % step:
        raise GlideError(
            f"image size {width}x{height} is not supported: width and height must be multiples "
            f"of {step}"
        )
    parts: list[Tensor] = []
    if config.is_inpaint:
        if image is None or keep_mask is None:
            parts.append(x.new_zeros(b, c + 1, height, width))
        else:
            parts += [image * keep_mask, keep_mask]
    elif image is not None or keep_mask is not None:
        raise GlideError(f"{config.kind} models accept no mask: load an inpainting model")
    if config.is_upsampler:
        if low_res is None:
            raise GlideError(
                f"{config.kind} models need a low-resolution image: connect one, or load a base "
                "model for text to image"
            )
        size = (height, width)
        parts.append(F.interpolate(low_res, size, mode="bilinear", align_corners=False))
    elif low_res is not None:
        raise GlideError(f"{config.kind} models accept no low-resolution image: load an upsampler")
    return parts


def joined(x: Tensor, conditions: list[Tensor]) -> Tensor:
    """Concatenate x [B, C, H, W] with its conditions."""
    return torch.cat([x, *(c.to(x.dtype) for c in conditions)], dim=1) if conditions else x
