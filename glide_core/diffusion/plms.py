"""PLMS: pseudo linear multistep sampling (Liu et al. 2022), on any respaced schedule."""

from __future__ import annotations

import torch
from torch import Tensor

from glide_core.diffusion.samplers import (
    Step,
    first_index,
    guided_x0,
    make_step,
    predict_eps,
    predict_x0,
    process_x0,
    walk,
)
from glide_core.diffusion.schedule import Schedule, scalar
from glide_core.diffusion.types import ConditionFn, DenoisedFn, Denoiser, StepCallback

SIGMA_ALL_NOISE = 100.0  # above this noise to signal ratio x_t says nothing of the picture

# Adams-Bashforth weights of the newest eps and its predecessors (Liu et al. 2022)
_WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@torch.no_grad()
def sample_plms(
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    *,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
    cond_fn: ConditionFn | None = None,
    callback: StepCallback | None = None,
    start: int | None = None,
) -> Tensor:
    """Sample x0 from x_T (or from index `start`) in one model call a step and one more.

    The first multistep step is a pseudo improved Euler step. A start in all but pure noise (the
    last cosine timestep has sigma 20291) is crossed by DDIM and kept out of the history: there eps
    is x_t itself, and its difference from the next one would be amplified by sigma.
    """
    history: list[Tensor] = []

    def eps_at(x: Tensor, index: int) -> Tensor:
        x0 = guided_x0(denoiser, x, index, schedule, clip_denoised, denoised_fn, cond_fn)
        return predict_eps(x, x0, index, schedule)

    def transfer(x: Tensor, eps: Tensor, index: int) -> Step:
        # x0 is processed again: the combined eps may leave [-1, 1] or the known pixels
        x0 = process_x0(predict_x0(x, eps, index, schedule), clip_denoised, denoised_fn)
        eps = predict_eps(x, x0, index, schedule)
        alpha_bar_prev = scalar(schedule.alphas_cumprod_prev, index)
        return make_step(torch.sqrt(alpha_bar_prev) * x0 + torch.sqrt(1 - alpha_bar_prev) * eps, x0)

    def step(x: Tensor, index: int) -> Step:
        eps = eps_at(x, index)
        if schedule.sqrt_recipm1_alphas_cumprod[index] > SIGMA_ALL_NOISE:
            return transfer(x, eps, index)
        history.append(eps)
        if len(history) == 1 and index > 0:
            ahead = eps_at(transfer(x, eps, index).x_prev, index - 1)
            return transfer(x, (eps + ahead) / 2, index)
        del history[:-4]
        weights = _WEIGHTS[len(history) - 1]
        newest_first = zip(weights, reversed(history), strict=True)
        return transfer(x, torch.stack([w * past for w, past in newest_first]).sum(0), index)

    return walk(step, x_T, range(first_index(schedule, start), -1, -1), schedule, callback)
