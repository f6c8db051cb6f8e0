"""Noise that belongs to the image, not to the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glide_core.errors import GlideError


class SeededNoise:
    """Standard normal noise from one CPU generator per image, the same in any batch and device."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, like: Tensor, /) -> Tensor:
        """Fresh noise [B, ...] shaped like `like`, float32, on its device; one image per seed."""
        if len(like) != len(self._generators):
            raise GlideError(
                f"noise for {len(like)} images was requested from {len(self._generators)} seeds: "
                "give one seed per image"
            )
        # dtype and device are named: the process's defaults must not change an image
        noise = [
            torch.randn(like.shape[1:], generator=generator, dtype=torch.float32, device="cpu")
            for generator in self._generators
        ]
        return torch.stack(noise).to(like.device, non_blocking=True)
