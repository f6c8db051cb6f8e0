"""The noise schedules that models are trained on, as betas in float64."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from glide_core.errors import GlideError

Table = NDArray[np.float64]

NOISE_SCHEDULES = ("linear", "squaredcos_cap_v2")


def named_betas(noise_schedule: str, steps: int = 1000) -> Table:
    """Return the betas of "linear" (Ho et al. 2020) or "squaredcos_cap_v2" (Nichol, Dhariwal 2021).

    Both keep their shape for any number of steps; GlideError for another name.
    """
    if steps < 1:
        raise GlideError(f"a schedule of {steps} steps is empty: expected 1 or more")
    if noise_schedule == "linear":
        scale = 1000 / steps
        return np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)
    if noise_schedule == "squaredcos_cap_v2":
        angles = [(i / steps + 0.008) / 1.008 * math.pi / 2 for i in range(steps + 1)]
        alphas_cumprod = np.array([math.cos(angle) ** 2 for angle in angles], dtype=np.float64)
        return np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], 0.999)
    raise GlideError(
        f"unknown noise schedule {noise_schedule!r}: expected one of {', '.join(NOISE_SCHEDULES)}"
    )
