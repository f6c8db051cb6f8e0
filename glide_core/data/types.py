"""What a training job asks of its pictures, whatever they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    pictures: Tensor  # [B, 3, S, S] in [-1, 1]
    captions: list[str]


class Source(Protocol):
    """Pictures with captions. Everything random comes from the generator given."""

    def batch(
        self,
        rng: torch.Generator,
        size: int,
        *,
        side: int,
        crop: int | None = None,
        distinct: bool = False,
    ) -> Batch:
        """Draw a random batch.

        size: pictures.
        side: of the whole picture in pixels (64 for base models, 256 for upsamplers).
        crop: side of the square cut out of it at random, at a multiple of 4 (None: the whole).
        distinct: no two captions alike, as far as there are enough (contrastive training).
        """
        ...
