"""The settings of a guidance sweep: four axes, their lists as text, every combination."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glide_core.config import SamplerConfig
from glide_core.diffusion.schedule import space_timesteps
from glide_core.errors import GlideError, shorten
from glide_core.names import SAMPLERS, TRAINED_STEPS, canonical_sampler

MAX_SCALE = 1000.0
AXES = ("guidance_scale", "clip_scale", "steps", "sampler")  # fields of Cell and of Grid


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
        if axis == "guidance_scale":
            return f"cfg {self.guidance_scale:g}"
        if axis == "clip_scale":
            return f"clip {self.clip_scale:g}"
        value = str(getattr(self, axis))
        return f"{value} steps" if value.isdigit() else value

    @property
    def name(self) -> str:
        """The stem of a file name: 'cfg3_clip0_steps30_ddim'."""
        steps = self.steps.replace(",", "-")
        scales = f"cfg{self.guidance_scale:.12g}_clip{self.clip_scale:.12g}"
        return f"{scales}_steps{steps}_{self.sampler}"


@dataclass(frozen=True)
class Grid:
    """Values of every axis, at least one each."""

    guidance_scale: tuple[float, ...] = (3.0,)
    clip_scale: tuple[float, ...] = (0.0,)
    steps: tuple[str, ...] = ("30",)
    sampler: tuple[str, ...] = ("ddim",)

    def values(self, axis: str) -> tuple[Any, ...]:
        found: tuple[Any, ...] = getattr(self, axis)
        return found

    @property
    def varying(self) -> list[str]:
        """The axes with several values. The first one gives the columns of the image grid and the
        curves of the plots, the others rows and colours."""
        return [axis for axis in AXES if len(self.values(axis)) > 1]

    @property
    def first_axis(self) -> str:
        return self.varying[0] if self.varying else AXES[0]

    def cells(self) -> list[Cell]:
        """Return every combination; the last axis varies fastest."""
        return [Cell(*values) for values in itertools.product(*map(self.values, AXES))]

    def constants(self) -> str:
        """Describe the settings that do not vary: 'clip 0, 30 steps, ddim'."""
        cell = self.cells()[0]
        return ", ".join(cell.label(axis) for axis in AXES if axis not in self.varying)


def read_grid(lists: Sequence[str], names: Sequence[str]) -> Grid:
    """Read four lists in the order of AXES. names: what each is called in an error."""
    return Grid(*map(read_list, AXES, lists, names))


def read_list(axis: str, text: str, name: str) -> tuple[Any, ...]:
    """Read '1, 2, 3.5' as values of an axis; GlideError begins with `name`.

    Respacing sections contain commas ('10,10,3,2,2'): if the text contains a semicolon, semicolons
    separate the entries.
    """
    parts = [part.strip() for part in text.split(";" if ";" in text else ",")]
    if parts[-1] == "":
        parts.pop()  # a trailing comma is allowed
    if not parts or "" in parts:
        raise GlideError(
            f"{name}: {shorten(repr(text))} is not a list of values separated by commas"
        )
    try:
        found = [_READERS[axis](part) for part in parts]
    except GlideError as error:
        raise GlideError(f"{name}: {error}") from error
    if twice := [one for one in found if found.count(one) > 1]:
        raise GlideError(f"{name}: {twice[0]} is listed twice. Expected each value once")
    return tuple(found)


def _scale(part: str) -> float:
    try:
        value = float(part)
    except ValueError:
        value = math.nan
    if not 0 <= value <= MAX_SCALE:  # also false for NaN
        raise GlideError(
            f"{shorten(repr(part))} is not a scale. Allowed: numbers from 0 to {MAX_SCALE:g}, "
            "separated by commas"
        )
    return value


def _steps(part: str) -> str:
    spec = part.replace(" ", "")
    space_timesteps(TRAINED_STEPS, spec)
    return str(int(spec)) if spec.isdigit() else spec


def _sampler(part: str) -> str:
    if canonical_sampler(part) not in SAMPLERS:
        raise GlideError(f"unknown sampler {shorten(repr(part))}. Allowed: {', '.join(SAMPLERS)}")
    return canonical_sampler(part)


_READERS: Mapping[str, Callable[[str], float | str]] = {
    "guidance_scale": _scale,
    "clip_scale": _scale,
    "steps": _steps,
    "sampler": _sampler,
}
