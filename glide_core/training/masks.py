"""What training does to pictures: regions erased for inpainting, small pictures made worse."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def random_keep_masks(rng: torch.Generator, batch: int, size: int) -> Tensor:
    """Keep masks [B, 1, S, S]: one to three erased rectangles, or (one in five) all erased."""
    masks = torch.ones(batch, 1, size, size)
    for mask in masks:
        if float(torch.rand((), generator=rng)) < 0.2:
            mask.zero_()
            continue
        for _ in range(int(torch.randint(1, 4, (), generator=rng))):
            h, w = (torch.rand(2, generator=rng) * 0.6 * size + size / 8).long().tolist()
            y, x = (torch.rand(2, generator=rng) * (size - torch.tensor([h, w]))).long().tolist()
            mask[:, y : y + h, x : x + w] = 0
    return masks


def conditioning_augmentation(low: Tensor, rng: torch.Generator) -> Tensor:
    """Low-resolution input as a base model might draw it: a little blur, a little noise."""
    blurred = F.avg_pool2d(F.pad(low, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = 0.5 * torch.rand(len(low), 1, 1, 1, generator=rng)
    low = torch.lerp(low, blurred, share)
    noise = torch.randn(low.shape, generator=rng)
    level = 0.06 * torch.rand(len(low), 1, 1, 1, generator=rng)
    return (low + level * noise).clamp(-1, 1)
