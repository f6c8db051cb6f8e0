"""DDPM (ancestral), DDIM and its inversion, exactly the reference's; PLMS and Heun.

Each returns its step, a function of (x_t, index) that `sample_loop` calls from the noisiest index
to 0. Sampler state is float32, tables are float64 rounded to float32, as in the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from glide_core.diffusion.denoiser import Denoiser, batch_of
from glide_core.diffusion.schedule import Schedule
from glide_core.diffusion.types import ConditionFn, NoiseSource, StepCallback, StepInfo

# Above this noise to signal ratio x_t says nothing of the image. The last cosine timestep has sigma
# 20291, and a difference of two estimates, times such a step, would become an image of its own.
SIGMA_ALL_NOISE = 100.0

# Adams-Bashforth weights of the newest eps and its predecessors, for PLMS
_WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


class Step(NamedTuple):
    """The result of one step."""

    x_next: Tensor  # [B, C, H, W]: x_{t-1}, or x_{t+1} when inverting
    x0: Tensor  # the clean estimate that the step used


StepFn = Callable[[Tensor, int], Step]  # x_t and its index


def predict_eps(x_t: Tensor, x0: Tensor, index: int, schedule: Schedule) -> Tensor:
    """Compute the noise that leads from x0 to x_t."""
    tables = schedule.on(x_t.device)
    return (
        tables.sqrt_recip_alphas_cumprod[index] * x_t - x0
    ) / tables.sqrt_recipm1_alphas_cumprod[index]


def p_mean_variance(
    denoiser: Denoiser, x_t: Tensor, index: int, schedule: Schedule
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Mean and log variance of p(x_{t-1} | x_t), and x0; no variance in a one-step schedule."""
    tables = schedule.on(x_t.device)
    x0, model_var_values = denoiser(x_t, schedule.timestep(index))
    mean = tables.posterior_mean_coef1[index] * x0 + tables.posterior_mean_coef2[index] * x_t
    if len(schedule) == 1:
        return mean, None, x0
    # Both ends use the respaced betas and the fraction is not clamped (reference). Without a
    # learned variance the posterior's is used, "fixed small" in Ho et al. 2020.
    low, high = tables.posterior_log_variance_clipped[index], tables.log_betas[index]
    fraction = torch.zeros_like(x_t) if model_var_values is None else (model_var_values + 1) / 2
    return mean, fraction * high + (1 - fraction) * low, x0


def ddpm(
    denoiser: Denoiser, schedule: Schedule, noise: NoiseSource, cond_fn: ConditionFn | None = None
) -> StepFn:
    """Ancestral sampling with the model's variance: one model call per step.

    cond_fn moves the mean by variance * gradient, the gradient taken at x_t (condition-mean,
    Sohl-Dickstein et al. 2015); x0 is not changed by it.
    """

    def step(x_t: Tensor, index: int) -> Step:
        mean, log_variance, x0 = p_mean_variance(denoiser, x_t, index, schedule)
        if log_variance is not None:
            if cond_fn is not None:
                gradient = cond_fn(x_t, batch_of(schedule.timestep(index), x_t), x0).float()
                mean = mean + log_variance.exp() * gradient
            if index > 0:
                mean = mean + torch.exp(0.5 * log_variance) * noise(x_t)
        return Step(mean, x0)

    return step


def ddim(denoiser: Denoiser, schedule: Schedule, noise: NoiseSource, eta: float = 0.0) -> StepFn:
    """DDIM (Song et al. 2020, equation 12), with fresh noise where eta is not 0: one model call
    per step.

    In the coordinates x_t / sqrt(ab) of k-diffusion, eta 0 is Euler's method and eta 1 its
    ancestral form.
    """

    def step(x_t: Tensor, index: int) -> Step:
        x0, _ = denoiser(x_t, schedule.timestep(index))
        eps = predict_eps(x_t, x0, index, schedule)  # of the processed x0
        tables = schedule.on(x_t.device)
        alpha_bar, alpha_bar_prev = tables.alphas_cumprod[index], tables.alphas_cumprod_prev[index]
        sigma = (
            eta
            * torch.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar))
            * torch.sqrt(1 - alpha_bar / alpha_bar_prev)
        )
        # at eta 1 the difference may round to just below zero
        kept = torch.sqrt((1 - alpha_bar_prev - sigma**2).clamp(min=0))
        x_prev = x0 * torch.sqrt(alpha_bar_prev) + kept * eps
        if index > 0 and eta:
            x_prev = x_prev + sigma * noise(x_t)
        return Step(x_prev, x0)

    return step


def ddim_reverse(denoiser: Denoiser, schedule: Schedule) -> StepFn:
    """DDIM's deterministic path from an image to its noise; its indices ascend from 0."""

    def step(x_t: Tensor, index: int) -> Step:
        x0, _ = denoiser(x_t, schedule.timestep(index))
        eps = predict_eps(x_t, x0, index, schedule)
        alpha_bar_next = schedule.on(x_t.device).alphas_cumprod_next[index]
        return Step(x0 * torch.sqrt(alpha_bar_next) + torch.sqrt(1 - alpha_bar_next) * eps, x0)

    return step


def plms(denoiser: Denoiser, schedule: Schedule) -> StepFn:
    """PLMS (Liu et al. 2022): one model call per step, and one more in all.

    The first multistep step is a pseudo improved Euler step. A start in all but pure noise is
    crossed by DDIM and kept out of the history: there eps is x_t itself.
    """
    history: list[Tensor] = []

    def eps_at(x: Tensor, index: int) -> Tensor:
        x0, _ = denoiser(x, schedule.timestep(index))
        return predict_eps(x, x0, index, schedule)

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
        x0, _ = denoiser(x, schedule.timestep(index))
        if index == 0:
            return Step(x0, x0)
        # Euler's step and its correction in x_t / sqrt(ab), whose derivative by sigma is eps
        tables = schedule.on(x.device)
        sigmas, scale = tables.sqrt_recipm1_alphas_cumprod, tables.alphas_cumprod_prev[index].sqrt()
        eps = predict_eps(x, x0, index, schedule)
        x_next = scale * (x0 + sigmas[index - 1] * eps)
        if schedule.sqrt_recipm1_alphas_cumprod[index] <= SIGMA_ALL_NOISE:
            ahead, _ = denoiser(x_next, schedule.timestep(index - 1))
            change = predict_eps(x_next, ahead, index - 1, schedule) - eps
            x_next = x_next + scale * (sigmas[index - 1] - sigmas[index]) * change / 2
        return Step(x_next, x0)

    return step


@torch.no_grad()
def sample_loop(
    step: StepFn,
    x: Tensor,
    schedule: Schedule,
    indices: Sequence[int],
    callback: StepCallback | None = None,
) -> Tensor:
    """Take a step at every index in turn, with a callback after each."""
    x = x.float()
    for done, index in enumerate(indices):
        out = step(x, index)
        x = out.x_next
        if callback is not None:
            callback(StepInfo(done, len(indices), schedule.timestep(index), x, out.x0))
    return x
