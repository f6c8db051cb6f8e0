"""Diffusion: schedules, noise, the denoiser, and every sampler under one name each."""

from __future__ import annotations

from torch import Tensor

from glide_core.diffusion.denoiser import Denoiser, FiniteCheck, warn_if_saturated
from glide_core.diffusion.samplers import ddim, ddpm, heun, plms, sample_loop
from glide_core.diffusion.schedule import Schedule
from glide_core.diffusion.solvers import multistep, solver_indices
from glide_core.diffusion.types import (
    ConditionFn,
    DenoisedFn,
    EpsModel,
    NoiseSource,
    SeededNoise,
    StepCallback,
)
from glide_core.errors import GlideError
from glide_core.names import SAMPLER_ALIASES, SAMPLERS

__all__ = ["Denoiser", "Schedule", "SeededNoise", "sample"]

_EULER_ETA = {"euler": 0.0, "euler_ancestral": 1.0}  # both are DDIM, see `ddim`


def sample(
    name: str,
    model: EpsModel,
    x_T: Tensor,
    schedule: Schedule,
    *,
    noise: NoiseSource,
    eta: float = 0.0,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
    cond_fn: ConditionFn | None = None,
    clip_guided: bool = True,
    callback: StepCallback | None = None,
    start: int | None = None,
) -> Tensor:
    """Sample x0 [B, C, H, W], float32, from x_T of the same shape.

    name: one of `glide_core.names.SAMPLERS`, where model calls are listed too, or an alias.
    noise: used by the stochastic ones. eta: DDIM's share of fresh noise, 0 to 1; other samplers
    ignore it. cond_fn: a guide, by condition-mean under ddpm and condition-score elsewhere.
    clip_denoised, denoised_fn, clip_guided: see `Denoiser`. start: begin at this index of the
    schedule, x_T being an image noised to it (SDEdit: `schedule.q_sample(x0, start, noise)`);
    default: the noisiest.
    GlideError for an unknown name, and for NaN or infinity in the model's output or the result. A
    warning is logged if a guide saturates the result.
    """
    name = SAMPLER_ALIASES.get(name, name)
    if name not in SAMPLERS:
        raise GlideError(f"unknown sampler {name!r}: expected one of {', '.join(SAMPLERS)}")
    check = FiniteCheck(model)
    score_fn = None if name == "ddpm" else cond_fn
    denoiser = Denoiser(check, schedule, clip_denoised, denoised_fn, score_fn, clip_guided)
    start = len(schedule) - 1 if start is None else start
    if not 0 <= start < len(schedule):
        raise GlideError(f"the start is step {start}: expected 0 to {len(schedule) - 1}")
    indices = range(start, -1, -1)
    if name == "ddpm":
        step = ddpm(denoiser, schedule, noise, cond_fn)
    elif name == "ddim" or name in _EULER_ETA:
        step = ddim(denoiser, schedule, noise, _EULER_ETA.get(name, eta))
    elif name == "plms":
        step = plms(denoiser, schedule)
    elif name == "heun":
        step = heun(denoiser, schedule)
    else:
        indices = solver_indices(name, indices)
        step = multistep(name, denoiser, schedule, indices, noise)
    x = sample_loop(step, x_T, schedule, indices, callback)
    check.raise_for(x)
    if cond_fn is not None:
        warn_if_saturated(x)
    return x
