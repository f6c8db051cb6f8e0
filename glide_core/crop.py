"""Inpaint an image of any size: crop a square around the mask, and stitch the result back in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from glide_core.errors import GlideError
from glide_core.images import (
    cycle,
    from_comfy,
    invert_mask,
    keep_mask,
    largest_within,
    resize,
    resize_keep,
    to_comfy,
)

_MAX_SIDE = 8192  # of a crop, for memory; the models see 256 pixels of it at most
_MIN_SIDE = 256  # a smaller crop would be enlarged for the last stage
_FIELD_SIDE = 256  # colour shifts are smooth: they are computed at this resolution at most
_COLOUR_SHIFT = 0.15  # threshold separating a colour shift from a real edge
_FADE = 31  # pixels, of _FIELD_SIDE, over which colour shifts fade out towards the middle


@dataclass(frozen=True)
class Region:
    """A square of an image, in its pixels; it may extend beyond the image's edges."""

    top: int
    left: int
    side: int

    def inside(self, height: int, width: int) -> tuple[slice, slice]:
        """The rows and columns of an image that the square covers."""
        return (
            slice(max(self.top, 0), min(self.top + self.side, height)),
            slice(max(self.left, 0), min(self.left + self.side, width)),
        )

    def margins(self, height: int, width: int) -> tuple[int, int, int, int]:
        """How far it extends beyond the left, right, top and bottom edge (the order of `F.pad`)."""
        right, bottom = self.left + self.side - width, self.top + self.side - height
        return max(-self.left, 0), max(right, 0), max(-self.top, 0), max(bottom, 0)


@dataclass(frozen=True)
class Crop:
    """A region at the models' sizes: one image and one keep_mask for each size."""

    region: Region
    images: tuple[Tensor, ...]  # each [B, 3, S, S] in [-1, 1]
    keep_masks: tuple[Tensor, ...]  # each [B, 1, S, S], 1 = keep


def crop_for_inpainting(
    image: Tensor, mask: Tensor, sizes: tuple[int, ...] = (64, 256), context: float = 0.5
) -> Crop:
    """Crop a square around the masked area (MASK, 1 = inpaint) of an IMAGE, one for a whole batch.

    context: surroundings on each side, as a part of the mask's extent.
    """
    if not 0 <= context <= 1e6:
        raise GlideError(f"context is {context}: expected 0 to 1e6, usually 0.5")
    whole = from_comfy(image)
    batch, _, height, width = whole.shape
    keep = keep_mask(mask, (height, width), batch)
    region = region_around(keep, context)
    if region.side > _MAX_SIDE:
        raise GlideError(f"the mask covers {region.side} pixels: expected at most {_MAX_SIDE}")
    rows, columns = region.inside(height, width)
    margins = region.margins(height, width)
    # beyond the image's edges the model may generate anything: it is cut off again
    square = F.pad(whole[..., rows, columns], margins, mode="replicate")
    keep = F.pad(keep[..., rows, columns], margins, value=0.0)
    return Crop(
        region=region,
        images=tuple(resize(square, (size, size)) for size in sizes),
        keep_masks=tuple(resize_keep(keep, (size, size)) for size in sizes),
    )


def region_around(keep: Tensor, context: float) -> Region:
    """The square around the zeros of a keep_mask [B, 1, H, W], or around the image without zeros,
    moved inside the image if it fits."""
    height, width = keep.shape[2:]
    marked = (keep < 1).amax(dim=(0, 1)).nonzero()  # [N, 2]
    top, left, bottom, right = 0, 0, height, width
    if len(marked):
        top, left = (int(v) for v in marked.amin(dim=0))
        bottom, right = (int(v) + 1 for v in marked.amax(dim=0))
    extent = max(bottom - top, right - left)
    # more than the image's smaller side would only add unknown pixels
    most = max(extent, min(height, width))
    side = min(max(round(extent * (1 + 2 * context)), _MIN_SIDE), most)
    return Region(
        top=_placed((top + bottom) // 2, side, height),
        left=_placed((left + right) // 2, side, width),
        side=side,
    )


def _placed(centre: int, side: int, length: int) -> int:
    """Where a side around `centre` starts: inside 0..length if it fits, else centred."""
    if side >= length:
        return (length - side) // 2
    return min(max(centre - side // 2, 0), length - side)


def stitch(image: Tensor, patch: Tensor, region: Region, mask: Tensor, feather: int = 8) -> Tensor:
    """Put an inpainted patch [B, C, S, S] in [-1, 1] back into an IMAGE, under the MASK only.

    feather: pixels inside the mask over which the old image fades into the new one; fewer where
    the mask is thin. The patch's colours are first shifted to match those around the mask.
    """
    if feather < 0:
        raise GlideError(f"feather is {feather}: expected 0 pixels or more, usually 8")
    batch = max(len(image), len(patch))
    image, patch = cycle(image, batch), cycle(patch, batch)
    height, width = image.shape[1:3]
    rows, columns = region.inside(height, width)
    keep = keep_mask(mask, (height, width), batch)[..., rows, columns]
    hole = invert_mask(keep).to(image.device)
    left, right, top, bottom = region.margins(height, width)
    old = from_comfy(image[:, rows, columns])
    new = patch.to(image.device).float()
    if new.shape[-1] != region.side:
        low, high = new.aminmax()  # bicubic filters overshoot
        new = F.interpolate(new, (region.side,) * 2, mode="bicubic", antialias=True)
        new = new.clamp(low, high)
    new = new[..., top : region.side - bottom, left : region.side - right]
    new = new + _mean_shift(old, new, hole)
    new = new + _border_shift(old, new, hole)
    weight = _feathered(hole, feather)
    mixed = to_comfy(old + weight * (new - old)).to(image.dtype)
    stitched = image.clone()
    alpha = stitched[:, rows, columns, 3:]  # a fourth channel stays as it is
    mixed = torch.cat([mixed, alpha], dim=-1)
    changed = (hole > 0).movedim(1, -1)
    stitched[:, rows, columns] = torch.where(changed, mixed, stitched[:, rows, columns])
    return stitched


def _mean_shift(old: Tensor, new: Tensor, hole: Tensor) -> Tensor:
    """Shift [B, C, 1, 1] of the new image that equalises mean colours just around the hole."""
    near = largest_within(hole, max(old.shape[-2:]) // 16) * (1 - hole)
    count = near.sum(dim=(2, 3), keepdim=True)
    return ((old - new) * near).sum(dim=(2, 3), keepdim=True) / count.clamp(min=1)


def _border_shift(old: Tensor, new: Tensor, hole: Tensor) -> Tensor:
    """Shift [B, C, H, W] of the new image that continues surfaces across the hole's border.

    Pixels just inside the border are compared with those just outside: small differences are a
    colour shift, large ones an object's edge. The shift fades out towards the hole's middle.
    """
    height, width = old.shape[-2:]
    shrink = max(height, width, _FIELD_SIDE) / _FIELD_SIDE
    size = (max(1, round(height / shrink)), max(1, round(width / shrink)))
    old, new, share = (F.adaptive_avg_pool2d(x, size) for x in (old, new, hole))
    inside, outside = (share > 0.5).float(), (share < 0.01).float()
    near = _blurred(outside, 9)
    band = inside * (near > 0.02).float()  # those within a few pixels of the border
    beyond = _blurred(old * outside, 9) / near.clamp(min=0.02)
    shift = beyond - new
    alike = band * (-(shift.abs().amax(dim=1, keepdim=True) / _COLOUR_SHIFT).square()).exp()
    weight = _blurred(alike, _FADE)
    field = _blurred(alike * shift, _FADE) / weight.clamp(min=1e-6)
    trust = (weight / _blurred(band, _FADE).clamp(min=1e-6)) * _blurred(outside, _FADE).sqrt()
    return F.interpolate(field * trust, (height, width), mode="bilinear", align_corners=False)


def _blurred(x: Tensor, reach: int) -> Tensor:
    """Three running means over `reach` (odd) pixels, nearly a Gaussian; zero beyond the edges."""
    for _ in range(3):
        x = F.avg_pool2d(x, (1, reach), stride=1, padding=(0, reach // 2))
        x = F.avg_pool2d(x, (reach, 1), stride=1, padding=(reach // 2, 0))
    return x


def _feathered(hole: Tensor, feather: int) -> Tensor:
    """Weights [B, 1, H, W]: 0 outside the hole, rising to 1 over `feather` pixels inside it.

    A pixel's depth is the number of erosions it survives. In a thin part of the hole the weight
    rises faster. The image's own edge does not count as a border.
    """
    depth, rest = hole.clone(), hole
    for _ in range(2 * feather - 1):
        rest = 1 - largest_within(1 - rest, 1)
        if not rest.any():
            break
        depth = depth + rest
    local = largest_within(depth, 2 * feather)  # the hole's depth nearby
    return (depth / (local / 2).clamp(min=1)).clamp(max=1)
