"""Decode every image once before the first step: bad files are reported, the others are kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter
from torch.utils.data import get_worker_info

from glide_core.data.entries import Entry, Listing, Piece, Pixels, Unusable, few, read_image, shrink
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
