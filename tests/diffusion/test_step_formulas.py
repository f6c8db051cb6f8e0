"""Single steps against the equations of the papers, written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import gaussian
import numpy as np
import pytest
import torch
from gaussian import textured
from torch import Tensor

from glide_core.diffusion import Denoiser, Schedule, SeededNoise
from glide_core.diffusion.samplers import StepFn, ddim, ddpm, p_mean_variance, predict_eps
from glide_core.diffusion.types import NoiseSource, Prediction

LINEAR = Schedule.named("linear")
SCHEDULE, INDEX = LINEAR.respaced("10"), 6
TEXTURED = Denoiser(textured, LINEAR)


def fixed(noise: Tensor) -> NoiseSource:
    return lambda like: noise


def state() -> Tensor:
    return SeededNoise([3])(torch.empty(1, 3, 8, 8))


def test_learned_variance_interpolates_logs_without_clamping() -> None:
    x_t = state()
    v = textured(x_t, torch.tensor([666])).model_var_values
    assert v is not None
    assert float(v.abs().max()) > 1
    _, log_variance, _ = p_mean_variance(TEXTURED, x_t, INDEX, SCHEDULE)
    assert log_variance is not None
    low = SCHEDULE.posterior_log_variance_clipped[INDEX]
    high = float(np.log(SCHEDULE.betas[INDEX]))
    wanted = low + (v.double() + 1) / 2 * (high - low)
    torch.testing.assert_close(log_variance.double(), wanted, atol=1e-5, rtol=1e-5)


def test_without_a_learned_variance_the_posteriors_is_used() -> None:
    x_t, noise = state(), torch.ones(1, 3, 8, 8)
    denoise = Denoiser(gaussian.exact_eps(LINEAR), LINEAR)
    without = ddpm(denoise, SCHEDULE, torch.zeros_like)(x_t, INDEX)
    step = ddpm(denoise, SCHEDULE, fixed(noise))(x_t, INDEX)
    std = float(SCHEDULE.posterior_variance[INDEX]) ** 0.5
    torch.testing.assert_close(step.x_next - without.x_next, noise * std)


def test_a_guide_of_ddpm_moves_the_mean_by_the_variance_and_leaves_x0() -> None:
    x_t = state()
    gradient = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    _, log_variance, _ = p_mean_variance(TEXTURED, x_t, INDEX, SCHEDULE)
    assert log_variance is not None
    plain = ddpm(TEXTURED, SCHEDULE, torch.zeros_like)(x_t, INDEX)
    guided = ddpm(TEXTURED, SCHEDULE, torch.zeros_like, lambda x, t, x0: gradient)(x_t, INDEX)
    shift = guided.x_next - plain.x_next
    torch.testing.assert_close(shift, log_variance.exp() * gradient, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(guided.x0, plain.x0)


@pytest.mark.parametrize("clip_guided", [False, True])
def test_a_score_guide_moves_the_eps_of_the_clipped_x0(clip_guided: bool) -> None:
    x_t, gradient = state(), torch.full((1, 3, 8, 8), 2.0)
    plain, _ = TEXTURED(x_t, 666)
    seen: list[Tensor] = []

    def guide(x: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
        assert t.tolist() == [666]
        seen.append(x0)
        return gradient

    denoiser = replace(TEXTURED, cond_fn=guide, clip_guided=clip_guided)
    guided, model_var_values = denoiser(x_t, 666)
    ab = float(LINEAR.alphas_cumprod[666])
    wanted = plain + (1 - ab) / ab**0.5 * gradient  # eps - sqrt(1 - ab) * gradient
    assert float(wanted.max()) > 1
    wanted = wanted.clamp(-1, 1) if clip_guided else wanted
    torch.testing.assert_close(guided, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen[0], plain)
    assert model_var_values is not None
    assert torch.equal(model_var_values, 1.3 * torch.sin(3 * x_t))


def test_a_ddim_step_is_equation_12() -> None:
    x_t, noise = state(), SeededNoise([9])(torch.empty(1, 3, 8, 8))
    ab = float(SCHEDULE.alphas_cumprod[INDEX])
    prev = float(SCHEDULE.alphas_cumprod_prev[INDEX])
    eta = 0.6
    sigma = eta * ((1 - prev) / (1 - ab)) ** 0.5 * (1 - ab / prev) ** 0.5
    step = ddim(TEXTURED, SCHEDULE, fixed(noise), eta)(x_t, INDEX)
    eps = (x_t - ab**0.5 * step.x0) / (1 - ab) ** 0.5
    wanted = prev**0.5 * step.x0 + (1 - prev - sigma**2) ** 0.5 * eps + sigma * noise
    torch.testing.assert_close(step.x_next, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampler", [ddpm, partial(ddim, eta=1.0)])
def test_the_step_at_index_0_returns_x0_without_noise(sampler: Callable[..., StepFn]) -> None:
    x_t, noise = state(), torch.full((1, 3, 8, 8), 5.0)
    step = sampler(TEXTURED, SCHEDULE, fixed(noise))(x_t, 0)
    torch.testing.assert_close(step.x_next, step.x0, atol=1e-6, rtol=0)


def test_x0_and_eps_are_each_others_inverse() -> None:
    x_t = state()
    eps = torch.full_like(x_t, 0.3)
    denoiser = Denoiser(lambda x, t: Prediction(eps, None), LINEAR, clip_denoised=False)
    x0, _ = denoiser(x_t, SCHEDULE.timestep(INDEX))
    torch.testing.assert_close(predict_eps(x_t, x0, INDEX, SCHEDULE), eps)
