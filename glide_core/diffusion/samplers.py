"""The reference's samplers, exactly: ancestral, DDIM and its inversion.

Steps are pure functions of (x_t, index); loops call them from the noisiest index to 0. Sampler
state is float32, tables are float64 rounded to float32 per step, as in the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from glide_core.diffusion.schedule import Schedule, scalar
from glide_core.diffusion.types import (
    ConditionFn,
    DenoisedFn,
    Denoiser,
    NoiseSource,
    StepCallback,
    StepInfo,
)
from glide_core.errors import GlideError


class Step(NamedTuple):
    """What one step gives."""

    x_prev: Tensor  # [B, C, H, W], the next state (x_{t+1} for a reverse step)
    x0: Tensor  # the clean estimate that the step used
    clipped_fraction: Tensor  # scalar: share of x0's values at or beyond -1 and 1


class Estimate(NamedTuple):
    """The model's view of x_t: p(x_{t-1} | x_t) and the clean picture."""

    mean: Tensor
    log_variance: Tensor | None  # None in a one-step schedule without a variance
    x0: Tensor


def predict_x0(x_t: Tensor, eps: Tensor, index: int, schedule: Schedule) -> Tensor:
    """x0 = x_t / sqrt(ab) - sqrt(1 / ab - 1) * eps."""
    return (
        scalar(schedule.sqrt_recip_alphas_cumprod, index) * x_t
        - scalar(schedule.sqrt_recipm1_alphas_cumprod, index) * eps
    )


def predict_eps(x_t: Tensor, x0: Tensor, index: int, schedule: Schedule) -> Tensor:
    """The noise that leads from x0 to x_t."""
    return (scalar(schedule.sqrt_recip_alphas_cumprod, index) * x_t - x0) / scalar(
        schedule.sqrt_recipm1_alphas_cumprod, index
    )


def process_x0(x0: Tensor, clip_denoised: bool, denoised_fn: DenoisedFn | None) -> Tensor:
    """Change, then clip an x0 estimate, in the reference's order."""
    if denoised_fn is not None:
        x0 = denoised_fn(x0)
    return x0.clamp(-1, 1) if clip_denoised else x0


def timesteps(x_t: Tensor, index: int, schedule: Schedule) -> Tensor:
    """Original timesteps [B] int64 for a whole batch at one index."""
    return torch.full((len(x_t),), schedule.timestep(index), dtype=torch.int64, device=x_t.device)


def q_posterior_mean(x0: Tensor, x_t: Tensor, index: int, schedule: Schedule) -> Tensor:
    """Mean of q(x_{t-1} | x_t, x0)."""
    return (
        scalar(schedule.posterior_mean_coef1, index) * x0
        + scalar(schedule.posterior_mean_coef2, index) * x_t
    )


def p_mean_variance(
    denoiser: Denoiser,
    x_t: Tensor,
    index: int,
    schedule: Schedule,
    *,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
) -> Estimate:
    """Ask the model for p(x_{t-1} | x_t), mean and log variance, and for x0."""
    eps, fraction = denoiser(x_t, timesteps(x_t, index, schedule))
    log_variance = None
    if len(schedule) > 1:
        # Both ends use the respaced betas and the fraction is not clamped (reference). Without a
        # learned variance the posterior's is used, "fixed small" in Ho et al. 2020.
        low = scalar(schedule.posterior_log_variance_clipped, index)
        high = scalar(np.log(schedule.betas), index)
        fraction = torch.zeros_like(x_t) if fraction is None else (fraction + 1) / 2
        log_variance = fraction * high + (1 - fraction) * low
    x0 = process_x0(predict_x0(x_t, eps, index, schedule), clip_denoised, denoised_fn)
    return Estimate(q_posterior_mean(x0, x_t, index, schedule), log_variance, x0)


def condition_x0(
    cond_fn: ConditionFn, x_t: Tensor, x0: Tensor, index: int, schedule: Schedule
) -> Tensor:
    """Shift an x0 estimate by a guide: eps - sqrt(1 - ab) * gradient (Song et al. 2020).

    The reference neither clips the result again nor applies denoised_fn to it; nor do we.
    """
    alpha_bar = scalar(schedule.alphas_cumprod, index)
    gradient = cond_fn(x_t, timesteps(x_t, index, schedule), x0).float()
    eps = predict_eps(x_t, x0, index, schedule) - (1 - alpha_bar).sqrt() * gradient
    return predict_x0(x_t, eps, index, schedule)


def p_step(
    denoiser: Denoiser,
    x_t: Tensor,
    index: int,
    schedule: Schedule,
    noise: Tensor | None = None,
    *,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
    cond_fn: ConditionFn | None = None,
) -> Step:
    """Take one ancestral step with the model's variance; noise may be None at index 0.

    cond_fn moves the mean by variance * gradient, the gradient taken at x_t (Sohl-Dickstein et al.
    2015); x0 is not changed by it.
    """
    mean, log_variance, x0 = p_mean_variance(
        denoiser, x_t, index, schedule, clip_denoised=clip_denoised, denoised_fn=denoised_fn
    )
    if log_variance is not None:
        if cond_fn is not None:
            gradient = cond_fn(x_t, timesteps(x_t, index, schedule), x0).float()
            mean = mean + log_variance.exp() * gradient
        if index > 0 and noise is not None:
            mean = mean + torch.exp(0.5 * log_variance) * noise
    return make_step(mean, x0)


def ddim_step(
    denoiser: Denoiser,
    x_t: Tensor,
    index: int,
    schedule: Schedule,
    noise: Tensor | None = None,
    *,
    eta: float = 0.0,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
    cond_fn: ConditionFn | None = None,
) -> Step:
    """Take one DDIM step (Song et al. 2020, equation 12); noise may be None where eta is 0."""
    x0 = guided_x0(denoiser, x_t, index, schedule, clip_denoised, denoised_fn, cond_fn)
    eps = predict_eps(x_t, x0, index, schedule)  # of the processed x0
    alpha_bar = scalar(schedule.alphas_cumprod, index)
    alpha_bar_prev = scalar(schedule.alphas_cumprod_prev, index)
    sigma = (
        eta
        * torch.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar))
        * torch.sqrt(1 - alpha_bar / alpha_bar_prev)
    )
    # at eta 1 the difference may round to just below zero
    kept = torch.sqrt((1 - alpha_bar_prev - sigma**2).clamp(min=0))
    x_prev = x0 * torch.sqrt(alpha_bar_prev) + kept * eps
    if index > 0 and eta and noise is not None:
        x_prev = x_prev + sigma * noise
    return make_step(x_prev, x0)


def ddim_reverse_step(
    denoiser: Denoiser,
    x_t: Tensor,
    index: int,
    schedule: Schedule,
    *,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
    cond_fn: ConditionFn | None = None,
) -> Step:
    """Go one step towards noise along DDIM's deterministic path; x_prev holds x_{t+1}."""
    x0 = guided_x0(denoiser, x_t, index, schedule, clip_denoised, denoised_fn, cond_fn)
    eps = predict_eps(x_t, x0, index, schedule)
    alpha_bar_next = scalar(schedule.alphas_cumprod_next, index)
    return make_step(x0 * torch.sqrt(alpha_bar_next) + torch.sqrt(1 - alpha_bar_next) * eps, x0)


@torch.no_grad()
def sample_ancestral(
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    *,
    noise: NoiseSource,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
    cond_fn: ConditionFn | None = None,
    callback: StepCallback | None = None,
    start: int | None = None,
) -> Tensor:
    """Sample x0 from x_T, or from a picture noised to index `start` (SDEdit), DDPM's way."""

    def step(x: Tensor, index: int) -> Step:
        z = noise(x) if index > 0 else None
        return p_step(
            denoiser,
            x,
            index,
            schedule,
            z,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
            cond_fn=cond_fn,
        )

    return walk(step, x_T, range(first_index(schedule, start), -1, -1), schedule, callback)


@torch.no_grad()
def sample_ddim(
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    *,
    noise: NoiseSource | None = None,
    eta: float = 0.0,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
    cond_fn: ConditionFn | None = None,
    callback: StepCallback | None = None,
    start: int | None = None,
) -> Tensor:
    """Sample with DDIM; noise is only used, and then needed, where eta > 0."""
    if eta and noise is None:
        raise GlideError(f"DDIM with eta {eta} draws noise: give a noise source, or eta 0")

    def step(x: Tensor, index: int) -> Step:
        z = noise(x) if noise is not None and eta and index > 0 else None
        return ddim_step(
            denoiser,
            x,
            index,
            schedule,
            z,
            eta=eta,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
            cond_fn=cond_fn,
        )

    return walk(step, x_T, range(first_index(schedule, start), -1, -1), schedule, callback)


@torch.no_grad()
def invert_ddim(
    denoiser: Denoiser,
    x0: Tensor,
    schedule: Schedule,
    *,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
    cond_fn: ConditionFn | None = None,
    callback: StepCallback | None = None,
    stop: int | None = None,
) -> Tensor:
    """Find the noise that DDIM turns into x0; `stop` is the last index visited (default: all)."""

    def step(x: Tensor, index: int) -> Step:
        return ddim_reverse_step(
            denoiser,
            x,
            index,
            schedule,
            clip_denoised=clip_denoised,
            denoised_fn=denoised_fn,
            cond_fn=cond_fn,
        )

    return walk(step, x0, range(first_index(schedule, stop) + 1), schedule, callback)


def first_index(schedule: Schedule, start: int | None) -> int:
    """The index a run begins at: the noisiest, or `start` (SDEdit); GlideError out of range."""
    if start is None:
        return len(schedule) - 1
    if not 0 <= start < len(schedule):
        raise GlideError(
            f"cannot start at step {start} of {len(schedule)}: expected 0 to {len(schedule) - 1}"
        )
    return start


def guided_x0(
    denoiser: Denoiser,
    x_t: Tensor,
    index: int,
    schedule: Schedule,
    clip_denoised: bool,
    denoised_fn: DenoisedFn | None,
    cond_fn: ConditionFn | None,
) -> Tensor:
    """The x0 estimate that DDIM and PLMS build on: processed, then shifted by the guide."""
    eps, _ = denoiser(x_t, timesteps(x_t, index, schedule))
    x0 = process_x0(predict_x0(x_t, eps, index, schedule), clip_denoised, denoised_fn)
    if cond_fn is not None:
        x0 = condition_x0(cond_fn, x_t, x0, index, schedule)
    return x0


def make_step(x_prev: Tensor, x0: Tensor) -> Step:
    """Complete a Step with the share of x0 that clipping holds at its bounds."""
    return Step(x_prev, x0, (x0.abs() >= 1).float().mean())


def walk(
    step: Callable[[Tensor, int], Step],
    x: Tensor,
    indices: range,
    schedule: Schedule,
    callback: StepCallback | None,
) -> Tensor:
    """Take a step at every index in turn, telling the callback after each."""
    x = x.float()
    for done, index in enumerate(indices):
        out = step(x, index)
        x = out.x_prev
        if callback is not None:
            callback(StepInfo(done, len(indices), schedule.timestep(index), x, out.x0))
    return x
