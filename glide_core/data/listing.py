"""List the images of a folder, a table or webdataset shards without opening them.

The format is detected from the content. Shards are tars in which the members of a sample share a
name up to the first dot. The webdataset package streams them; training needs random access, so they
are indexed here: an image is a file, an offset and a size.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import tarfile
from collections.abc import Sequence
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
    captioned_entry,
    captions_in,
    few,
    suffix,
)
from glide_core.data.tables import open_file, read_table
from glide_core.errors import GlideError, as_glide_error

TXT = "txt"
EXPECTED = (
    "Expected a folder of images with .txt captions beside them, a JSONL, CSV or Parquet list, or "
    "webdataset shards (.tar)"
)
_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # of Hugging Face's image folders
_MOST_SHARDS = 100_000  # a mistake in a pattern should not fill the memory


def list_images(path: Path, caption_key: str = TXT) -> Listing:
    """List all images of a path, see `open_source`, without opening them.

    An image without a caption is listed with a problem. Raises GlideError where there is no image.
    """
    with as_glide_error(f"{path} cannot be read", (OSError, ValueError)):
        if path.is_dir():
            listing = _list_directory(path, caption_key)
        elif "{" in str(path) and not path.exists():
            listing = list_shards(expand(str(path)), caption_key)
        elif not path.exists():
            raise GlideError(f"{path} was not found. {EXPECTED}.")
        elif suffix(path.name) in IMAGE_SUFFIXES:
            raise GlideError(f"{path} is a single image. {EXPECTED}: give its folder.")
        elif ".tar" in path.suffixes or _is_tar(path):
            listing = list_shards([path], caption_key)
        else:
            listing = list_table(path, caption_key)
    if not listing.entries:
        raise GlideError(f"{path} holds no images. {EXPECTED}.")
    return listing


def _is_tar(path: Path) -> bool:
    with open_file(str(path)) as file:
        return file.read(262)[257:] == b"ustar"


def _list_directory(path: Path, caption_key: str) -> Listing:
    tars = sorted(p for p in path.iterdir() if suffix(p.name) == "tar" and p.name[0] != ".")
    listing = _list_folder(path, caption_key)
    if tars and listing.entries:
        raise GlideError(
            f"{path} holds images and tars ({few([t.name for t in tars])}): move one or the other "
            "away, or name a tar itself"
        )
    if tars:
        return list_shards(tars, caption_key)
    tables = [path / name for name in _TABLES if (path / name).is_file()]
    if tables and not any(entry.captions for entry in listing.entries):
        return list_table(tables[0], caption_key)
    return listing


def _list_folder(root: Path, caption_key: str) -> Listing:
    """List every image below a folder with the captions beside it; hidden files are left out."""
    files: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        files += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    texts, fields = (
        {f.with_suffix(""): Piece(f) for f in files if suffix(f.name) == ending}
        for ending in (caption_key.lower(), "json")
    )
    entries = []
    for file in files:
        if suffix(file.name) in IMAGE_SUFFIXES:
            name, stem = file.relative_to(root).as_posix(), file.with_suffix("")
            text = texts.get(stem)
            entries.append(captioned_entry(name, Piece(file), text, fields.get(stem), caption_key))
    unused = texts.keys() - {entry.image.path.with_suffix("") for entry in entries}
    stray = sorted(texts[stem].path.relative_to(root).as_posix() for stem in unused)
    warnings = (f"caption files without an image: {few(stray)}",) if stray else ()
    return Listing(sorted(entries, key=lambda e: e.name), warnings)


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
                f"Expected a column {' or '.join(IMAGE_KEYS)} and a column {' or '.join(keys)} (of "
                f"a CSV, in its first line); the columns are: {found or 'none'}."
            )
        return names

    merged: dict[str, Entry] = {}
    with open_file(str(path)) as file:
        for number, (line, fields) in enumerate(read_table(file, "", header), 1):
            entry = _row_entry(path, line or number, fields, keys)
            # a row with a problem is not merged: it is reported, and the other rows are used
            key = os.path.normpath(entry.image.path) if not entry.problem else f"row {number}"
            if old := merged.get(key):
                both = tuple(dict.fromkeys(old.captions + entry.captions))
                entry = replace(old, captions=both)
            merged[key] = entry
    return Listing(list(merged.values()))


def _row_entry(
    path: Path, line: int, fields: dict[str, object] | str, keys: Sequence[str]
) -> Entry:
    where = f"{path.name} line {line}"
    if isinstance(fields, str):
        return Entry(where, Piece(path), problem=f"is not a row: it {fields}")
    name = next((fields[k] for k in IMAGE_KEYS if fields.get(k)), None)
    if not isinstance(name, str):
        return Entry(where, Piece(path), problem=f"names no image: expected {few(IMAGE_KEYS)}")
    piece = Piece(path.parent / name)
    try:
        return Entry(name, piece, captions_in(fields, keys))
    except Unusable as error:
        return Entry(name, piece, problem=f"{error} ({where})")


def expand(pattern: str) -> list[Path]:
    """The names a brace pattern stands for: {0000..0003} counts, {a,b} lists.

    Raises GlideError where a part cannot be read or shards are missing.
    """
    choices: list[Sequence[str]] = []
    for i, part in enumerate(re.split(r"\{([^{}]*)\}", pattern)):
        numbers = re.fullmatch(r"(\d{1,5})\.\.(\d{1,5})", part)
        if i % 2 == 0:  # between the braces
            choices.append([part])
        elif numbers:
            first, last = int(numbers[1]), int(numbers[2])
            choices.append([f"{n:0{len(numbers[1])}d}" for n in range(first, last + 1)])
        else:
            choices.append(part.split(",") if "," in part else [])
    count = math.prod(map(len, choices))
    if not 0 < count <= _MOST_SHARDS:
        raise GlideError(
            f"{pattern} names {count} shards. Expected numbers from small to large as in "
            f"{{0000..0003}}, or names as in {{a,b}}, and at most {_MOST_SHARDS} shards."
        )
    paths = [Path("".join(parts)) for parts in itertools.product(*choices)]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise GlideError(
            f"{len(missing)} of {len(paths)} shards of {pattern} do not exist: {few(missing, 10)}"
        )
    return paths


def list_shards(paths: Sequence[Path], caption_key: str) -> Listing:
    """Every sample of the shards: its image's place in the tar, and its captions.

    caption_key: the member that holds the captions, one per line; where a sample has none, its
    .json is searched for the key of that name, text, caption or prompt.
    """
    entries, lone = [], []
    for path in paths:
        samples, damage = _read_members(path)
        for key, members in samples.items():
            name = f"{path.name}/{key}" if len(paths) > 1 else key
            images = [end for end in members if end.rpartition(".")[2] in IMAGE_SUFFIXES]
            if not images:
                lone.append(f"{name}.{next(iter(members))}")
                continue
            name, image = f"{name}.{images[0]}", members[images[0]]
            text, fields = members.get(caption_key.lower()), members.get("json")
            entry = captioned_entry(name, image, text, fields, caption_key)
            if len(images) > 1:
                entry = replace(entry, problem=f"is one of several images: {', '.join(images)}")
            entries.append(entry)
        if damage:
            where = f"is damaged after {len(samples)} samples: {damage}"
            problem = f"{where}. Expected a tar that is not compressed."
            entries.append(Entry(path.name, Piece(path), problem=problem))
    warnings = (f"members without an image: {few(lone)}",) if lone else ()
    return Listing(entries, warnings)


def _read_members(path: Path) -> tuple[dict[str, dict[str, Piece]], str]:
    """Members by key and ending, in the tar's order, and what is wrong with the tar."""
    samples: dict[str, dict[str, Piece]] = {}
    with open_file(str(path)) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    # the key ends at the first dot of the file's name: the format's own rule
                    folder, _, name = member.name.rpartition("/")
                    stem, _, ending = name.partition(".")
                    if member.isfile() and stem and ending:
                        key = f"{folder}/{stem}".removeprefix("./").lstrip("/")
                        piece = Piece(path, member.offset_data, member.size)
                        samples.setdefault(key, {})[ending.lower()] = piece
                file.seek(archive.offset)
        except (tarfile.TarError, OSError) as error:
            return samples, str(error)
        # tarfile takes a damaged header for the end, which is zeros
        return samples, "invalid data in it" if file.read(512).strip(b"\0") else ""
