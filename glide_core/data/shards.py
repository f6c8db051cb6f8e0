"""Webdataset shards: tars in which the members of a sample share a name up to the first dot.

Written by the webdataset package or with tar. The package itself streams; training needs random
access, so the tars are indexed instead: an image is a file, an offset and a size.
"""

from __future__ import annotations

import itertools
import math
import re
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from glide_core.data.entries import IMAGE_SUFFIXES, Entry, Listing, Piece, captioned, few
from glide_core.errors import GlideError

PACKED = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # zip, gz, bz2...
MOST_SHARDS = 100_000  # a mistake in a pattern should not fill the memory


def expand(pattern: str) -> list[Path]:
    """The names a brace pattern stands for: {0000..0003} counts, {a,b} lists.

    Raises GlideError where a part cannot be read or shards are missing.
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(p, pattern) if i % 2 else [p] for i, p in enumerate(parts)]
    if (count := math.prod(map(len, choices))) > MOST_SHARDS:
        raise GlideError(f"{pattern} names {count} shards. Expected at most {MOST_SHARDS}.")
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
    if not 0 <= int(last) - int(first) < MOST_SHARDS:
        raise GlideError(
            f"{{{part}}} in {pattern} is not a range. Expected the smaller number first, at most "
            f"{MOST_SHARDS} shards."
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
        if raw.read(16).startswith(PACKED):
            raise GlideError(f"{path} is a compressed tar. Expected a plain .tar: unpack it first.")
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
