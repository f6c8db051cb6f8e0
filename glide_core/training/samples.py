"""Where a step's randomness comes from: example i of step s is a function of (seed, s, i) alone.

So a batch is the same whether one process draws it whole, several draw their shares of it, or one
draws it in parts; and a resumed run needs no saved random state, whatever number of processes.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glide_core.errors import GlideError

TIMESTEPS = ("uniform", "logit-normal", "low", "lowest", "high", "zero")


class Share(NamedTuple):
    """What one process takes of every batch, in `grad_accum_steps` parts of equal size."""

    batch: int  # pictures of a step, over all processes
    first: int
    size: int
    grad_accum_steps: int

    @staticmethod
    def of(batch: int, rank: int, processes: int, parts: int) -> Share:
        """Divide a batch evenly; GlideError when it cannot be."""
        if batch % (processes * parts):
            raise GlideError(
                f"a batch of {batch} cannot be shared by {processes} processes in {parts} parts: "
                f"expected a multiple of {processes * parts}. Change --batch or --grad-accum."
            )
        size = batch // processes
        return Share(batch, rank * size, size, parts)

    def ranges(self) -> list[range]:
        """The examples of each part, by their place in the batch."""
        step = self.size // self.grad_accum_steps
        end = self.first + self.size
        return [range(i, i + step) for i in range(self.first, end, step)]


def generator(seed: int, step: int, index: int) -> torch.Generator:
    """The randomness of example `index` of a step (-1: of the whole batch)."""
    digest = hashlib.blake2b(f"{seed}/{step}/{index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def timestep_probabilities(name: str, steps: int) -> NDArray[np.float64]:
    """How often each of `steps` timesteps is trained on, [steps], sum 1.

    logit-normal: most often the middle (Esser et al. 2024, mean 0, deviation 1). low, high: falling
    or rising linearly, to 0, with the noise. lowest: the cube of a uniform number, for upsamplers,
    whose last steps are the hard ones. zero: the least noise alone, for an ordinary CLIP. The loss
    is not divided by these: they are a choice of what to learn more often, as `weighting` is of
    what to learn harder.
    """
    u = (np.arange(steps) + 0.5) / steps
    if name == "uniform":
        density = np.ones(steps)
    elif name == "logit-normal":
        density = np.exp(-0.5 * np.log(u / (1 - u)) ** 2) / (u * (1 - u))
    elif name == "zero":
        density = (np.arange(steps) == 0).astype(np.float64)
    elif name == "lowest":
        density = np.diff((np.arange(steps + 1) / steps) ** (1 / 3))
    elif name in ("low", "high"):
        density = u if name == "high" else 1 - u
    else:
        raise GlideError(
            f"unknown distribution of timesteps {name!r}: expected {', '.join(TIMESTEPS)}"
        )
    probabilities: NDArray[np.float64] = density / density.sum()
    return probabilities


class TimestepSampler:
    """Draws timesteps of a named distribution, one at a time."""

    def __init__(self, name: str, steps: int) -> None:
        self.steps = steps
        self._ends = torch.from_numpy(np.cumsum(timestep_probabilities(name, steps)))

    def __call__(self, rng: torch.Generator) -> Tensor:
        """One timestep, int64 []."""
        u = torch.rand((), generator=rng, dtype=torch.float64)
        return torch.searchsorted(self._ends, u, right=True).clamp(max=self.steps - 1)
