"""The settings of a guidance sweep: four axes, their lists as text, every combination."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from glide_core.config import SamplerConfig
from glide_core.diffusion import space_timesteps
from glide_core.errors import GlideError
from glide_core.names import SAMPLERS, TRAINED_STEPS, canonical_sampler

# Fields of Cell, with the field of Grid that holds their values.
AXES = {
    "guidance_scale": "guidance_scales",
    "clip_scale": "clip_scales",
    "steps": "steps",
    "sampler": "samplers",
}
MAX_SCALE = 1000.0
T = TypeVar("T", float, str)


@dataclass(frozen=True)
class Cell:
    """One combination of settings."""

    guidance_scale: float = 3.0  # classifier-free; 1 is off
    clip_scale: float = 0.0  # of the CLIP gradient; 0 is off
    steps: str = "30"  # a number of steps or a respacing string such as "fast27"
    sampler: str = "ddim"

    def settings(self, eta: float = 0.0) -> SamplerConfig:
        """Return the sampler configuration; it does not include CLIP guidance."""
        return SamplerConfig(
            respacing=self.steps, sampler=self.sampler, eta=eta, guidance_scale=self.guidance_scale
        )

    def label(self, axis: str) -> str:
        """Return one setting as a short text: 'cfg 3', 'clip 0.5', '30 steps', 'fast27', 'ddim'."""
        value = getattr(self, axis)
        if axis == "guidance_scale":
            return f"cfg {value:g}"
        if axis == "clip_scale":
            return f"clip {value:g}"
        return f"{value} steps" if axis == "steps" and value.isdigit() else str(value)

    @property
    def name(self) -> str:
        """The stem of a file name: 'cfg3_clip0_steps30_ddim'."""
        steps = self.steps.replace(",", "-")
        scales = f"cfg{self.guidance_scale:.12g}_clip{self.clip_scale:.12g}"
        return f"{scales}_steps{steps}_{self.sampler}"


@dataclass(frozen=True)
class Grid:
    """Values of every axis; GlideError for an empty axis or a repeated value."""

    guidance_scales: tuple[float, ...] = (3.0,)
    clip_scales: tuple[float, ...] = (0.0,)
    steps: tuple[str, ...] = ("30",)
    samplers: tuple[str, ...] = ("ddim",)

    def __post_init__(self) -> None:
        for field in AXES.values():
            if not getattr(self, field):
                raise GlideError(f"{field} is empty. Expected at least one value.")
            _unique(getattr(self, field), field)

    def values(self, axis: str) -> tuple[float, ...] | tuple[str, ...]:
        """Return the values of an axis in order."""
        found: tuple[float, ...] | tuple[str, ...] = getattr(self, AXES[axis])
        return found

    @property
    def first_axis(self) -> str:
        """The first axis with several values: columns of the image grid, curves of the plots."""
        return next((axis for axis in AXES if len(self.values(axis)) > 1), "guidance_scale")

    @property
    def other_axes(self) -> tuple[str, ...]:
        """The remaining axes with several values: rows of the image grid, colours of the plots."""
        return tuple(a for a in AXES if a != self.first_axis and len(self.values(a)) > 1)

    def cells(self) -> list[Cell]:
        """Return every combination; the last axis varies fastest."""
        values = itertools.product(
            self.guidance_scales, self.clip_scales, self.steps, self.samplers
        )
        return [Cell(*one) for one in values]

    def constants(self) -> str:
        """Describe the settings that do not vary: 'clip 0, 30 steps, ddim'."""
        cell = self.cells()[0]
        return ", ".join(cell.label(axis) for axis in AXES if len(self.values(axis)) == 1)


def read_scales(text: str, name: str) -> tuple[float, ...]:
    """Read '1, 2, 3.5' as numbers from 0 to 1000. name: what the list is called in an error."""
    return _unique(tuple(_scale(part, name) for part in _split(text, name)), name)


def read_steps(text: str, name: str) -> tuple[str, ...]:
    """Read '10, 30, fast27' as step counts and respacing strings.

    Respacing sections contain commas ('10,10,3,2,2'): if the text contains a semicolon, semicolons
    separate the entries.
    """
    found = []
    for part in _split(text, name):
        spec = part.replace(" ", "")
        try:
            kept = len(space_timesteps(TRAINED_STEPS, spec))
        except GlideError as error:
            raise GlideError(f"{name}: {error}") from error
        if not 1 <= kept <= TRAINED_STEPS:
            raise GlideError(f"{name}: {part} is out of range. Allowed: 1 to {TRAINED_STEPS} steps")
        found.append(str(int(spec)) if spec.isdigit() else spec)
    return _unique(tuple(found), name)


def read_samplers(text: str, name: str) -> tuple[str, ...]:
    """Read 'ddim, ddpm' as names of samplers."""
    found = [canonical_sampler(part) for part in _split(text, name)]
    for part in found:
        if part not in SAMPLERS:
            raise GlideError(f"{name}: unknown sampler {part!r}. Allowed: {', '.join(SAMPLERS)}")
    return _unique(tuple(found), name)


# The readers in the order of the axes.
READERS = (read_scales, read_scales, read_steps, read_samplers)


def read_grid(lists: Sequence[str], names: Sequence[str]) -> Grid:
    """Read four lists in the order of the axes. names: what each is called in an error."""
    scales, clip_scales, steps, samplers = lists
    return Grid(
        read_scales(scales, names[0]),
        read_scales(clip_scales, names[1]),
        read_steps(steps, names[2]),
        read_samplers(samplers, names[3]),
    )


def _split(text: str, name: str) -> list[str]:
    parts = [part.strip() for part in text.split(";" if ";" in text else ",")]
    if parts[-1] == "":
        parts.pop()  # a trailing comma is allowed
    if not parts or "" in parts:
        raise GlideError(f"{name}: {text!r} is not a list of values separated by commas")
    return parts


def _scale(part: str, name: str) -> float:
    try:
        value = float(part)
    except ValueError:
        value = math.nan
    if not 0 <= value <= MAX_SCALE:  # also false for NaN
        raise GlideError(
            f"{name}: {part!r} is not a scale. Allowed: numbers from 0 to {MAX_SCALE:g}, separated "
            "by commas"
        )
    return value


def _unique(values: tuple[T, ...], name: str) -> tuple[T, ...]:
    for value in values:
        if values.count(value) > 1:
            raise GlideError(f"{name}: {value} is listed twice. Expected each value once")
    return values
