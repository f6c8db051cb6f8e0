"""Diffusion: schedules, noise, and every sampler under one name each."""

from __future__ import annotations

import torch
from torch import Tensor

from glide_core.diffusion.noise import SeededNoise
from glide_core.diffusion.plms import sample_plms
from glide_core.diffusion.samplers import (
    ddim_reverse_step,
    ddim_step,
    invert_ddim,
    p_step,
    sample_ancestral,
    sample_ddim,
)
from glide_core.diffusion.schedule import Schedule, space_timesteps
from glide_core.diffusion.solvers import SOLVERS, sample_solver
from glide_core.diffusion.types import (
    ConditionFn,
    DenoisedFn,
    Denoiser,
    NoiseSource,
    Prediction,
    StepCallback,
)
from glide_core.errors import GlideError

__all__ = [
    "SAMPLERS",
    "SOLVERS",
    "Schedule",
    "SeededNoise",
    "ddim_reverse_step",
    "ddim_step",
    "invert_ddim",
    "p_step",
    "sample",
    "sample_ancestral",
    "sample_ddim",
    "sample_plms",
    "sample_solver",
    "space_timesteps",
]

SAMPLERS: tuple[str, ...] = ("ancestral", "ddim", "plms", *SOLVERS)


def sample(
    name: str,
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    *,
    noise: NoiseSource,
    eta: float = 0.0,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
    cond_fn: ConditionFn | None = None,
    callback: StepCallback | None = None,
    start: int | None = None,
) -> Tensor:
    """Sample x0 [B, C, H, W], float32, from x_T of the same shape.

    name: one of `SAMPLERS`. noise: drawn from by the stochastic ones. eta: DDIM's share of fresh
    noise, 0 to 1; other samplers ignore it. start: begin at this index of the schedule, x_T being a
    picture noised to it (SDEdit: `schedule.q_sample(x0, start, noise)`); default: the noisiest.
    GlideError for an unknown name, and for a model that gives anything but finite numbers.
    """
    options = {
        "clip_denoised": clip_denoised,
        "denoised_fn": denoised_fn,
        "cond_fn": cond_fn,
        "callback": callback,
        "start": start,
    }
    denoiser = _finite(denoiser)
    if name == "ancestral":
        return sample_ancestral(denoiser, x_T, schedule, noise=noise, **options)  # type: ignore[arg-type]
    if name == "ddim":
        return sample_ddim(denoiser, x_T, schedule, noise=noise, eta=eta, **options)  # type: ignore[arg-type]
    if name == "plms":
        return sample_plms(denoiser, x_T, schedule, **options)  # type: ignore[arg-type]
    if name in SOLVERS:
        return sample_solver(name, denoiser, x_T, schedule, noise=noise, **options)  # type: ignore[arg-type]
    raise GlideError(f"unknown sampler {name!r}: expected one of {', '.join(SAMPLERS)}")


def _finite(denoiser: Denoiser) -> Denoiser:
    def checked(x_t: Tensor, t: Tensor, /) -> Prediction:
        prediction = denoiser(x_t, t)
        if not torch.isfinite(prediction.eps).all():
            raise GlideError(
                f"the model's output at timestep {int(t[0])} holds NaN or infinity where numbers "
                "were expected: its weights are damaged or too large for half precision, or "
                "guidance is far too strong. Load another checkpoint, use float32, or lower "
                "cfg and CLIP's scale"
            )
        return prediction

    return checked
