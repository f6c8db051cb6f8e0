"""Diffusion: schedules, noise, the denoiser, and every sampler under one name each."""

from __future__ import annotations

from torch import Tensor

from glide_core.diffusion.denoiser import Denoiser, FiniteCheck, warn_if_saturated
from glide_core.diffusion.noise import SeededNoise
from glide_core.diffusion.samplers import (
    ddim_reverse_step,
    ddim_step,
    ddpm_step,
    invert_ddim,
    sample_ddim,
    sample_ddpm,
)
from glide_core.diffusion.schedule import Schedule, space_timesteps
from glide_core.diffusion.second_order import sample_heun, sample_plms
from glide_core.diffusion.solvers import sample_solver
from glide_core.diffusion.types import (
    ConditionFn,
    DenoisedFn,
    EpsModel,
    NoiseSource,
    StepCallback,
)
from glide_core.errors import GlideError
from glide_core.names import SAMPLERS, canonical_sampler

__all__ = [
    "Denoiser",
    "Schedule",
    "SeededNoise",
    "ddim_reverse_step",
    "ddim_step",
    "ddpm_step",
    "invert_ddim",
    "sample",
    "sample_ddim",
    "sample_ddpm",
    "sample_heun",
    "sample_plms",
    "sample_solver",
    "space_timesteps",
]

_EULER_ETA = {"euler": 0.0, "euler_ancestral": 1.0}  # both are DDIM, see sample_ddim


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
    name = canonical_sampler(name)
    if name not in SAMPLERS:
        raise GlideError(f"unknown sampler {name!r}: expected one of {', '.join(SAMPLERS)}")
    check = FiniteCheck(model)
    score_fn = None if name == "ddpm" else cond_fn
    denoiser = Denoiser(check, schedule, clip_denoised, denoised_fn, score_fn, clip_guided)
    if name == "ddpm":
        x = sample_ddpm(
            denoiser, x_T, schedule, noise=noise, cond_fn=cond_fn, callback=callback, start=start
        )
    elif name == "ddim" or name in _EULER_ETA:
        eta = _EULER_ETA.get(name, eta)
        x = sample_ddim(
            denoiser, x_T, schedule, noise=noise, eta=eta, callback=callback, start=start
        )
    elif name == "plms":
        x = sample_plms(denoiser, x_T, schedule, callback=callback, start=start)
    elif name == "heun":
        x = sample_heun(denoiser, x_T, schedule, callback=callback, start=start)
    else:
        x = sample_solver(
            name, denoiser, x_T, schedule, noise=noise, callback=callback, start=start
        )
    check.raise_for(x)
    if cond_fn is not None:
        warn_if_saturated(x)
    return x
