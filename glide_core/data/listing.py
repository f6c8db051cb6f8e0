"""List the images of a folder, a table or webdataset shards without opening them.

The format is detected from the content, not from the name. Shards are tars in which the members of
a sample share a name up to the first dot. The webdataset package streams them; training needs
random access, so they are indexed here: an image is a file, an offset and a size.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from glide_core.data.entries import (
    IMAGE_KEYS,
    IMAGE_SUFFIXES,
    TEXT_KEYS,
    Entry,
    Listing,
    Piece,
    Unusable,
    captioned,
    captions_from_value,
    few,
    suffix,
)
from glide_core.data.tables import open_file, read_table
from glide_core.errors import GlideError

TXT = "txt"
EXPECTED = (
    "Expected a folder of images with .txt captions beside them, a JSONL, CSV or Parquet list, or "
    "webdataset shards (.tar)"
)
_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # of Hugging Face's image folders
_PACKED = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # zip, gz, bz2...
_MOST_SHARDS = 100_000  # a mistake in a pattern should not fill the memory
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")


def list_images(path: Path, caption_key: str = TXT) -> Listing:
    """List all images of a path, see `open_source`, without opening them.

    An image without a caption is listed with a problem. Raises GlideError where there is no image.
    """
    if path.is_dir():
        listing = _list_directory(path, caption_key)
    elif path.exists():
        listing = _list_file(path, caption_key)
    elif "{" in str(path):
        listing = list_shards(expand(str(path)), caption_key)
    else:
        raise GlideError(f"{path} was not found. {EXPECTED}: check the name.")
    if not listing.entries:
        raise GlideError(f"{path} names no images. {EXPECTED}.")
    return listing


def _list_directory(path: Path, caption_key: str) -> Listing:
    tars = sorted(p for p in path.iterdir() if suffix(p.name) == "tar" and p.name[0] != ".")
    listing = list_folder(path, caption_key)
    if tars and listing.entries:
        raise GlideError(
            f"{path} holds images and tars ({few([t.name for t in tars])}). Expected one or the "
            "other: name a tar itself, or move the tars away."
        )
    if tars:
        return list_shards(tars, caption_key)
    tables = [path / name for name in _TABLES if (path / name).is_file()]
    if tables and not any(entry.captions for entry in listing.entries):
        return list_table(tables[0], caption_key)
    if not listing.entries:
        raise GlideError(f"{path} and its subfolders hold no images. {EXPECTED}.")
    return listing


def _list_file(path: Path, caption_key: str) -> Listing:
    with open_file(str(path)) as file:
        start = file.read(16)
    if suffix(path.name) == "tar" or start.startswith(_PACKED) or tarfile.is_tarfile(path):
        return list_shards([path], caption_key)
    if start.startswith(_IMAGE_STARTS):
        raise GlideError(f"{path} is a single image. {EXPECTED}: give its folder.")
    return list_table(path, caption_key)


def list_folder(root: Path, caption_key: str = TXT) -> Listing:
    """List every image below a folder with the captions beside it; hidden files are left out.

    caption_key: ending of the caption files. Each line of one is a caption. An image without one
    has the caption of a .json file beside it, as in webdataset shards.
    """
    files = list(_walk(root))
    texts, fields = (
        {f.with_suffix(""): Piece(f) for f in files if suffix(f.name) == ending}
        for ending in (caption_key.lower(), "json")
    )
    images = {f: f.with_suffix("") for f in files if suffix(f.name) in IMAGE_SUFFIXES}
    entries = [
        captioned(
            Entry(f.relative_to(root).as_posix(), Piece(f)),
            texts.get(stem),
            fields.get(stem),
            caption_key,
            f"expected {stem.name}.{caption_key} beside it",
        )
        for f, stem in images.items()
    ]
    unused = texts.keys() - images.values()
    stray = sorted(texts[stem].path.relative_to(root).as_posix() for stem in unused)
    warnings = (f"caption files without an image: {few(stray)}",) if stray else ()
    return Listing(sorted(entries, key=lambda e: e.name), warnings)


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield from (Path(folder, f) for f in sorted(files) if not f.startswith("."))


def list_table(path: Path, caption_key: str = TXT) -> Listing:
    """List every image that a JSONL, CSV or Parquet file names, relative to the file.

    caption_key: the column of the captions (txt: text, caption or prompt, whichever there is). Rows
    of one image are merged: its captions are those of all its rows.
    Raises GlideError where the file is not a list, or has no column of images or captions.
    """
    keys = TEXT_KEYS if caption_key == TXT else (caption_key,)

    def header(given: list[str]) -> list[str]:
        known = {key.lower(): key for key in (*IMAGE_KEYS, *keys)}
        names = [known.get(name.strip().lower(), name) for name in given]
        if not {*names} & {*IMAGE_KEYS} or not {*names} & {*keys}:
            found = ", ".join(names)[:200] if "".join(names).isprintable() else "no text"
            raise GlideError(
                f"The first line of a CSV must name a column {_one_of(IMAGE_KEYS)} and a column "
                f"{_one_of(keys)}; it holds: {found or 'nothing'}."
            )
        return names

    merged: dict[str, Entry] = {}
    with open_file(str(path)) as file:
        try:
            for number, (line, fields) in enumerate(read_table(file, "", header), 1):
                entry = _row_entry(path, line or number, fields, keys)
                # a row with a problem is not merged: it is reported, and the other rows are used
                key = os.path.normpath(entry.image.path) if not entry.problem else f"row {number}"
                if old := merged.get(key):
                    both = tuple(dict.fromkeys(old.captions + entry.captions))
                    entry = Entry(old.name, old.image, both)
                merged[key] = entry
        except GlideError as error:
            raise GlideError(
                f"{path} is not a list of images and captions (JSON, one object per line, CSV or "
                f"Parquet): {error}"
            ) from error
    return Listing(list(merged.values()))


def _row_entry(
    path: Path, line: int, fields: dict[str, object] | str, keys: Sequence[str]
) -> Entry:
    where = f"{path.name} line {line}"
    if isinstance(fields, str):
        return Entry(where, Piece(path), problem=f"is not a row: it {fields}")
    name = next((fields[k] for k in IMAGE_KEYS if fields.get(k)), None)
    if not isinstance(name, str):
        return Entry(where, Piece(path), problem=f"names no image under {_one_of(IMAGE_KEYS)}")
    piece = Piece(path.parent / name)
    key = next((k for k in keys if k in fields), None)
    if key is None:
        return Entry(name, piece, problem=f"has no caption: {where} has no {_one_of(keys)}")
    try:
        return Entry(name, piece, captions_from_value(fields[key]))
    except Unusable as error:
        return Entry(name, piece, problem=f"{error} ({where})")


def _one_of(keys: Sequence[str]) -> str:
    return " or ".join(f'"{k}"' for k in keys)


def expand(pattern: str) -> list[Path]:
    """The names a brace pattern stands for: {0000..0003} counts, {a,b} lists.

    Raises GlideError where a part cannot be read or shards are missing.
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(p, pattern) if i % 2 else [p] for i, p in enumerate(parts)]
    if (count := math.prod(map(len, choices))) > _MOST_SHARDS:
        raise GlideError(f"{pattern} names {count} shards. Expected at most {_MOST_SHARDS}.")
    paths = [Path("".join(c)) for c in itertools.product(*choices)]
    missing = [str(p) for p in paths if not p.is_file()]
    if missing:
        raise GlideError(
            f"{len(missing)} of {len(paths)} shards of {pattern} do not exist: {few(missing, 10)}. "
            "Expected all of them: check the numbers."
        )
    return paths


def _choices(part: str, pattern: str) -> Sequence[str]:
    numbers = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", part)
    if not numbers:
        if "," not in part:
            raise GlideError(
                f"{{{part}}} in {pattern} cannot be read. Expected numbers as in {{0000..0003}} "
                "or names as in {a,b}."
            )
        return part.split(",")
    first, last = numbers.groups()
    padded = any(len(n) > 1 and n[0] == "0" for n in (first, last))
    width = max(len(first), len(last)) if padded else 0
    if not 0 <= int(last) - int(first) < _MOST_SHARDS:
        raise GlideError(
            f"{{{part}}} in {pattern} is not a range. Expected the smaller number first, at most "
            f"{_MOST_SHARDS} shards."
        )
    return [f"{n:0{width}d}" for n in range(int(first), int(last) + 1)]


def list_shards(paths: Sequence[Path], caption_key: str = "txt") -> Listing:
    """Every sample of the shards: its image's place in the tar, and its captions.

    caption_key: the member that holds the captions, one per line; where a sample has none, its
    .json is asked for the key of that name, text, caption or prompt. GlideError for other files.
    """
    entries, lone = [], []
    for path in paths:
        samples, damage = _samples(path)
        for key, members in samples.items():
            name = f"{path.name}/{key}" if len(paths) > 1 else key
            images = [end for end in members if end.rpartition(".")[2] in IMAGE_SUFFIXES]
            if not images:
                lone.append(f"{name}.{next(iter(members))}")
                continue
            entry = Entry(f"{name}.{images[0]}", members[images[0]])
            if len(images) > 1:
                entry = replace(entry, problem=f"is one of several images: {', '.join(images)}")
            else:
                text, fields = members.get(caption_key.lower()), members.get("json")
                expected = f"expected a .{caption_key} or .json member"
                entry = captioned(entry, text, fields, caption_key, expected)
            entries.append(entry)
        if damage:
            entries.append(Entry(path.name, Piece(path), problem=damage))
    warnings = (f"members without an image: {few(lone)}",) if lone else ()
    return Listing(entries, warnings)


def _samples(path: Path) -> tuple[dict[str, dict[str, Piece]], str]:
    """Members by key and ending, in the tar's order, and what is wrong with the tar."""
    with path.open("rb") as raw:
        if raw.read(16).startswith(_PACKED):
            raise GlideError(
                f"{path} is compressed, so that single images cannot be read. Expected a plain "
                ".tar or a folder: unpack it first."
            )
    if not tarfile.is_tarfile(path):
        raise GlideError(f"{path} is not a tar. Expected webdataset shards: check the file.")
    samples: dict[str, dict[str, Piece]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                # the key ends at the first dot of the file's name: the format's own rule
                folder, _, file = member.name.rpartition("/")
                stem, _, ending = file.partition(".")
                if member.isfile() and stem and ending:
                    key = f"{folder}/{stem}".removeprefix("./").lstrip("/")
                    piece = Piece(path, member.offset_data, member.size)
                    samples.setdefault(key, {})[ending.lower()] = piece
            end = archive.offset
        with path.open("rb") as file_again:
            file_again.seek(end)
            # tarfile takes a damaged header for the end, which is zeros
            damage = "invalid data in it" if file_again.read(512).strip(b"\0") else ""
    except (tarfile.TarError, OSError) as error:
        damage = str(error)
    if damage:
        return samples, f"is damaged after {len(samples)} samples: {damage}"
    return samples, ""
