"""Decode image files, resize them to the training size, and keep the results in memory."""

from __future__ import annotations

import io
import mmap

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from glide_core import images
from glide_core.data.entries import Unusable

MOST_PIXELS = 120_000_000  # larger than any camera's; a forged header would fill the memory
Pixels = NDArray[np.uint8]  # [H, W, 3]


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


class PixelCache:
    """Decoded images in memory that forked worker processes share.

    The first images that fit into the budget have a slot; each slot is filled by whichever process
    decodes the image first. Processes that are spawned instead of forked start with an empty one.
    """

    def __init__(self, most: int, budget: int) -> None:
        """most: number of images. budget: in bytes."""
        self._most, self._budget = most, budget
        self._slots: list[tuple[int, int, int]] = []  # start, width, height
        self._end = 0
        # anonymous shared memory: not limited by the size of /dev/shm, committed when written
        self._pixels = mmap.mmap(-1, max(1, budget))
        self._filled = mmap.mmap(-1, max(1, most))
        self.full = budget <= 0

    def __len__(self) -> int:
        return len(self._slots)

    def reserve(self, size: tuple[int, int]) -> None:
        """Add a slot for the next image, of (width, height), if all before it had room."""
        width, height = size
        self.full = self.full or self._end + 3 * width * height > self._budget
        if not self.full:
            self._slots.append((self._end, width, height))
            self._end += 3 * width * height

    def get(self, index: int) -> Pixels | None:
        """Return an image [H, W, 3], or None where it has not been stored."""
        if index >= len(self._slots) or not self._filled[index]:
            return None
        start, width, height = self._slots[index]
        flat = np.frombuffer(self._pixels, np.uint8, 3 * width * height, start)
        return flat.reshape(height, width, 3)

    def put(self, index: int, pixels: Pixels) -> None:
        """Store an image where it has a slot."""
        if index < len(self._slots):
            start = self._slots[index][0]
            self._pixels[start : start + pixels.nbytes] = pixels.tobytes()
            self._filled[index] = 1

    def __getstate__(self) -> tuple[int, int, list[tuple[int, int, int]]]:
        return self._most, self._budget, self._slots

    def __setstate__(self, state: tuple[int, int, list[tuple[int, int, int]]]) -> None:
        most, budget, slots = state
        PixelCache.__init__(self, most, budget)
        self._slots, self.full = slots, True
