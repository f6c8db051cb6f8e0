"""What is concatenated to x_t: the known pixels and their mask, the image to enlarge."""

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
    """Give the extra channels for x [B, C, H, W], in the order of OpenAI's first convolution:
    masked image and mask, then the resized low_res.

    GlideError for an image that does not fit the model, or that it does not take.
    """
    b, c, height, width = x.shape
    step = 2 ** (len(config.unet.channel_mult) - 1) * config.unet.patch_size
    if height % step or width % step:
        raise GlideError(
            f"an image of {width}x{height} does not fit this model: width and height must be "
            f"multiples of {step}"
        )
    parts: list[Tensor] = []
    if config.is_inpaint:
        if image is None or keep_mask is None:
            parts.append(x.new_zeros(b, c + 1, height, width))
        else:
            parts += [image * keep_mask, keep_mask]
    elif image is not None or keep_mask is not None:
        raise GlideError(
            f"this is a {config.kind} model and takes no mask: load an inpainting model"
        )
    if config.is_upsampler:
        if low_res is None:
            raise GlideError(
                f"this is an {config.kind} model and needs a low-resolution image: "
                "connect one, or load a base model to generate from text alone"
            )
        size = (height, width)
        parts.append(F.interpolate(low_res, size, mode="bilinear", align_corners=False))
    elif low_res is not None:
        raise GlideError(f"this is a {config.kind} model and cannot enlarge: load an upsampler")
    return parts


def joined(x: Tensor, conditions: list[Tensor]) -> Tensor:
    """Concatenate x [B, C, H, W] with its conditions."""
    return torch.cat([x, *(c.to(x.dtype) for c in conditions)], dim=1) if conditions else x
