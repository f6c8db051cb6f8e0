"""Noise that belongs to the image, not to the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glide_core.errors import GlideError


class SeededNoise:
    """Standard normal noise from one CPU generator per image.

    Image i gets the same stream whatever the batch, the device or the chunk it is drawn in.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, like: Tensor, /) -> Tensor:
        """Fresh noise [B, ...] shaped like `like`, float32, on its device; B is the seeds'."""
        if len(like) != len(self._generators):
            raise GlideError(
                f"noise was asked for {len(like)} images but seeded for {len(self._generators)}: "
                "give one seed per image"
            )
        drawn = [torch.randn(like.shape[1:], generator=g) for g in self._generators]
        return torch.stack(drawn).to(like.device)
