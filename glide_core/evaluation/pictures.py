"""The pictures that are to be measured: a folder, a list or shards, cropped and in fixed order."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from glide_core import images
from glide_core.data.entries import (
    PICTURES,
    TEXT_KEYS,
    Entry,
    Piece,
    Unusable,
    captions_from_json,
    decode_text,
    few,
    suffix,
)
from glide_core.data.folders import list_folder
from glide_core.data.lists import list_rows
from glide_core.data.pictures import read_picture
from glide_core.data.shards import expand, list_shards
from glide_core.errors import GlideError

log = logging.getLogger("glide")

Crop = Literal["centre", "none"]
CROPS: tuple[Crop, ...] = get_args(Crop)


@dataclass(frozen=True)
class Picture:
    """One picture as it was read."""

    name: str
    pixels: Tensor  # [3, H, W] in [-1, 1]
    caption: str  # "" where none is known


@dataclass(frozen=True)
class Pictures:
    """What is to be measured, not yet opened."""

    where: str  # for errors
    entries: tuple[Entry, ...]
    crop: Crop = "centre"
    size: int | None = None  # side in pixels that every picture is resized to; None: as it is

    def __len__(self) -> int:
        return len(self.entries)

    def chosen(self, count: int | None, seed: int) -> Pictures:
        """`count` of them, drawn by the seed, in their old order; all, for None."""
        if count is None:
            return self
        if count > len(self):
            raise GlideError(
                f"{self.where} holds {len(self)} pictures, not {count}. Expected at least as many "
                "as --n asks for: ask for fewer."
            )
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        kept = sorted(order[:count].tolist())
        return replace(self, entries=tuple(self.entries[i] for i in kept))

    def captioned(self, captions: Path) -> Pictures:
        """The same pictures with the captions of a file (see `read_captions`)."""
        by_name, lines = read_captions(captions)
        if lines and len(lines) != len(self):
            raise GlideError(
                f"{captions} holds {len(lines)} captions for {len(self)} pictures of {self.where}. "
                "Expected one a line, in the order of the pictures' names: correct the file, or "
                "name the pictures in a CSV or JSONL."
            )
        missing = [e.name for e in self.entries if e.name not in by_name]
        if not lines and missing:
            raise GlideError(
                f"{captions} names no caption for {few(missing)}. Expected one for every picture, "
                f"by its name in {self.where}."
            )
        given = lines or [by_name[entry.name] for entry in self.entries]
        paired = zip(self.entries, given, strict=True)
        return replace(self, entries=tuple(replace(e, captions=(c,)) for e, c in paired))

    def read(self) -> Iterator[Picture | Unusable]:
        """Open each picture in turn; in place of one that cannot be read, why, with its name."""
        for entry in self.entries:
            try:
                yield self._read(entry)
            except Unusable as error:
                yield Unusable(f"{entry.name}: {entry.problem or error}")

    def _read(self, entry: Entry) -> Picture:
        data = entry.picture.read()
        pixels = images.from_pil(read_picture(data))
        if self.crop == "centre":
            pixels = centre_square(pixels)
        if self.size is not None:
            pixels = images.resize(pixels, (self.size, self.size))
        caption = entry.captions[0] if entry.captions else _caption_inside(data)
        return Picture(entry.name, pixels[0], caption)

    @property
    def crop_name(self) -> str:
        """What was cut off and resized, for the protocol."""
        cut = "centre square" if self.crop == "centre" else "none"
        return cut if self.size is None else f"{cut}, PIL bicubic to {self.size}x{self.size}"


def find_pictures(
    where: str | Path, *, crop: Crop = "centre", size: int | None = None, captions: bool = True
) -> Pictures:
    """Name the pictures of a folder, a list or shards; none is opened yet.

    where: a folder with pictures in it or below, with captions in a .txt or .json beside each, or
        in the text of PNGs that `glide` wrote; a folder of tars, one tar, or a brace pattern of
        tars (a-{0000..0003}.tar) with .txt or .json members; a .csv or .jsonl with the columns
        image and caption; a .txt with a path a line. Of several captions the first is used.
    crop: "centre" cuts the largest square out of the middle (paper, App. A.2).
    GlideError where nothing is found.
    """
    path = Path(where)
    try:
        if path.is_dir():
            entries = _in_folder(path, captions)
        elif suffix(path.name) == "tar":
            entries = list_shards([path] if path.is_file() else expand(str(where))).entries
        elif not path.is_file():
            raise GlideError(
                f"there is no {where}. Expected a folder of pictures, a .tar, or a list of them "
                "(.txt, .csv, .jsonl): check the name."
            )
        elif suffix(path.name) in PICTURES:
            raise GlideError(
                f"{where} is one picture. Expected many: name the folder that it is in."
            )
        elif suffix(path.name) == "txt":
            entries = [
                Entry(line.strip(), Piece(path.parent / line.strip()))
                for line in decode_text(path.read_bytes()).splitlines()
                if line.strip()
            ]
        else:
            entries = list_rows(path).entries
    except OSError as error:
        raise GlideError(f"{where} cannot be read: {error.strerror}.") from error
    except Unusable as error:
        raise GlideError(f"{where} is no list of pictures: {error}.") from error
    if not entries:
        raise GlideError(
            f"{where} holds no picture. Expected PNG, JPEG, WebP... or .tar files of them."
        )
    return Pictures(str(where), tuple(entries), crop, size)


def _in_folder(path: Path, captions: bool) -> list[Entry]:
    entries = list_folder(path).entries
    if not entries:
        tars = sorted(p for p in path.iterdir() if suffix(p.name) == "tar")
        return list_shards(tars).entries if tars else []
    if not captions:
        return entries
    return [entry if entry.captions else _with_json(entry) for entry in entries]


def _with_json(entry: Entry) -> Entry:
    beside = entry.picture.path.with_suffix(".json")
    if not beside.is_file():
        return entry
    try:
        return replace(entry, captions=captions_from_json(Piece(beside).read(), TEXT_KEYS))
    except Unusable:
        return entry  # some other program's JSON


def read_captions(path: Path) -> tuple[dict[str, str], list[str]]:
    """Read captions by picture name (.csv, .jsonl), or one a line (anything else)."""
    if suffix(path.name) in ("csv", "tsv", "jsonl", "json"):
        try:
            listed = list_rows(path).entries
        except OSError as error:
            raise GlideError(f"{path} cannot be read: {error.strerror}. Check the name.") from error
        wrong = [f"{e.name} {e.problem}" for e in listed if e.problem]
        if wrong:
            raise GlideError(f"{path}: {few(wrong)}. Expected a picture and a caption a row.")
        return {entry.name: entry.captions[0] for entry in listed}, []
    try:
        lines = decode_text(Piece(path).read()).splitlines()
    except Unusable as error:
        raise GlideError(f"{path}: {error}. Expected a text file with a caption a line.") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise GlideError(f"{path} is empty. Expected a caption a line.")
    return {}, [line.strip() for line in lines]


def centre_square(pixels: Tensor) -> Tensor:
    """The largest square in the middle of pictures [..., H, W]."""
    height, width = pixels.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[..., top : top + side, left : left + side]


def batches(pictures: Sequence[Picture] | Iterator[Picture], most: int) -> Iterator[list[Picture]]:
    """Neighbours of one size, at most `most` at a time: the order stays, whatever the sizes."""
    group: list[Picture] = []
    for picture in pictures:
        if group and (len(group) == most or picture.pixels.shape != group[0].pixels.shape):
            yield group
            group = []
        group.append(picture)
    if group:
        yield group


def _caption_inside(data: bytes) -> str:
    """The prompt in a PNG that `glide` wrote, or ""."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        picture.load()  # PNG text may stand behind the pixels
        text = picture.info.get("glide")
    try:
        facts = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return ""
    prompt = facts.get("prompt") if isinstance(facts, dict) else None
    return prompt if isinstance(prompt, str) else ""
