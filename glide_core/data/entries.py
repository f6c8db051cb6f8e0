"""Entries of a data set: where an image is stored, its captions, and how it is decoded."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
        except FileNotFoundError as error:
            raise Unusable("does not exist") from error
        except OSError as error:
            raise Unusable(f"cannot be read ({error.strerror})") from error
        except ValueError as error:  # an impossible file name
            raise Unusable(f"cannot be read ({error})") from error
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


def decode_text(data: bytes) -> str:
    """Decode UTF-8, with or without a byte order mark; raises Unusable."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unusable(f"its caption is not UTF-8 text (byte {error.start + 1})") from error


def captions_from_json(data: bytes, keys: Sequence[str]) -> tuple[str, ...]:
    """Captions of a JSON object under the first of `keys` that it has; raises Unusable."""
    try:
        values = json.loads(decode_text(data))
    except (ValueError, RecursionError) as error:  # also of a number of 5,000 digits
        raise Unusable(f"its caption file is not JSON ({error})") from error
    key = next((k for k in keys if isinstance(values, dict) and k in values), None)
    if key is None:
        raise Unusable(f"its JSON has no caption: expected one of {', '.join(keys)}")
    return captions_from_value(values[key])


def captioned(
    entry: Entry, text: Piece | None, fields: Piece | None, caption_key: str, expected: str
) -> Entry:
    """Add the captions of an image's text file, or else of its JSON file, or what is wrong."""
    try:
        if text is not None:
            lines = decode_text(text.read()).splitlines()
            return replace(entry, captions=captions_from_value(lines))
        if fields is not None:
            keys = list(dict.fromkeys((caption_key, *TEXT_KEYS)))
            return replace(entry, captions=captions_from_json(fields.read(), keys))
    except Unusable as error:
        return replace(entry, problem=str(error))
    return replace(entry, problem=f"has no caption: {expected}")


def captions_from_value(value: object) -> tuple[str, ...]:
    """Captions of a text, or of a list of texts to choose from: single spaces, each once, in order.

    Raises Unusable for any other value, and where no caption is left.
    """
    values = value if isinstance(value, list) else ["" if value is None else value]
    texts = [v for v in values if isinstance(v, str)]
    if len(texts) < len(values):
        raise Unusable(f"its caption is {value!r:.60}: expected a text or a list of texts")
    tidy = (" ".join(text.split()) for text in texts)
    kept = tuple(dict.fromkeys(c for c in tidy if c))
    for caption in kept:
        try:
            caption.encode()
        except UnicodeEncodeError as error:  # JSON can hold half a character
            raise Unusable(f"its caption {shorten(ascii(caption))} is not Unicode text") from error
    if not kept:
        raise Unusable("its caption is empty")
    return kept


def few(names: Sequence[str], most: int = 5) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


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


def shrunk_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return (width, height) scaled so that the shorter side is `side`, the aspect ratio kept."""
    scale = side / min(size)
    return max(side, round(size[0] * scale)), max(side, round(size[1] * scale))


def shrink(image: Image.Image, side: int) -> Pixels:
    """Resize so that the shorter side has `side` pixels, bicubic, the aspect ratio kept."""
    size = shrunk_size(image.size, side)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.array(image)
