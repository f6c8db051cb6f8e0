"""Open training data, decode all of it once to check it, and sample random batches from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.utils.data import get_worker_info

from glide_core.data.entries import Entry, Listing, Piece, Pixels, Unusable, few, read_image, shrink
from glide_core.data.listing import TXT, list_images
from glide_core.errors import GlideError
from glide_core.io import atomic_write

SMALLEST = 16  # pixels per side
LONGEST = 3  # largest aspect ratio: a square cropped from a longer image shows too little of it
NAMED = 10  # bad files in one message
_AHEAD = 512  # images given to the threads at once


class PixelCache:
    """Decoded images of one side length, the first that fit into a number of bytes.

    Forked worker processes share what it holds when they start; what they add themselves is limited
    to their part of the bytes. A spawned one starts with an empty cache.
    """

    def __init__(self, side: int, budget: int) -> None:
        self.side, self.budget, self.used = side, budget, 0
        self.images: dict[Piece, Pixels] = {}

    @property
    def full(self) -> bool:
        worker = get_worker_info()
        budget = self.budget // worker.num_workers if worker else self.budget
        return self.used + 3 * self.side**2 > budget

    def add(self, image: Piece, pixels: Pixels) -> None:
        if not self.full:
            self.images[image] = pixels
            self.used += pixels.nbytes

    def __reduce__(self) -> tuple[type[PixelCache], tuple[int, int]]:
        return PixelCache, (self.side, self.budget)


@dataclass(frozen=True)
class DataReport:
    """What a data set holds and what of it can be used."""

    fingerprint: str  # of the files that were checked
    found: int
    captions: int  # distinct ones, over all usable images
    skipped: dict[int, str]  # "name: reason", by position in the listing
    warnings: tuple[str, ...]

    @property
    def used(self) -> int:
        return self.found - len(self.skipped)

    def lines(self) -> list[str]:
        """The report as lines to print."""
        used = f"{self.used} images with {self.captions} different captions"
        skipped = [f"skipped: {s}" for s in self.skipped.values()]
        return [*skipped, *(f"warning: {w}" for w in self.warnings), used]

    def raise_unusable(self, where: str, skip_bad: bool) -> None:
        """Raise GlideError if any image is unusable; with skip_bad, only if all are."""
        if not self.skipped or (skip_bad and self.used):
            return
        named = "".join(f"\n  {s}" for s in list(self.skipped.values())[:NAMED])
        more = len(self.skipped) - NAMED
        named += f"\n  and {more} more" if more > 0 else ""
        raise GlideError(
            f"{len(self.skipped)} of {self.found} images of {where} cannot be used:{named}\n"
            f"Fix or remove them{', or skip them.' if self.used else '.'}",
            "skip_bad" if self.used else "",
        )


def fingerprint(listing: Listing, side: int) -> str:
    """Hash names, captions, places, sizes and times of change of all files, without reading them.

    A data set with the same fingerprint need not be decoded again.
    """
    digest = hashlib.sha256(repr((side, listing.entries)).encode(errors="backslashreplace"))
    for path in dict.fromkeys(entry.image.path for entry in listing.entries):
        with suppress(OSError, ValueError):
            found = os.stat(path)
            digest.update(f"{found.st_size} {found.st_mtime_ns} ".encode())
    return digest.hexdigest()


def check(
    listing: Listing,
    cache: PixelCache,
    progress: Callable[[int, int], None] = lambda done, total: None,
    known: Path | None = None,
) -> DataReport:
    """Decode every image once, and keep the usable ones in the cache.

    progress: called with (done, all) after each image.
    known: a file that `save_report` wrote; if it is of these files, they are not decoded again.
    """
    entries, side = listing.entries, cache.side
    now = fingerprint(listing, side)
    with suppress(OSError, ValueError):
        before = TypeAdapter(DataReport).validate_json(known.read_bytes() if known else b"")
        if before.fingerprint == now:
            return before
    skipped: dict[int, str] = {}
    first_of: dict[bytes, str] = {}
    captions: set[str] = set()
    small, long, twice = [], [], []
    for i, (entry, found) in enumerate(zip(entries, _inspect_all(entries, cache), strict=True)):
        progress(i + 1, len(entries))
        if isinstance(found, str):
            skipped[i] = f"{entry.name}: {found}"
            continue
        (width, height), digest, pixels = found
        captions.update(entry.captions)
        if min(width, height) < side:
            small.append(f"{entry.name} ({width}x{height})")
        if max(width, height) > LONGEST * min(width, height):
            long.append(f"{entry.name} ({width}x{height})")
        if digest in first_of:
            twice.append(f"{entry.name} (as {first_of[digest]})")
        first_of.setdefault(digest, entry.name)
        if pixels is not None:
            cache.add(entry.image, pixels)
    notes = {
        f"smaller than {side} pixels, will be enlarged": small,
        f"more than {LONGEST} times as long as wide, cropped to squares": long,
        "duplicates, used more often": twice,
    }
    warnings = (*listing.warnings, *(f"{what}: {few(who)}" for what, who in notes.items() if who))
    return DataReport(now, len(entries), len(captions), skipped, warnings)


def _inspect_all(
    entries: Sequence[Entry], cache: PixelCache
) -> Iterator[tuple[tuple[int, int], bytes, Pixels | None] | str]:
    """Each image's (width, height), digest and, while there is room for them, resized pixels; or
    why it cannot be used. In order."""

    def inspect(entry: Entry) -> tuple[tuple[int, int], bytes, Pixels | None] | str:
        if entry.problem:
            return entry.problem
        try:
            data = entry.image.read()
            image = read_image(data)
        except Unusable as error:
            return str(error)
        if min(image.size) < SMALLEST:
            return f"is {image.width}x{image.height}: expected at least {SMALLEST} pixels per side"
        pixels = None if cache.full else shrink(image, cache.side)
        return image.size, hashlib.sha256(data).digest(), pixels

    # PIL releases the interpreter while it decodes
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(entries), _AHEAD):
            yield from pool.map(inspect, entries[start : start + _AHEAD])


def save_report(report: DataReport, path: Path) -> None:
    """Write a check's result, so that a resumed run need not repeat it."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(asdict(report)), encoding="utf-8")


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
        self, rng: torch.Generator, size: int, *, side: int, crop: int = 0, distinct: bool = False
    ) -> Batch:
        """Sample a random batch.

        size: number of images.
        side: of the whole image in pixels (64 for base models, 256 for upsamplers).
        crop: side of the square cropped from it at random, at a multiple of 4 (0: the whole).
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
        self, rng: torch.Generator, size: int, *, side: int, crop: int = 0, distinct: bool = False
    ) -> Batch:
        """Sample a random batch, as described in `Source`.

        A distinct batch is smaller than asked where there are not enough different images with
        different captions.
        """
        crop = crop or side
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
