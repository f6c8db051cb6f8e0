"""MASKs, 1 = repaint: pairing with images, rounding, growing, and blurring."""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torch.nn import functional as F

from glide_core.errors import GlideError
from glide_core.images import SOFT_EDGES, invert_mask, is_soft, keep_mask, largest_within

log = logging.getLogger("glide")


def paired(image: Tensor, mask: Tensor, *, node: str) -> tuple[Tensor, Tensor]:
    """Give IMAGEs and MASKs of one length; a single one belongs to every one of the other.

    GlideError for any other pair of lengths, which would join an image with the wrong mask.
    """
    count = max(len(image), len(mask))
    if len(image) not in (1, count) or len(mask) not in (1, count):
        raise GlideError(
            f"{node}: 'image' holds {len(image)} images and 'mask' {len(mask)} masks. Expected "
            "equal numbers, or one of either."
        )
    return image.expand(count, *image.shape[1:]), mask  # a single mask stays single


def rounded(mask: Tensor, size: tuple[int, int], *, node: str) -> Tensor:
    """Round MASKs [B, H, W] at 0.5 and resize them: [B, 1, *size] of 0 and 1.

    A pixel is repainted if any part of it is, so that thin strokes survive.
    """
    if is_soft(mask):
        log.warning("%s: %s", node, SOFT_EDGES)
    return invert_mask(keep_mask(mask, size))


def widened(hole: Tensor, grow: int, blur: int) -> tuple[Tensor, Tensor | None]:
    """Grow a hole [B, 1, H, W] of 0 and 1 by pixels (negative: shrink), then blur its edge.

    Gives the hole to repaint, and where blur is not 0 the weight of the result at every pixel:
    the blurred hole, which is above 0 in the hole given back and nowhere else.
    """
    if grow > 0:
        hole = largest_within(hole, grow)
    elif grow < 0:
        hole = 1 - largest_within(1 - hole, -grow)
    if blur == 0:
        return hole, None
    weight = _gaussian(hole, blur)
    return (weight > 0).float(), weight


def _gaussian(values: Tensor, reach: int) -> Tensor:
    """Blur with a Gaussian of standard deviation reach / 2, cut off at `reach` pixels."""
    at = torch.arange(-reach, reach + 1, dtype=torch.float32, device=values.device)
    kernel = (-2 * (at / reach).square()).exp()
    kernel = kernel / kernel.sum()
    padded = F.pad(values, (reach, reach, reach, reach), mode="constant")
    inside = F.pad(torch.ones_like(values), (reach, reach, reach, reach))
    out, total = (
        F.conv2d(F.conv2d(x, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
        for x in (padded, inside)
    )
    return (out / total).clamp(0, 1)  # the image's own edge does not fade
