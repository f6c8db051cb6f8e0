"""A folder of images with same-named caption files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from glide_core.data.entries import (
    IMAGE_SUFFIXES,
    TEXT_KEYS,
    Entry,
    Listing,
    Piece,
    Unusable,
    captions_from_json,
    captions_from_text,
    few,
    suffix,
)


def walk(root: Path) -> Iterator[Path]:
    """All files below a folder in a fixed order; hidden files and folders are left out."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield from (Path(folder, f) for f in sorted(files) if not f.startswith("."))


def list_folder(root: Path, caption_suffix: str = "txt") -> Listing:
    """Every image below a folder with the captions beside it.

    caption_suffix: of the caption files, without the dot. Each line of one is a caption. An image
    without one has the caption of a .json file beside it, as in webdataset shards.
    """
    files = list(walk(root))
    images = [f for f in files if suffix(f.name) in IMAGE_SUFFIXES]
    texts = {f.with_suffix(""): f for f in files if suffix(f.name) == caption_suffix.lower()}
    entries = [_entry(p, root, texts.get(p.with_suffix("")), caption_suffix) for p in images]
    used = {p.with_suffix("") for p in images}
    stray = [t.relative_to(root).as_posix() for stem, t in texts.items() if stem not in used]
    warnings = (f"caption files without an image: {few(stray)}",) if stray else ()
    return Listing(sorted(entries, key=lambda e: e.name), warnings)


def _entry(image: Path, root: Path, text: Path | None, caption_suffix: str) -> Entry:
    name, piece = image.relative_to(root).as_posix(), Piece(image)
    if text is None:
        try:
            keys = dict.fromkeys((caption_suffix, *TEXT_KEYS))
            data = Piece(image.with_suffix(".json")).read()
            return Entry(name, piece, captions_from_json(data, list(keys)))
        except Unusable:  # no such file, or JSON of another program
            pass
        wanted = image.with_suffix(f".{caption_suffix}").name
        return Entry(name, piece, problem=f"has no caption: expected {wanted} beside it")
    try:
        return Entry(name, piece, captions_from_text(Piece(text).read()))
    except Unusable as error:
        return Entry(name, piece, problem=f"{error} ({text.name})")
