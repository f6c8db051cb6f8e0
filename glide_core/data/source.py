"""Random batches of a person's own pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from glide_core.data.check import DataReport, Example, processors
from glide_core.data.entries import Unusable
from glide_core.data.pictures import Pixels, Store, read_picture, shrink
from glide_core.data.types import Batch
from glide_core.errors import GlideError


class PictureSource:
    """Checked pictures with captions, drawn with replacement; see `types.Source`.

    The generator decides everything that is random and nothing is remembered between batches but
    decoded pictures: the same generator state gives the same batch, in any process.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        report: DataReport,
        store: Store,
        *,
        centre: bool = False,
        flip: bool = False,
        workers: int | None = None,
    ) -> None:
        """Take checked examples.

        centre: cut the square out of the middle, not at random.
        flip: mirror every other picture; captions must not speak of left and right.
        """
        self.examples, self.report = examples, report
        self._store, self._centre, self._flip = store, centre, flip
        self._workers = workers or processors()

    def __len__(self) -> int:
        return len(self.examples)

    def batch(
        self,
        rng: torch.Generator,
        size: int,
        *,
        side: int,
        crop: int | None = None,
        distinct: bool = False,
    ) -> Batch:
        """Draw a random batch, as `types.Source` has it.

        Few pictures are drawn repeatedly. A distinct batch is smaller than asked where there are
        not enough different pictures with different captions.
        """
        crop = side if crop is None else crop
        if not 0 < crop <= side:
            raise GlideError(f"the crop is {crop} pixels; expected 1 to {side}, the picture's side")
        if distinct:
            drawn = self._draw_distinct(rng, size)
        else:
            indices = torch.randint(len(self.examples), (size,), generator=rng).tolist()
            drawn = [(i, self._captions(rng, i)[0]) for i in indices]
        small = self._small((i for i, _ in drawn), side)
        places = torch.rand(len(drawn), 5, generator=rng, dtype=torch.float64).tolist()
        squares = [
            self._square(small[index], place, side, crop)
            for (index, _), place in zip(drawn, places, strict=True)
        ]
        pixels = torch.from_numpy(np.stack(squares))  # [B, crop, crop, 3]
        pictures = pixels.movedim(-1, 1).float().div_(127.5).sub_(1)
        return Batch(pictures.contiguous(), [caption for _, caption in drawn])

    def _draw_distinct(self, rng: torch.Generator, size: int) -> list[tuple[int, str]]:
        """Different pictures with different captions, in random order."""
        drawn: dict[str, int] = {}
        for index in torch.randperm(len(self.examples), generator=rng).numpy():
            if len(drawn) == size:
                break
            fresh = (c for c in self._captions(rng, int(index)) if c not in drawn)
            caption = next(fresh, None)
            if caption is not None:
                drawn[caption] = int(index)
        return [(index, caption) for caption, index in drawn.items()]

    def _captions(self, rng: torch.Generator, index: int) -> Sequence[str]:
        """A picture's captions, from a random one on."""
        captions = self.examples[index].captions
        if len(captions) == 1:
            return captions
        start = int(torch.randint(len(captions), (), generator=rng))
        return captions[start:] + captions[:start]

    def _square(self, pixels: Pixels, place: Sequence[float], side: int, crop: int) -> Pixels:
        """Cut the square of `side`, then its crop at a multiple of 4; place: five of [0, 1)."""
        down, right, crop_down, crop_right, mirror = place
        if self._centre:
            down = right = 0.5
        steps = (side - crop) // 4 + 1
        y = int(down * (pixels.shape[0] - side + 1)) + 4 * int(crop_down * steps)
        x = int(right * (pixels.shape[1] - side + 1)) + 4 * int(crop_right * steps)
        square = pixels[y : y + crop, x : x + crop]
        return square[:, ::-1] if self._flip and mirror < 0.5 else square

    def _small(self, indices: Iterable[int], side: int) -> dict[int, Pixels]:
        """Pictures whose shorter side is `side`: kept ones, the others decoded now."""
        small: dict[int, Pixels] = {}
        missing: list[int] = []
        for index in dict.fromkeys(indices):
            kept = self._store.get(index, side)
            if kept is None:
                missing.append(index)
            else:
                small[index] = kept
        if missing:
            with ThreadPoolExecutor(self._workers) as pool:
                decoded = list(pool.map(lambda i: self._decode(i, side), missing))
            for index, pixels in zip(missing, decoded, strict=True):
                small[index] = pixels
                self._store.put(index, side, pixels)
        return small

    def _decode(self, index: int, side: int) -> Pixels:
        example = self.examples[index]
        try:
            return shrink(read_picture(example.picture.read()), side)
        except Unusable as error:
            raise GlideError(
                f"{example.name}: {error}. It could be read when training began: put it back, then "
                "resume."
            ) from error
