"""Decode every image once before the first step, so that bad files are reported early."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from glide_core.data.decode import PixelCache, Pixels, read_image, shrink
from glide_core.data.entries import Entry, Listing, Unusable, few
from glide_core.errors import GlideError
from glide_core.io import atomic_write

SMALLEST = 16  # pixels per side
LONGEST = 3  # largest aspect ratio: a square cropped from a longer image shows too little of it
NAMED = 10  # bad files in one message
_AHEAD = 512  # images given to the threads at once


@dataclass(frozen=True)
class Checked:
    """Result of checking a listing: a size or a reason for every entry, in order."""

    fingerprint: str  # of the files that were checked
    sizes: list[tuple[int, int]]  # (width, height); (0, 0): unusable
    problems: dict[str, str] = field(default_factory=dict)  # index of an entry -> reason
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
    result = Checked(fingerprint(listing), [])
    first_of: dict[bytes, str] = {}
    found = _inspect_all(listing.entries, cache, side)
    used = 0
    for index, (entry, one) in enumerate(zip(listing.entries, found, strict=True)):
        if isinstance(one, str):
            result.problems[str(index)] = one
            result.sizes.append((0, 0))
        else:
            size, digest, pixels = one
            result.sizes.append(size)
            first = first_of.setdefault(digest, entry.name)
            if first != entry.name:
                result.duplicates.append(f"{entry.name} (as {first})")
            if pixels is not None:
                cache.reserve((pixels.shape[1], pixels.shape[0]))
                cache.put(used, pixels)
            used += 1
        if progress is not None:
            progress(index + 1, len(listing.entries))
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
    skipped = [f"{listing.entries[int(i)].name}: {why}" for i, why in checked.problems.items()]
    kept = [(e, s) for e, s in zip(listing.entries, checked.sizes, strict=True) if s != (0, 0)]
    if skipped and not (skip_bad and kept):
        raise GlideError(_refusal(where, skipped, len(listing.entries), skip_bad))
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


def _refusal(where: str, skipped: Sequence[str], found: int, skip_bad: bool) -> str:
    named = "".join(f"\n  {s}" for s in skipped[:NAMED])
    more = f"\n  and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    remedy = "Fix or remove them"
    if not skip_bad and len(skipped) < found:
        remedy += ", or train without them (--skip-bad)"
    return (
        f"{len(skipped)} of {found} images of {where} cannot be used:{named}{more}\n"
        f"Expected readable images with a caption each. {remedy}."
    )
