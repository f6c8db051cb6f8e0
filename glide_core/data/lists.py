"""A list of images and captions: JSON, one object per line, or CSV with a header."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from glide_core.data.entries import (
    IMAGE_KEYS,
    TEXT_KEYS,
    Entry,
    Listing,
    Piece,
    Unusable,
    captions_from_value,
    decode_text,
)
from glide_core.errors import GlideError

Row = tuple[int, object]  # line in the file; a dict of fields, or Unusable


def list_rows(path: Path, caption_key: str = "") -> Listing:
    """Every image that a JSONL or CSV file names; its paths are relative to the file.

    caption_key: the column of the captions ("": text, caption or prompt, whichever there is).
    Rows of one image are merged: it has their captions to choose from.
    Raises GlideError where the file is no list, or has no column of images or captions.
    """
    try:
        text = decode_text(path.read_bytes())
    except Unusable as error:
        raise GlideError(f"{path} {_NO_LIST} It is not UTF-8 text.") from error
    captions = (caption_key,) if caption_key else TEXT_KEYS
    rows = _json_rows if text.lstrip()[:1] in ("{", "[") else _csv_rows
    merged: dict[str, Entry] = {}
    for line, fields in rows(text, path, captions):
        entry = _entry(path, line, fields, captions)
        # a row with a problem stands alone, so that it is named and spoils no other
        key = os.path.normpath(entry.image.path) if not entry.problem else f"line {line}"
        old = merged.get(key)
        if old is not None:
            both = tuple(dict.fromkeys(old.captions + entry.captions))
            entry = Entry(old.name, old.image, both)
        merged[key] = entry
    return Listing(list(merged.values()))


def _entry(path: Path, line: int, fields: object, captions: Sequence[str]) -> Entry:
    where = f"{path.name} line {line}"
    if not isinstance(fields, dict):
        return Entry(where, Piece(path), problem=f"is not a row: {fields}")
    name = next((fields[k] for k in IMAGE_KEYS if fields.get(k)), None)
    if not isinstance(name, str):
        return Entry(where, Piece(path), problem=f"names no image under {_one_of(IMAGE_KEYS)}")
    piece = Piece(path.parent / name)
    key = next((k for k in captions if k in fields), None)
    if key is None:
        return Entry(name, piece, problem=f"has no caption: {where} has no {_one_of(captions)}")
    try:
        return Entry(name, piece, captions_from_value(fields[key]))
    except Unusable as error:
        return Entry(name, piece, problem=f"{error} ({where})")


def _json_rows(text: str, path: Path, captions: Sequence[str]) -> Iterator[Row]:
    if text.lstrip()[0] == "[":
        raise GlideError(f"{path} {_NO_LIST} It is one JSON array: write one object per line.")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                yield number, f"it is not JSON ({error})"


def _csv_rows(text: str, path: Path, captions: Sequence[str]) -> Iterator[Row]:
    header = text.partition("\n")[0].strip()
    separator = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        wanted = [c.lower() for c in captions]
        if not set(names) & set(IMAGE_KEYS) or not set(names) & set(wanted):
            found = ", ".join(names)[:200] if header.isprintable() else "no text"
            raise GlideError(
                f"{path} {_NO_LIST} The first line of a CSV must name a column "
                f"{_one_of(IMAGE_KEYS)} and a column {_one_of(captions)}; it holds: "
                f"{found or 'nothing'}."
            )
        original = {c.lower(): c for c in captions}  # as _entry looks for them
        keys = [original.get(name, name) for name in names]
        line = reader.line_num + 1
        for values in reader:
            if len(values) > len(keys):
                yield (
                    line,
                    f"it has {len(values)} fields, the header {len(keys)}: quote the caption",
                )
            elif values:
                yield line, dict(zip(keys, values, strict=False))
            line = reader.line_num + 1
    except csv.Error as error:
        raise GlideError(f"{path} is not CSV from line {reader.line_num} on: {error}.") from error


_NO_LIST = "is not a list of images and captions (JSON, one object per line, or CSV)."


def _one_of(keys: Sequence[str]) -> str:
    return " or ".join(f'"{k}"' for k in keys)
