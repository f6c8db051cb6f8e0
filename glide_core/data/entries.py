"""Entries of a data set: where an image is stored, its captions, and how it is decoded."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from glide_core import images
from glide_core.errors import shorten

# endings of image files; whether a file can be decoded is found by decoding it
IMAGE_SUFFIXES = frozenset(
    ["jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif"]
)
TEXT_KEYS = ("text", "caption", "prompt")
IMAGE_KEYS = ("image", "file_name", "path")
MOST_PIXELS = 120_000_000  # larger than any camera's; a forged header would fill the memory
Pixels = NDArray[np.uint8]  # [H, W, 3]


class Unusable(Exception):
    """Why one image or caption cannot be used."""


@dataclass(frozen=True)
class Piece:
    """A file, or a part of one (a member of a tar)."""

    path: Path
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """Read the bytes; raises Unusable where that fails."""
        try:
            if not self.path.is_file() and self.path.exists():  # a FIFO would block
                raise Unusable("is not a regular file")
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read() if self.size is None else file.read(self.size)
        except (OSError, ValueError) as error:  # ValueError: an impossible file name
            raise Unusable(
                f"cannot be read ({getattr(error, 'strerror', None) or error})"
            ) from error
        if self.size is not None and len(data) < self.size:
            raise Unusable(f"cut off: {len(data)} of {self.size} bytes are in {self.path.name}")
        return data


@dataclass(frozen=True)
class Entry:
    """An image that was found, not yet opened."""

    name: str  # for messages, relative to the data set
    image: Piece
    captions: tuple[str, ...] = ()
    problem: str = ""  # what is wrong, where that is known without opening the image


@dataclass(frozen=True)
class Listing:
    """All images of a data set, in an order that is the same on every machine."""

    entries: list[Entry]
    warnings: tuple[str, ...] = ()


def suffix(name: str) -> str:
    """The ending of a name without its dot, in lower case."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def few(names: Sequence[str], most: int = 5) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def captioned_entry(
    name: str, image: Piece, text: Piece | None, fields: Piece | None, caption_key: str
) -> Entry:
    """Make an entry with the captions of a text file (one per line), or else of a JSON file.

    caption_key: ending of the text file, and the key that JSON is searched for first.
    """
    try:
        if text is not None:
            return Entry(name, image, _clean(_decode(text).splitlines()))
        if fields is None:
            raise Unusable(f"has no caption: expected a .{caption_key} or .json of the same name")
        try:
            values = json.loads(_decode(fields))
        except (ValueError, RecursionError) as error:  # also of a number of 5,000 digits
            raise Unusable(f"its caption file is not JSON ({error})") from error
        return Entry(name, image, captions_in(values, (caption_key, *TEXT_KEYS)))
    except Unusable as error:
        return Entry(name, image, problem=str(error))


def captions_in(fields: object, keys: Sequence[str]) -> tuple[str, ...]:
    """Captions of a JSON object or a row, under the first of `keys` that it has.

    The value is a text, or a list of texts to choose from; raises Unusable for any other.
    """
    key = next((k for k in keys if isinstance(fields, dict) and k in fields), None)
    if not isinstance(fields, dict) or key is None:
        raise Unusable(f"has no caption: expected one of {', '.join(dict.fromkeys(keys))}")
    value = fields[key]
    texts = value if isinstance(value, list) else ["" if value is None else value]
    if not all(isinstance(text, str) for text in texts):
        raise Unusable(f"its caption is {value!r:.60}: expected a text or a list of texts")
    return _clean(texts)


def _decode(file: Piece) -> str:
    try:
        return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unusable(f"its caption is not UTF-8 text (byte {error.start + 1})") from error


def _clean(texts: Sequence[str]) -> tuple[str, ...]:
    """Captions with single spaces, each once, in order; Unusable where none is left."""
    captions = tuple(dict.fromkeys(" ".join(text.split()) for text in texts if text.strip()))
    if not captions:
        raise Unusable("its caption is empty")
    for caption in captions:
        try:
            caption.encode()
        except UnicodeEncodeError as error:  # JSON can hold half a character
            raise Unusable(f"its caption {shorten(ascii(caption))} is not Unicode text") from error
    return captions


def read_image(data: bytes) -> Image.Image:
    """Decode an image: RGB, oriented by its EXIF tag, transparent pixels on white.

    Raises Unusable for anything that is not a complete, readable image of reasonable size.
    """
    if not data:
        raise Unusable("is empty")
    try:
        return images.on_white(images.decode(io.BytesIO(data), MOST_PIXELS))
    except UnidentifiedImageError as error:
        raise Unusable(
            "is not a readable image: expected JPEG, PNG, WebP, GIF, BMP or TIFF"
        ) from error
    except MemoryError:  # says nothing of the image
        raise
    except Exception as error:  # damaged bytes make decoders raise almost anything
        raise Unusable(f"cannot be decoded: {str(error) or type(error).__name__}") from error


def shrink(image: Image.Image, side: int) -> Pixels:
    """Resize so that the shorter side has `side` pixels, bicubic, the aspect ratio kept."""
    scale = side / min(image.size)
    size = max(side, round(image.width * scale)), max(side, round(image.height * scale))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.array(image)
