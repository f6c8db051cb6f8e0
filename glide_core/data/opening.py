"""Open training data and check all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from glide_core.data.check import Checked, OnBad, check, load_check, usable
from glide_core.data.decode import PixelCache
from glide_core.data.listing import TXT, list_images
from glide_core.data.source import ImageSource
from glide_core.errors import GlideError


def open_source(
    path: Path | str,
    *,
    on_bad: OnBad = "refuse",
    caption_key: str = TXT,
    side: int = 64,
    center_crop: bool = False,
    flip: bool = False,
    memory_mb: int = 1024,
    report: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    known: Path | None = None,
    run_once: Callable[[Callable[[], Checked]], Checked] = lambda make: make(),
) -> ImageSource:
    """Open training data and check all of it.

    path: a folder of images with captions, a JSONL, CSV or Parquet list, a .tar, a folder of tars
        or a brace pattern of them.
    on_bad: "refuse" raises an error that names what is bad, "skip" leaves it out.
    caption_key: ending of the caption files, ending of a shard's caption members, or column.
    side: in pixels, of the images that training asks for; smaller ones are enlarged.
    center_crop: crop squares from the center, not at random.
    flip: mirror half of the images.
    memory_mb: for decoded images; those that do not fit are decoded at every use.
    report: called with each line of the data's report (one process of many should print it).
    progress: called with (done, all) after each image that was checked.
    workers: threads that check.
    known: a file that `save_check` wrote; if it is of these files, they are not decoded again.
    run_once: calls a function in one process and returns its result in all.
    Raises GlideError where the path holds no training data, or as `on_bad` says.
    """
    if on_bad not in ("refuse", "skip"):
        raise GlideError(f'on_bad is {on_bad!r}. Expected "refuse" or "skip".')
    listing = list_images(Path(path), caption_key)
    cache = PixelCache(len(listing.entries), memory_mb * 2**20)

    def checked_once() -> Checked:
        before = load_check(known, listing) if known is not None else None
        return before or check(listing, cache, side, progress=progress, workers=workers)

    checked = run_once(checked_once)
    entries, sizes, found = usable(str(path), listing, checked, on_bad=on_bad, side=side)
    if report is not None:
        for line in found.lines():
            report(line)
    source = ImageSource(
        entries, sizes, found, cache, side=side, center_crop=center_crop, flip=flip
    )
    source.checked = checked
    return source
