"""What a sweep runs over: four axes, their lists as people type them, every combination."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from glide_core.config import SamplerConfig
from glide_core.diffusion import SAMPLERS, space_timesteps
from glide_core.errors import GlideError

AXES = ("guidance_scale", "clip_scale", "steps", "sampler")  # as fields of Cell
LARGEST_SCALE = 1000.0
TRAINED_STEPS = 1000
T = TypeVar("T", float, str)


@dataclass(frozen=True)
class Cell:
    """One combination of settings."""

    guidance_scale: float = 3.0  # classifier-free; 1 is off
    clip_scale: float = 0.0  # of the CLIP's gradient; 0 is off
    steps: str = "30"  # a number of steps, or a respacing string such as "fast27"
    sampler: str = "ddim"

    def settings(self, eta: float = 0.0) -> SamplerConfig:
        """Give the cell as the pipeline takes it; CLIP guidance is not a part of that."""
        return SamplerConfig(
            respacing=self.steps, sampler=self.sampler, eta=eta, guidance_scale=self.guidance_scale
        )

    def label(self, axis: str) -> str:
        """Say one setting in a word or two: 'cfg 3', 'clip 0.5', '30 steps', 'fast27', 'ddim'."""
        value = getattr(self, axis)
        if axis == "guidance_scale":
            return f"cfg {value:g}"
        if axis == "clip_scale":
            return f"clip {value:g}"
        return f"{value} steps" if axis == "steps" and value.isdigit() else str(value)

    @property
    def name(self) -> str:
        """A file name's stem: 'cfg3_clip0_steps30_ddim'."""
        steps = self.steps.replace(",", "-")
        scales = f"cfg{self.guidance_scale:.12g}_clip{self.clip_scale:.12g}"
        return f"{scales}_steps{steps}_{self.sampler}"


@dataclass(frozen=True)
class Grid:
    """Values of every axis; GlideError for an empty axis or a value that is there twice."""

    guidance_scales: tuple[float, ...] = (3.0,)
    clip_scales: tuple[float, ...] = (0.0,)
    steps: tuple[str, ...] = ("30",)
    samplers: tuple[str, ...] = ("ddim",)

    def __post_init__(self) -> None:
        for axis in AXES:
            values = self.values(axis)
            if not values:
                raise GlideError(f"the sweep's list of {axis} is empty: expected 1 value or more")
            if len(set(values)) < len(values):
                twice = next(v for v in values if values.count(v) > 1)
                raise GlideError(f"{axis} {twice} is in the sweep's list twice: name it once")

    def values(self, axis: str) -> tuple[float, ...] | tuple[str, ...]:
        """Give an axis' values in order."""
        if axis == "guidance_scale":
            return self.guidance_scales
        if axis == "clip_scale":
            return self.clip_scales
        return self.steps if axis == "steps" else self.samplers

    @property
    def varied(self) -> tuple[str, ...]:
        """The axes with more than one value."""
        return tuple(axis for axis in AXES if len(self.values(axis)) > 1)

    @property
    def first_axis(self) -> str:
        """The axis that a picture grid's columns and a plot's curves follow."""
        return (*self.varied, AXES[0])[0]

    @property
    def other_axes(self) -> tuple[str, ...]:
        """The varied axes but the first: a picture grid's rows, a plot's colours."""
        return tuple(axis for axis in self.varied if axis != self.first_axis)

    def cells(self) -> list[Cell]:
        """Every combination, the last axis running fastest."""
        product = itertools.product(
            self.guidance_scales, self.clip_scales, self.steps, self.samplers
        )
        return [Cell(*values) for values in product]

    def constants(self) -> str:
        """Say what does not vary: 'clip 0, 30 steps, ddim'."""
        cell = self.cells()[0]
        return ", ".join(cell.label(axis) for axis in AXES if axis not in self.varied)


def read_grid(
    guidance_scales: str, clip_scales: str, steps: str, samplers: str, *, names: Sequence[str]
) -> Grid:
    """Read four lists as people type them; names: what each is called in an error."""
    return Grid(
        read_scales(guidance_scales, names[0]),
        read_scales(clip_scales, names[1]),
        read_steps(steps, names[2]),
        read_samplers(samplers, names[3]),
    )


def read_scales(text: str, name: str) -> tuple[float, ...]:
    """Read '1, 2, 3.5' as numbers from 0 to 1000."""
    return _once([_scale(part, name) for part in _parts(text, name, "1, 2, 3, 5")], name)


def read_steps(text: str, name: str) -> tuple[str, ...]:
    """Read '10, 30, fast27' as step counts and respacing strings.

    Sections are separated by commas themselves ('10,10,3,2,2'): with a semicolon in the text,
    that is what separates the entries.
    """
    found = []
    for part in _parts(text, name, "10, 30, fast27"):
        spec = part.replace(" ", "")
        try:
            kept = len(space_timesteps(TRAINED_STEPS, spec))
        except GlideError as error:
            raise GlideError(f"{name}: {error}") from error
        if not 1 <= kept <= TRAINED_STEPS:
            raise GlideError(f"{name}: {part} is out of range: expected 1 to {TRAINED_STEPS} steps")
        found.append(str(int(spec)) if spec.isdigit() else spec)
    return _once(found, name)


def read_samplers(text: str, name: str) -> tuple[str, ...]:
    """Read 'ddim, ancestral' as names of samplers."""
    found = _parts(text, name, "ddim, ancestral")
    for part in found:
        if part not in SAMPLERS:
            known = ", ".join(SAMPLERS)
            raise GlideError(f"{name}: there is no sampler {part!r}: expected some of {known}")
    return _once(found, name)


def _parts(text: str, name: str, example: str) -> list[str]:
    mark = ";" if ";" in text else ","
    parts = [part.strip() for part in text.split(mark)]
    if parts and parts[-1] == "":
        parts.pop()  # '1, 2,' as it stands while someone types
    if not parts or "" in parts:
        raise GlideError(
            f"{name}: {text!r} is no list: expected values with commas between them, such as "
            f"{example!r}"
        )
    return parts


def _scale(part: str, name: str) -> float:
    try:
        value = float(part)
    except ValueError:
        value = math.nan
    if not 0 <= value <= LARGEST_SCALE:  # NaN is not in it either
        raise GlideError(
            f"{name}: {part!r} is no scale: expected numbers from 0 to {LARGEST_SCALE:g} with "
            "commas between them, such as '1, 2, 3, 5'"
        )
    return value


def _once(values: list[T], name: str) -> tuple[T, ...]:
    for value in values:
        if values.count(value) > 1:
            raise GlideError(f"{name}: {value} is in the list twice: name it once")
    return tuple(values)
