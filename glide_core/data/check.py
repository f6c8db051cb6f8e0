"""Every picture and caption is tried before the first step: what is bad is named early."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from glide_core.data.entries import Entry, Listing, Piece, Unusable, few
from glide_core.data.pictures import Pixels, Store, read_picture, shrink
from glide_core.errors import GlideError

OnBad = Literal["refuse", "skip"]
SMALLEST = 16  # pixels: below, there is nothing to learn from
LONGEST = 3  # times as long as wide: a square cut from a longer picture shows too little of it
NAMED = 10  # bad files in one message
_AHEAD = 512  # pictures given to the threads at once


@dataclass(frozen=True)
class Skipped:
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class DataReport:
    """What a source holds and what of it is used."""

    found: int
    used: int
    captions: int  # different ones, over all pictures
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report for the person at the screen."""
        used = f"{self.used} pictures with {self.captions} different captions"
        skipped = [f"skipped: {s}" for s in self.skipped]
        return [*skipped, *(f"warning: {w}" for w in self.warnings), used]


@dataclass(frozen=True)
class Example:
    """A picture that was opened, and its captions, at least one."""

    name: str
    picture: Piece
    captions: tuple[str, ...]


@dataclass(frozen=True)
class _Looked:
    size: tuple[int, int]  # width, height
    digest: bytes  # of the file
    pixels: Pixels | None  # at the side that training asks for, where there is room to keep it


@dataclass
class _Findings:
    """What deserves a warning, by name, in the order met."""

    small: list[str] = field(default_factory=list)
    long: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)

    def look(self, name: str, width: int, height: int, side: int) -> None:
        if min(width, height) < side:
            self.small.append(f"{name} ({width}x{height})")
        if max(width, height) > LONGEST * min(width, height):
            self.long.append(f"{name} ({width}x{height})")

    def lines(self, side: int) -> Iterator[str]:
        for names, what in (
            (self.small, f"smaller than {side} pixels, will be enlarged"),
            (self.long, f"more than {LONGEST} times as long as wide, cut to squares"),
            (self.twice, "there more than once, drawn more often"),
        ):
            if names:
                yield f"{what}: {few(names)}"


def check(
    where: str,
    listing: Listing,
    store: Store,
    *,
    on_bad: OnBad,
    side: int,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> tuple[list[Example], DataReport]:
    """Open and decode every picture once; the small ones made from them go into the store.

    where: the source's name in messages.
    on_bad: "refuse" raises GlideError if anything is bad, "skip" only if nothing is left.
    side: in pixels, of the pictures that training will ask for.
    progress: called with (done, all) after each picture.
    """
    examples: list[Example] = []
    skipped: list[Skipped] = []
    findings = _Findings()
    first_of: dict[bytes, str] = {}
    looks = _look_at(listing.entries, store, side, workers or processors())
    for done, (entry, looked) in enumerate(zip(listing.entries, looks, strict=True), start=1):
        if isinstance(looked, _Looked):
            findings.look(entry.name, *looked.size, side)
            first = first_of.setdefault(looked.digest, entry.name)
            if first != entry.name:
                findings.twice.append(f"{entry.name} (as {first})")
            if looked.pixels is not None:
                store.put(len(examples), side, looked.pixels)
            examples.append(Example(entry.name, entry.picture, entry.captions))
        else:
            skipped.append(Skipped(entry.name, looked))
        if progress is not None:
            progress(done, len(listing.entries))
    if skipped and (on_bad == "refuse" or not examples):
        raise GlideError(_refusal(where, skipped, len(listing.entries), on_bad))
    captions = {c for example in examples for c in example.captions}
    warnings = (*listing.warnings, *findings.lines(side))
    found = len(listing.entries)
    return examples, DataReport(found, len(examples), len(captions), tuple(skipped), warnings)


def processors() -> int:
    """Threads for decoding: PIL lets go of the interpreter while it decodes."""
    return min(8, os.cpu_count() or 1)


def _look_at(
    entries: Sequence[Entry], store: Store, side: int, workers: int
) -> Iterator[_Looked | str]:
    """What each picture is, or why it cannot be used, in order."""

    def look(entry: Entry) -> _Looked | str:
        if entry.problem:
            return entry.problem
        try:
            data = entry.picture.read()
            image = read_picture(data)
        except Unusable as error:
            return str(error)
        width, height = image.size
        if min(width, height) < SMALLEST:
            return f"is {width}x{height}: expected at least {SMALLEST} pixels a side"
        pixels = None if store.full else shrink(image, side)
        return _Looked((width, height), hashlib.sha256(data).digest(), pixels)

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(entries), _AHEAD):
            yield from pool.map(look, entries[start : start + _AHEAD])


def _refusal(where: str, skipped: Sequence[Skipped], found: int, on_bad: OnBad) -> str:
    named = "".join(f"\n  {s}" for s in skipped[:NAMED])
    more = f"\n  and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    todo = "Mend them or take them away"
    if on_bad == "refuse" and len(skipped) < found:
        todo += ", or train without them (--skip-bad)"
    return (
        f"{len(skipped)} of {found} pictures of {where} cannot be used:{named}{more}\n"
        f"Expected readable pictures with a caption each. {todo}."
    )
