"""Small runs for the trainer's tests: coloured images, tiny models, one thread."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from glide_core.data.source import Batch
from glide_core.training.config import TrainConfig
from glide_core.training.trainer import RunConfig, Trainer

COLOURS = {"red": (1.0, -1.0, -1.0), "green": (-1.0, 1.0, -1.0), "blue": (-1.0, -1.0, 1.0)}


class Colours:
    """A Source of flat images named by their colour, a little brighter or darker each time."""

    names: list[str]

    def __init__(self, count: int = 3) -> None:
        shades = [f"{shade} {name}" for shade in ("", "dark", "pale", "deep") for name in COLOURS]
        self.names = [name.strip() for name in shades[:count]]

    def image(self, index: int) -> Tensor:
        colour = torch.tensor(COLOURS[self.names[index].split()[-1]])
        return (colour * (1 - 0.2 * (index // 3)))[:, None, None]

    def batch(
        self, rng: torch.Generator, size: int, *, side: int, crop: int = 0, distinct: bool = False
    ) -> Batch:
        if distinct:
            chosen = torch.randperm(len(self.names), generator=rng)[:size].tolist()
        else:
            chosen = torch.randint(len(self.names), (size,), generator=rng).tolist()
        side = crop or side
        noise = 0.05 * torch.randn(len(chosen), 3, side, side, generator=rng)
        images = torch.stack([self.image(i).expand(3, side, side) for i in chosen]) + noise
        return Batch(images.clamp(-1, 1), [self.names[i] for i in chosen])


TINY = TrainConfig("base", steps=4, batch=4, warmup=1, bf16=False, size=16, lr=1e-3)


def trainer(config: TrainConfig, folder: Path, start: Path | None = None) -> Trainer:
    """A run without sample grids, which saves at its end only."""
    where = RunConfig(
        folder,
        log_every=1,
        save_every=10**6,
        sample_every=0,
        init_from=[start] if start else [],
    )
    return Trainer(config, where, Colours(12))
