"""Open training data, check all of it, and sample random batches from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from glide_core.data.check import DataReport, PixelCache, check
from glide_core.data.entries import Entry, Listing, Pixels, Unusable, read_image, shrink
from glide_core.data.listing import TXT, list_images
from glide_core.errors import GlideError


@dataclass(frozen=True)
class Batch:
    """Images and one caption each."""

    images: Tensor  # [B, 3, S, S] in [-1, 1]
    captions: list[str]
    # [B, 3, S / 4, S / 4]: what an upsampler is given, such as a base model's samples; None: the
    # images, reduced and slightly degraded
    low_res: Tensor | None = None


class Source(Protocol):
    """Images with captions. All randomness comes from the generator given."""

    def batch(
        self,
        rng: torch.Generator,
        size: int,
        *,
        side: int,
        crop: int | None = None,
        distinct: bool = False,
    ) -> Batch:
        """Sample a random batch.

        size: number of images.
        side: of the whole image in pixels (64 for base models, 256 for upsamplers).
        crop: side of the square cropped from it at random, at a multiple of 4 (None: the whole).
        distinct: no two captions alike, as far as there are enough (contrastive training).
        """
        ...


@dataclass(frozen=True)
class ImageSource:
    """Checked images with captions, sampled with replacement; see `Source`.

    All randomness comes from the generator given and nothing but decoded pixels is kept between
    batches: the same generator state gives the same batch, in any process.
    """

    entries: list[Entry]  # the usable ones
    report: DataReport
    cache: PixelCache  # images of other sides are decoded at every use
    center_crop: bool
    flip: bool

    def __len__(self) -> int:
        return len(self.entries)

    def batch(
        self,
        rng: torch.Generator,
        size: int,
        *,
        side: int,
        crop: int | None = None,
        distinct: bool = False,
    ) -> Batch:
        """Sample a random batch, as described in `Source`.

        A distinct batch is smaller than asked where there are not enough different images with
        different captions.
        """
        crop = side if crop is None else crop
        if not 0 < crop <= side:
            raise GlideError(f"the crop is {crop} pixels; expected 1 to {side}, the image's side")
        if distinct:
            chosen = self._choose_distinct(rng, size)
        else:
            indices = torch.randint(len(self.entries), (size,), generator=rng).tolist()
            chosen = [(i, self._captions(rng, i)[0]) for i in indices]
        places = torch.rand(len(chosen), 5, generator=rng, dtype=torch.float64).tolist()
        squares = [
            self._square(self._pixels(index, side), place, side, crop)
            for (index, _), place in zip(chosen, places, strict=True)
        ]
        pixels = torch.from_numpy(np.stack(squares))  # [B, crop, crop, 3]
        images = pixels.movedim(-1, 1).float().div_(127.5).sub_(1)
        return Batch(images.contiguous(), [caption for _, caption in chosen])

    def _choose_distinct(self, rng: torch.Generator, size: int) -> list[tuple[int, str]]:
        """Choose different images with different captions, in random order."""
        chosen: dict[str, int] = {}
        for index in torch.randperm(len(self.entries), generator=rng).numpy():
            if len(chosen) == size:
                break
            unused = (c for c in self._captions(rng, int(index)) if c not in chosen)
            caption = next(unused, None)
            if caption is not None:
                chosen[caption] = int(index)
        return [(index, caption) for caption, index in chosen.items()]

    def _captions(self, rng: torch.Generator, index: int) -> Sequence[str]:
        """An image's captions, starting at a random one."""
        captions = self.entries[index].captions
        if len(captions) == 1:
            return captions
        start = int(torch.randint(len(captions), (), generator=rng))
        return captions[start:] + captions[:start]

    def _square(self, pixels: Pixels, place: Sequence[float], side: int, crop: int) -> Pixels:
        """Crop the square of `side`, then a crop at a multiple of 4; place: five of [0, 1)."""
        down, right, crop_down, crop_right, mirror = place
        if self.center_crop:
            down = right = 0.5
        steps = (side - crop) // 4 + 1
        y = int(down * (pixels.shape[0] - side + 1)) + 4 * int(crop_down * steps)
        x = int(right * (pixels.shape[1] - side + 1)) + 4 * int(crop_right * steps)
        square = pixels[y : y + crop, x : x + crop]
        return square[:, ::-1] if self.flip and mirror < 0.5 else square

    def _pixels(self, index: int, side: int) -> Pixels:
        """An image whose shorter side is `side`: from the cache, or decoded now."""
        entry = self.entries[index]
        if side == self.cache.side and entry.image in self.cache.images:
            return self.cache.images[entry.image]
        try:
            pixels = shrink(read_image(entry.image.read()), side)
        except Unusable as error:
            raise GlideError(
                f"{entry.name}: {error}. It was readable before: restore it, then resume."
            ) from error
        if side == self.cache.side:
            self.cache.add(entry.image, pixels)
        return pixels


def open_source(
    path: Path | str,
    *,
    skip_bad: bool = False,
    caption_key: str = TXT,
    side: int = 64,
    center_crop: bool = False,
    flip: bool = False,
    memory_mb: int = 1024,
    run_check: Callable[[Listing, PixelCache], DataReport] = check,
) -> ImageSource:
    """Open training data and check all of it.

    path: a folder of images with captions, a JSONL, CSV or Parquet list, a .tar, a folder of tars
        or a brace pattern of them.
    skip_bad: leave unusable images out; otherwise an error names them.
    caption_key: ending of the caption files, ending of a shard's caption members, or column.
    side: in pixels, of the images that training asks for; smaller ones are enlarged.
    center_crop: crop squares from the center, not at random.
    flip: mirror half of the images; captions must not mention left and right.
    memory_mb: for decoded images; those that do not fit are decoded at every use.
    run_check: `check` with further arguments, or in one of several processes.
    Raises GlideError where the path holds no training data.
    """
    listing = list_images(Path(path), caption_key)
    cache = PixelCache(side, memory_mb * 2**20)
    report = run_check(listing, cache)
    report.raise_unusable(str(path), skip_bad)
    entries = [entry for i, entry in enumerate(listing.entries) if i not in report.skipped]
    return ImageSource(entries, report, cache, center_crop, flip)
