"""Respacing, and the tables of a schedule in float64, exactly the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glide_core.errors import GlideError, shorten
from glide_core.noise_schedules import Table, named_betas


def space_timesteps(num_timesteps: int, spec: str) -> list[int]:
    """Choose ascending original timesteps; the reference's respacing language.

    spec: "" keeps all; "N" strides N steps evenly; "a,b,c" takes that many from each of as many
        equal sections, low noise first; "ddimN" is DDIM's integer stride; "fast27" is the
        paper's upsampling schedule. GlideError for anything else.
    """
    spec = spec.strip()
    if spec == "fast27":
        steps = set(space_timesteps(num_timesteps, "10,10,3,2,2"))
        # "Help reduce DDIM artifacts from noisiest timesteps" (reference): 997 in place of 999
        return sorted(steps - {num_timesteps - 1} | {num_timesteps - 3})
    if spec.startswith("ddim"):
        count = _count(spec.removeprefix("ddim"), spec)
        for stride in range(1, num_timesteps):
            strided = range(0, num_timesteps, stride)
            if len(strided) == count:
                return list(strided)
        raise GlideError(
            f"no whole stride takes exactly {count} of {num_timesteps} steps: for 'ddim' take a "
            f"count such as 10, 25, 27, 50 or 100, or write plain '{count}' for uneven strides"
        )
    counts = [_count(part, spec) for part in spec.split(",")] if spec else [num_timesteps]
    if not any(counts):
        raise GlideError(f"respacing {shorten(repr(spec))} keeps no step: expected 1 or more")
    return sorted(set(_sections(num_timesteps, counts, spec)))


def _count(text: str, spec: str) -> int:
    if not text.strip().isdecimal() or len(text) > 9:
        raise GlideError(
            f"unknown respacing {shorten(repr(spec))}: expected a number of steps such as '100', "
            "'ddim50', 'fast27', steps per section such as '10,10,3,2,2', or nothing for every step"
        )
    return int(text)


def _sections(num_timesteps: int, counts: Sequence[int], spec: str) -> list[int]:
    size_per, extra = divmod(num_timesteps, len(counts))
    start, steps = 0, []
    for i, count in enumerate(counts):
        size = size_per + (1 if i < extra else 0)
        if size < count:
            raise GlideError(
                f"respacing {shorten(repr(spec))} asks for {count} steps of a section of {size}: "
                f"expected at most {size}"
            )
        stride = 1.0 if count <= 1 else (size - 1) / (count - 1)
        position = 0.0
        for _ in range(count):
            # accumulated sum and Python's rounding of halves to even: both decide some steps
            steps.append(start + round(position))
            position += stride
        start += size
    return steps


@dataclass(frozen=True, eq=False)
class Schedule:
    """Diffusion tables over the kept timesteps, indexed 0 (clean) to `len(schedule) - 1` (noise).

    An *index* counts kept steps; a *timestep* t is original (0..999), what models are given. In a
    schedule that was not respaced, `full`, the two are equal.
    """

    betas: Table  # [N]
    timestep_map: NDArray[np.int64]  # [N] original timestep of each index
    respaced_from: Schedule | None = None
    alphas_cumprod: Table = field(init=False)
    alphas_cumprod_prev: Table = field(init=False)
    alphas_cumprod_next: Table = field(init=False)
    sqrt_alphas_cumprod: Table = field(init=False)
    sqrt_one_minus_alphas_cumprod: Table = field(init=False)
    sqrt_recip_alphas_cumprod: Table = field(init=False)
    sqrt_recipm1_alphas_cumprod: Table = field(init=False)  # sigma = sqrt((1 - ab) / ab)
    posterior_variance: Table = field(init=False)
    posterior_mean_coef1: Table = field(init=False)
    posterior_mean_coef2: Table = field(init=False)
    log_betas: Table = field(init=False)
    _on_devices: dict[torch.device, DeviceTables] = field(
        default_factory=dict, init=False, repr=False
    )

    @staticmethod
    def named(noise_schedule: str, steps: int = 1000) -> Schedule:
        return Schedule(named_betas(noise_schedule, steps), np.arange(steps, dtype=np.int64))

    def respaced(self, respacing: str | int) -> Schedule:
        """Keep the steps of a respacing string ("" keeps all) or of a plain number of steps."""
        full = self.full
        steps = space_timesteps(len(full), str(respacing))
        if len(steps) == 1:
            # The reference's "1" keeps t = 0, where nothing could be drawn, and then fails with an
            # IndexError. Here the one step starts where the noise does.
            steps = [len(full) - 1]
        kept = full.alphas_cumprod[steps]
        betas = 1 - kept / np.append(1.0, kept[:-1])
        return Schedule(betas, np.array(steps, dtype=np.int64), full)

    def __post_init__(self) -> None:
        ab = np.cumprod(1.0 - self.betas, dtype=np.float64)
        prev = np.append(1.0, ab[:-1])
        vars(self).update(  # the dataclass is frozen
            alphas_cumprod=ab,
            alphas_cumprod_prev=prev,
            alphas_cumprod_next=np.append(ab[1:], 0.0),
            sqrt_alphas_cumprod=np.sqrt(ab),
            sqrt_one_minus_alphas_cumprod=np.sqrt(1.0 - ab),
            sqrt_recip_alphas_cumprod=np.sqrt(1.0 / ab),
            sqrt_recipm1_alphas_cumprod=np.sqrt(1.0 / ab - 1),
            posterior_variance=self.betas * (1.0 - prev) / (1.0 - ab),
            posterior_mean_coef1=self.betas * np.sqrt(prev) / (1.0 - ab),
            posterior_mean_coef2=(1.0 - prev) * np.sqrt(1.0 - self.betas) / (1.0 - ab),
            log_betas=np.log(self.betas),
        )

    @property
    def full(self) -> Schedule:
        """The schedule before respacing: its tables are indexed by original timesteps."""
        return self if self.respaced_from is None else self.respaced_from

    def __len__(self) -> int:
        return len(self.betas)

    @property
    def posterior_log_variance_clipped(self) -> Table:
        """Log posterior variance, entry 0 (log 0) replaced by entry 1 as in the reference."""
        if len(self) < 2:
            raise GlideError("a single step has no posterior variance: expected 2 steps or more")
        variance = self.posterior_variance
        return cast(Table, np.log(np.append(variance[1], variance[1:])))

    def timestep(self, index: int) -> int:
        """Original timestep of an index."""
        return int(self.timestep_map[index])

    def on(self, device: torch.device) -> DeviceTables:
        """The tables as float32 tensors on a device; copied there once, so that no step waits."""
        return self._on_devices.setdefault(device, DeviceTables(self, device))

    def q_sample(self, x0: Tensor, index: int | Tensor, noise: Tensor) -> Tensor:
        """Noise clean x0 [B, ...] to an index, one for all or one per image [B] on x0's device."""
        tables, shape = self.on(x0.device), (-1,) + (1,) * (x0.ndim - 1)
        a = tables.sqrt_alphas_cumprod[index].reshape(shape)
        s = tables.sqrt_one_minus_alphas_cumprod[index].reshape(shape)
        return a * x0 + s * noise

    def alpha_sigma(self, t: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
        """sqrt(ab) and sqrt(1 - ab) at original timesteps t [B], float32 [B, 1, ...]."""
        tables, shape = self.full.on(t.device), t.shape + (1,) * (ndim - t.ndim)
        return (
            tables.sqrt_alphas_cumprod[t].reshape(shape),
            tables.sqrt_one_minus_alphas_cumprod[t].reshape(shape),
        )

    def sigma(self, t: Tensor | int) -> Tensor:
        """sqrt((1 - ab) / ab) at original timesteps, float32 of t's shape, on t's device."""
        t = torch.as_tensor(t)
        return self.full.on(t.device).sqrt_recipm1_alphas_cumprod[t]


class DeviceTables:
    """A schedule's tables as float32 tensors [N] on one device, under the schedule's names.

    An entry is looked up with a plain number, or with indices on the device: neither waits for it.
    float64 tables rounded to float32 where they are used are the precision of the reference.
    """

    def __init__(self, schedule: Schedule, device: torch.device) -> None:
        self._schedule, self._device = schedule, device

    def __getattr__(self, name: str) -> Tensor:  # only for what is not there yet
        if name.startswith("_"):
            raise AttributeError(name)
        with torch.inference_mode(False):  # training uses the same tables
            table = torch.from_numpy(getattr(self._schedule, name)).float().to(self._device)
        setattr(self, name, table)
        return table
