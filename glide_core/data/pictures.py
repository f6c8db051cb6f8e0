"""From a file's bytes to the small picture that training asks for, and a store of those."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from glide_core import images
from glide_core.data.entries import Unusable

MOST_PIXELS = 120_000_000  # above every camera; a forged header would fill the memory
Pixels = NDArray[np.uint8]  # [H, W, 3]


def read_picture(data: bytes) -> Image.Image:
    """Decode a picture whole: RGB, upright by its EXIF tag, what is transparent on white.

    Raises Unusable for anything that is not a whole, readable picture of sane size.
    """
    if not data:
        raise Unusable("is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise Unusable(
                    f"is {width}x{height}: expected at most {MOST_PIXELS // 1_000_000} megapixels"
                )
            image.verify()  # checksums, where the format has them
        return images.on_white(images.decode(io.BytesIO(data)))
    except Unusable:
        raise
    except UnidentifiedImageError as error:
        raise Unusable(
            "is no picture that can be read: expected JPEG, PNG, WebP, GIF, BMP or TIFF"
        ) from error
    except Exception as error:  # damaged bytes make decoders raise almost anything
        reason = str(error) or type(error).__name__
        raise Unusable(f"cannot be read as a picture: {reason}") from error


def shrink(image: Image.Image, side: int) -> Pixels:
    """Resize so that the shorter side has `side` pixels, bicubic, the aspect ratio kept."""
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(image)


class Store:
    """Small pictures kept in memory, by index and side, up to a budget of bytes."""

    def __init__(self, budget: int) -> None:
        self._left = budget
        self._pixels: dict[tuple[int, int], Pixels] = {}
        self.full = budget <= 0

    def get(self, index: int, side: int) -> Pixels | None:
        return self._pixels.get((index, side))

    def put(self, index: int, side: int, pixels: Pixels) -> None:
        """Keep a picture if it fits."""
        if pixels.nbytes > self._left:
            self.full = True
        elif (index, side) not in self._pixels:
            self._pixels[index, side] = pixels
            self._left -= pixels.nbytes
