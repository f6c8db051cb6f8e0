"""Samplers of higher order: PLMS (Liu et al. 2022) and Heun (Karras et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from glide_core.diffusion.denoiser import Denoiser
from glide_core.diffusion.samplers import Step, StepFn, predict_eps
from glide_core.diffusion.schedule import Schedule

# Above this noise to signal ratio x_t says nothing of the image. The last cosine timestep has sigma
# 20291, and a difference of two estimates, times such a step, would become an image of its own.
SIGMA_ALL_NOISE = 100.0

# Adams-Bashforth weights of the newest eps and its predecessors (Liu et al. 2022)
_WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def plms(denoiser: Denoiser, schedule: Schedule) -> StepFn:
    """One model call per step, and one more in all.

    The first multistep step is a pseudo improved Euler step. A start in all but pure noise is
    crossed by DDIM and kept out of the history: there eps is x_t itself.
    """
    history: list[Tensor] = []

    def eps_at(x: Tensor, index: int) -> Tensor:
        return predict_eps(x, denoiser(x, schedule.timestep(index)).x0, index, schedule)

    def transfer(x: Tensor, eps: Tensor, index: int) -> Step:
        tables = schedule.on(x.device)
        # x0 is processed again: the combined eps may leave [-1, 1] or the known pixels
        x0 = denoiser.process(
            tables.sqrt_recip_alphas_cumprod[index] * x
            - tables.sqrt_recipm1_alphas_cumprod[index] * eps
        )
        eps = predict_eps(x, x0, index, schedule)
        alpha_bar_prev = tables.alphas_cumprod_prev[index]
        return Step(torch.sqrt(alpha_bar_prev) * x0 + torch.sqrt(1 - alpha_bar_prev) * eps, x0)

    def step(x: Tensor, index: int) -> Step:
        eps = eps_at(x, index)
        if schedule.sqrt_recipm1_alphas_cumprod[index] > SIGMA_ALL_NOISE:
            return transfer(x, eps, index)
        history.append(eps)
        if len(history) == 1 and index > 0:
            ahead = eps_at(transfer(x, eps, index).x_next, index - 1)
            return transfer(x, (eps + ahead) / 2, index)
        del history[:-4]
        weights = _WEIGHTS[len(history) - 1]
        newest_first = zip(weights, reversed(history), strict=True)
        return transfer(x, torch.stack([w * past for w, past in newest_first]).sum(0), index)

    return step


def heun(denoiser: Denoiser, schedule: Schedule) -> StepFn:
    """Heun's method (Karras et al. 2022, algorithm 1): two model calls per step.

    The last step and steps from all but pure noise are Euler's, with one call.
    """

    def step(x: Tensor, index: int) -> Step:
        x0 = denoiser(x, schedule.timestep(index)).x0
        if index == 0:
            return Step(x0, x0)
        # Euler's step and its correction in x_t / sqrt(ab), whose derivative by sigma is eps
        tables = schedule.on(x.device)
        sigmas, scale = tables.sqrt_recipm1_alphas_cumprod, tables.alphas_cumprod_prev[index].sqrt()
        eps = predict_eps(x, x0, index, schedule)
        x_next = scale * (x0 + sigmas[index - 1] * eps)
        if schedule.sqrt_recipm1_alphas_cumprod[index] <= SIGMA_ALL_NOISE:
            ahead = denoiser(x_next, schedule.timestep(index - 1)).x0
            change = predict_eps(x_next, ahead, index - 1, schedule) - eps
            x_next = x_next + scale * (sigmas[index - 1] - sigmas[index]) * change / 2
        return Step(x_next, x0)

    return step
