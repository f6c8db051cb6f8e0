"""Inpainting a picture of any size: cut a square around the mask out, and stitch it back in.

The models see 64x64 and 256x256. What is repainted is cut out with some of its surroundings, at the
sharpness the picture has, and only pixels under the mask are changed afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from glide_core.errors import GlideError
from glide_core.images import cycle, from_comfy, keep_mask, resize, to_comfy

_MOST_SIDE = 8192  # memory; the models see 256 pixels of it at most
_FIELD_SIDE = 256  # differences of shade are smooth: worked out no finer than this
_SHADE = 0.15  # differences about so large are a shade, much larger ones another thing
_FADE = 31  # pixels, of _FIELD_SIDE, over which shades fade out towards the middle
_LEAST_SIDE = 256  # a smaller square would be enlarged for the last stage: wasted pixels


@dataclass(frozen=True)
class Region:
    """A square of a picture, in its pixels; it may reach beyond the picture's edges."""

    top: int
    left: int
    side: int

    def inside(self, height: int, width: int) -> tuple[slice, slice]:
        """The rows and columns of a picture that the square covers."""
        return (
            slice(max(self.top, 0), min(self.top + self.side, height)),
            slice(max(self.left, 0), min(self.left + self.side, width)),
        )

    def margins(self, height: int, width: int) -> tuple[int, int, int, int]:
        """How far it reaches beyond the left, right, top and bottom edge (as `F.pad` wants it)."""
        right, bottom = self.left + self.side - width, self.top + self.side - height
        return max(-self.left, 0), max(right, 0), max(-self.top, 0), max(bottom, 0)


@dataclass(frozen=True)
class Crop:
    """A region as the models want it: one picture and one keep_mask for each asked size."""

    region: Region
    images: tuple[Tensor, ...]  # each [B, 3, S, S] in [-1, 1]
    keep_masks: tuple[Tensor, ...]  # each [B, 1, S, S], 1 = keep
    soft: bool  # the mask had soft edges, cut at one half


def crop_for_inpainting(
    image: Tensor, mask: Tensor, sizes: tuple[int, ...] = (64, 256), context: float = 0.5
) -> Crop:
    """Cut a square around what a MASK marks (1 = repaint) out of an IMAGE.

    context: how much surroundings it gets on each side, as a part of the marked extent.
    A mask of another size or batch is fitted to the image. One square serves the whole batch.
    """
    if context < 0:
        raise GlideError(f"The context is {context}. Expected 0 or more; 0.5 is usual.")
    pictures = from_comfy(image)
    batch, _, height, width = pictures.shape
    keep, soft = keep_mask(mask, (height, width), batch)
    region = region_around(1 - keep, context)
    if region.side > _MOST_SIDE:
        raise GlideError(
            f"The mask marks {region.side} pixels of a {width}x{height} picture. Expected at most "
            f"{_MOST_SIDE} from side to side. Mask a smaller part, or shrink the picture."
        )
    rows, columns = region.inside(height, width)
    margins = region.margins(height, width)
    # beyond the edges nothing is known: the model may go on as it likes, and it is cut off again
    picture = F.pad(pictures[..., rows, columns], margins, mode="replicate")
    hole = F.pad(1 - keep[..., rows, columns], margins, value=1.0)
    return Crop(
        region=region,
        images=tuple(resize(picture, (size, size)) for size in sizes),
        keep_masks=tuple(keep_mask(hole, (size, size)).keep for size in sizes),
        soft=soft,
    )


def region_around(hole: Tensor, context: float) -> Region:
    """The square around the ones of [B, 1, H, W], moved inside the picture where it fits.

    An empty mask gives the square around the whole picture.
    """
    height, width = hole.shape[2:]
    marked = hole.amax(dim=(0, 1)).nonzero()  # [N, 2]
    if len(marked) == 0:
        top, left, bottom, right = 0, 0, height, width
    else:
        top, left = (int(v) for v in marked.amin(dim=0))
        bottom, right = (int(v) + 1 for v in marked.amax(dim=0))
    extent = max(bottom - top, right - left)
    # more than the picture's smaller side would only add unknown pixels
    most = max(extent, min(height, width))
    side = min(max(round(extent * (1 + 2 * context)), _LEAST_SIDE), most)
    return Region(
        top=_placed((top + bottom) // 2, side, height),
        left=_placed((left + right) // 2, side, width),
        side=side,
    )


def _placed(centre: int, side: int, length: int) -> int:
    """Where a side around `centre` starts: inside 0..length if it fits, else centred on it."""
    if side >= length:
        return (length - side) // 2
    return min(max(centre - side // 2, 0), length - side)


def stitch(image: Tensor, patch: Tensor, region: Region, mask: Tensor, feather: int = 8) -> Tensor:
    """Put a repainted patch [B, C, S, S] in [-1, 1] back into an IMAGE, under the MASK alone.

    feather: over how many pixels, inside the mask, the old picture fades into the new one; less
        where the mask is thin. The patch's colours are first moved to meet the picture's around the
        mask. Pixels outside the mask come back bit for bit.
    """
    if feather < 0:
        raise GlideError(f"The feather is {feather} pixels. Expected 0 or more; 8 is usual.")
    if image.ndim == 3:
        image = image[None]
    batch = max(len(image), len(patch))
    image, patch = cycle(image, batch), cycle(patch, batch)
    height, width = image.shape[1:3]
    rows, columns = region.inside(height, width)
    hole = 1 - keep_mask(mask, (height, width), batch).keep[..., rows, columns].to(image.device)
    left, right, top, bottom = region.margins(height, width)
    old = from_comfy(image[:, rows, columns])
    new = _enlarged(patch.to(image.device).float(), region.side)
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


def _enlarged(patch: Tensor, side: int) -> Tensor:
    if patch.shape[-1] == side:
        return patch
    low, high = patch.aminmax()  # bicubic filters overshoot
    resized = F.interpolate(patch, (side, side), mode="bicubic", antialias=True)
    return resized.clamp(low, high)


def _mean_shift(old: Tensor, new: Tensor, hole: Tensor) -> Tensor:
    """What to add to the new picture, [B, C, 1, 1], for equal mean colours just around the hole."""
    reach = max(old.shape[-2:]) // 16 * 2 + 1
    near = _widened(hole, reach) * (1 - hole)
    count = near.sum(dim=(2, 3), keepdim=True)
    return ((old - new) * near).sum(dim=(2, 3), keepdim=True) / count.clamp(min=1)


def _border_shift(old: Tensor, new: Tensor, hole: Tensor) -> Tensor:
    """What to add to the new picture, [B, C, H, W], for surfaces to go on across the hole's border.

    Models paint a background that goes on into the hole a shade off. Just inside the border each
    pixel is compared with the old ones just outside; small differences are taken for such a shade,
    large ones for another thing that begins there. The shades fade out towards the middle.
    """
    height, width = old.shape[-2:]
    shrink = max(height, width, _FIELD_SIDE) / _FIELD_SIDE
    size = (max(1, round(height / shrink)), max(1, round(width / shrink)))
    old, new, share = (F.adaptive_avg_pool2d(x, size) for x in (old, new, hole))
    inside, outside = (share > 0.5).float(), (share < 0.01).float()
    near = _blurred(outside, 9)
    band = inside * (near > 0.02).float()  # those within a few pixels of the border
    beyond = _blurred(old * outside, 9) / near.clamp(min=0.02)
    shade = beyond - new
    alike = band * (-(shade.abs().amax(dim=1, keepdim=True) / _SHADE).square()).exp()
    weight = _blurred(alike, _FADE)
    field = _blurred(alike * shade, _FADE) / weight.clamp(min=1e-6)
    trust = (weight / _blurred(band, _FADE).clamp(min=1e-6)) * _blurred(outside, _FADE).sqrt()
    return F.interpolate(field * trust, (height, width), mode="bilinear", align_corners=False)


def _blurred(x: Tensor, reach: int) -> Tensor:
    """Three running means over `reach` (odd) pixels, nearly a Gaussian; nothing lies beyond."""
    for _ in range(3):
        x = F.avg_pool2d(x, (1, reach), stride=1, padding=(0, reach // 2))
        x = F.avg_pool2d(x, (reach, 1), stride=1, padding=(reach // 2, 0))
    return x


def _widened(values: Tensor, reach: int) -> Tensor:
    """The largest value in a square of `reach` (odd) around each pixel: rows first, for speed."""
    height, width = values.shape[-2:]
    tall, wide = min(reach, 2 * height - 1), min(reach, 2 * width - 1)  # more meets no pixel
    rows = F.max_pool2d(values, (1, wide), stride=1, padding=(0, wide // 2))
    return F.max_pool2d(rows, (tall, 1), stride=1, padding=(tall // 2, 0))


def _feathered(hole: Tensor, feather: int) -> Tensor:
    """Weights [B, 1, H, W]: 0 outside the hole, rising to 1 over `feather` pixels inside it.

    A pixel's depth is how many erosions it survives; where the hole is nowhere deep, it rises
    faster, so that a thin stroke is repainted too. The picture's own edge is no border.
    """
    depth, rest = hole.clone(), hole
    for _ in range(2 * feather - 1):
        rest = 1 - F.max_pool2d(1 - rest, 3, stride=1, padding=1)
        if not rest.any():
            break
        depth = depth + rest
    reach = 4 * feather + 1
    local = _widened(depth, reach)  # the hole's depth hereabouts
    return (depth / (local / 2).clamp(min=1)).clamp(max=1)
