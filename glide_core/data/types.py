"""What a training job expects of its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images and one caption each."""

    images: Tensor  # [B, 3, S, S] in [-1, 1]
    captions: list[str]
    # [B, 3, S / 4, S / 4]: what an upsampler is given, such as a base model's samples; None: the
    # images, reduced and slightly degraded
    low_res: Tensor | None = None


class Source(Protocol):
    """Images with captions. All randomness comes from the generator given."""

    def batch(
        self,
        rng: torch.Generator,
        size: int,
        *,
        side: int,
        crop: int | None = None,
        distinct: bool = False,
    ) -> Batch:
        """Sample a random batch.

        size: number of images.
        side: of the whole image in pixels (64 for base models, 256 for upsamplers).
        crop: side of the square cropped from it at random, at a multiple of 4 (None: the whole).
        distinct: no two captions alike, as far as there are enough (contrastive training).
        """
        ...
