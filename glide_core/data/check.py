"""Decode every image once before the first step: bad files are reported, the others are kept."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from glide_core.data.entries import Entry, Listing, Pixels, Unusable, few, read_image, shrink
from glide_core.errors import GlideError
from glide_core.io import atomic_write

SMALLEST = 16  # pixels per side
LONGEST = 3  # largest aspect ratio: a square cropped from a longer image shows too little of it
NAMED = 10  # bad files in one message
_AHEAD = 512  # images given to the threads at once


class PixelCache:
    """Decoded images in memory that forked worker processes share.

    The first images that fit into the budget have a slot; each slot is filled by whichever process
    decodes the image first. Processes that are spawned instead of forked start with an empty one.
    """

    def __init__(self, most: int, budget: int) -> None:
        """most: number of images. budget: in bytes."""
        self._slots: list[tuple[int, int, int]] = []  # start, width, height
        self._end = 0
        # anonymous shared memory: not limited by the size of /dev/shm, committed when written
        try:
            self._pixels = mmap.mmap(-1, max(1, budget))
        except OSError:  # a limit on the address space: images are decoded each time
            budget, self._pixels = 0, mmap.mmap(-1, 1)
        self._most, self._budget = most, budget
        self._filled = mmap.mmap(-1, max(1, most))
        self.full = budget <= 0

    def __len__(self) -> int:
        return len(self._slots)

    def reserve(self, size: tuple[int, int]) -> None:
        """Add a slot for the next image, of (width, height), if all before it had room."""
        width, height = size
        self.full = self.full or self._end + 3 * width * height > self._budget
        if not self.full:
            self._slots.append((self._end, width, height))
            self._end += 3 * width * height

    def get(self, index: int) -> Pixels | None:
        """Return an image [H, W, 3], or None where it has not been stored."""
        if index >= len(self._slots) or not self._filled[index]:
            return None
        start, width, height = self._slots[index]
        flat = np.frombuffer(self._pixels, np.uint8, 3 * width * height, start)
        return flat.reshape(height, width, 3)

    def put(self, index: int, pixels: Pixels) -> None:
        """Store an image where it has a slot."""
        if index < len(self._slots):
            start = self._slots[index][0]
            self._pixels[start : start + pixels.nbytes] = pixels.tobytes()
            self._filled[index] = 1

    def __getstate__(self) -> tuple[int, int, list[tuple[int, int, int]]]:
        return self._most, self._budget, self._slots

    def __setstate__(self, state: tuple[int, int, list[tuple[int, int, int]]]) -> None:
        most, budget, slots = state
        PixelCache.__init__(self, most, budget)
        self._slots, self.full = slots, True


@dataclass(frozen=True)
class Checked:
    """Result of checking a listing."""

    fingerprint: str  # of the files that were checked
    # for every entry, in order: (width, height), or why it cannot be used
    found: list[tuple[int, int] | str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DataReport:
    """What a data set holds and what of it is used."""

    found: int
    used: int
    captions: int  # distinct ones, over all images
    skipped: tuple[str, ...] = ()  # "name: reason"
    warnings: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report as lines to print."""
        used = f"{self.used} images with {self.captions} different captions"
        skipped = [f"skipped: {s}" for s in self.skipped]
        return [*skipped, *(f"warning: {w}" for w in self.warnings), used]


def fingerprint(listing: Listing) -> str:
    """Hash names, captions, places, sizes and times of change of all files, without reading them.

    A data set with the same fingerprint need not be decoded again.
    """
    digest = hashlib.sha256()
    paths = dict.fromkeys(entry.image.path for entry in listing.entries)
    stats = {path: _size_and_time(path) for path in paths}
    for entry in listing.entries:
        digest.update(repr((entry, stats[entry.image.path])).encode(errors="backslashreplace"))
    return digest.hexdigest()


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


def check(
    listing: Listing, cache: PixelCache, side: int, progress: Callable[[int, int], None] | None
) -> Checked:
    """Decode every image once, and keep the usable ones in the cache, resized to `side`.

    progress: called with (done, all) after each image.
    """
    result = Checked(fingerprint(listing))
    first_of: dict[bytes, str] = {}
    inspected = _inspect_all(listing.entries, cache, side)
    used = 0
    for entry, one in zip(listing.entries, inspected, strict=True):
        if isinstance(one, str):
            result.found.append(one)
        else:
            size, digest, pixels = one
            result.found.append(size)
            first = first_of.setdefault(digest, entry.name)
            if first != entry.name:
                result.duplicates.append(f"{entry.name} (as {first})")
            if pixels is not None:
                cache.reserve((pixels.shape[1], pixels.shape[0]))
                cache.put(used, pixels)
            used += 1
        if progress is not None:
            progress(len(result.found), len(listing.entries))
    return result


def save_check(checked: Checked, path: Path) -> None:
    """Write a check's result, so that a resumed run need not repeat it."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(asdict(checked)), encoding="utf-8")


def load_check(path: Path, listing: Listing) -> Checked | None:
    """Read what `save_check` wrote; None where there is none, or of other files."""
    try:
        checked = TypeAdapter(Checked).validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return checked if checked.fingerprint == fingerprint(listing) else None


def usable(
    where: str, listing: Listing, checked: Checked, *, skip_bad: bool, side: int
) -> tuple[list[Entry], list[tuple[int, int]], DataReport]:
    """Return the usable entries, their sizes, and the report.

    where: name of the data set in messages. GlideError if any image is unusable, with skip_bad only
    if all are. side: of the images that training asks for, for warnings.
    """
    skipped: list[str] = []
    kept: list[tuple[Entry, tuple[int, int]]] = []
    for entry, found in zip(listing.entries, checked.found, strict=True):
        if isinstance(found, str):
            skipped.append(f"{entry.name}: {found}")
        else:
            kept.append((entry, found))
    if skipped and not (skip_bad and kept):
        raise _refusal(where, skipped, len(listing.entries), skip_bad)
    named = [(f"{entry.name} ({w}x{h})", w, h) for entry, (w, h) in kept]
    notes = {
        f"smaller than {side} pixels, will be enlarged": [
            name for name, w, h in named if min(w, h) < side
        ],
        f"more than {LONGEST} times as long as wide, cropped to squares": [
            name for name, w, h in named if max(w, h) > LONGEST * min(w, h)
        ],
        "duplicates, used more often": checked.duplicates,
    }
    warnings = (*listing.warnings, *(f"{what}: {few(who)}" for what, who in notes.items() if who))
    captions = {caption for entry, _ in kept for caption in entry.captions}
    report = DataReport(
        len(listing.entries), len(kept), len(captions), tuple(skipped), tuple(warnings)
    )
    return [entry for entry, _ in kept], [size for _, size in kept], report


def _inspect_all(
    entries: Sequence[Entry], cache: PixelCache, side: int
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
            size = f"{image.width}x{image.height}"
            return f"is {size}: expected at least {SMALLEST} pixels per side"
        pixels = None if cache.full else shrink(image, side)
        return image.size, hashlib.sha256(data).digest(), pixels

    # PIL releases the interpreter while it decodes
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(entries), _AHEAD):
            yield from pool.map(inspect, entries[start : start + _AHEAD])


def _refusal(where: str, skipped: Sequence[str], found: int, skip_bad: bool) -> GlideError:
    named = "".join(f"\n  {s}" for s in skipped[:NAMED])
    more = f"\n  and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    can_skip = not skip_bad and len(skipped) < found
    return GlideError(
        f"{len(skipped)} of {found} images of {where} cannot be used:{named}{more}\nExpected "
        "readable images with a caption each. Fix or remove them"
        + (", or skip them." if can_skip else "."),
        "skip_bad" if can_skip else "",
    )
