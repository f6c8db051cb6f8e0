"""Read values from text: of the command's options and of the cells of a list of prompts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from glide_core.errors import GlideError, shorten
from glide_core.names import MAX_SIDE, SAMPLER_ALIASES, SAMPLERS, TRAINED_STEPS


def _number(
    kind: type[int] | type[float], low: float = -math.inf, high: float = math.inf
) -> Callable[[str], Any]:
    """A function that reads an integer, or a finite number, from low to high."""
    wanted = f"an integer from {low:,} to {high:,}"
    if kind is float:
        wanted = f"a number from {low:g} to {high:g}"
    wanted = wanted.replace(" from -inf", "").replace(" to inf", " up")

    def read(text: str) -> float:
        try:
            value: float = kind(text)
        except ValueError:
            value = math.nan
        if not (low <= value <= high and math.isfinite(value)):
            raise GlideError(f"{shorten(text)!r} is not possible: expected {wanted}")
        return value

    return read


integer, real = partial(_number, int), partial(_number, float)
number, fraction = real(-1e38, 1e38), real(0, 1)  # float32 ends at 3e38
scale, temperature = real(-1000, 1000), real(0, 10)
seed, step_count = integer(0, 2**64 - 1), integer(1, TRAINED_STEPS)


def size(text: str) -> tuple[int, int]:
    """Read WxH, or one number for a square, as (height, width)."""
    width, _, height = text.lower().partition("x")
    try:
        found = int(height or width), int(width)
    except ValueError:
        found = 0, 0
    if any(side % 8 or not 8 <= side <= MAX_SIDE for side in found):
        raise GlideError(
            f"{shorten(text)} is not a possible size: expected multiples of 8 from 8 to "
            f"{MAX_SIDE}, such as 64 or 96x64"
        )
    return found


def sampler(text: str) -> str:
    """Read the name of a sampler, or an alias of one."""
    name = SAMPLER_ALIASES.get(text, text)
    if name not in SAMPLERS:
        raise GlideError(
            f"{shorten(text)!r} is not a sampler: expected one of {', '.join(SAMPLERS)}"
        )
    return name
