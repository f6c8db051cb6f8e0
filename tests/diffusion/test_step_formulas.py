"""Single steps against the equations of the papers, written out."""

from __future__ import annotations

import gaussian
import numpy as np
import pytest
import torch
from gaussian import textured
from torch import Tensor

from glide_core.diffusion import Schedule, SeededNoise, ddim_step, p_step
from glide_core.diffusion.samplers import p_mean_variance, predict_eps, predict_x0
from glide_core.diffusion.types import Prediction

LINEAR = Schedule.named("linear")
SCHEDULE, INDEX = LINEAR.respaced("10"), 6


def state() -> Tensor:
    return SeededNoise([3])(torch.empty(1, 3, 8, 8))


def test_learned_variance_interpolates_logs_without_clamping() -> None:
    x_t = state()
    v = textured(x_t, torch.tensor([666])).variance
    assert v is not None
    assert float(v.abs().max()) > 1
    _, log_variance, _ = p_mean_variance(textured, x_t, INDEX, SCHEDULE)
    assert log_variance is not None
    low = SCHEDULE.posterior_log_variance_clipped[INDEX]
    high = float(np.log(SCHEDULE.betas[INDEX]))
    wanted = low + (v.double() + 1) / 2 * (high - low)
    torch.testing.assert_close(log_variance.double(), wanted, atol=1e-5, rtol=1e-5)


def test_without_a_learned_variance_the_posteriors_is_used() -> None:
    x_t, noise = state(), torch.ones(1, 3, 8, 8)
    denoise = gaussian.exact_eps(LINEAR)
    without = p_step(denoise, x_t, INDEX, SCHEDULE)
    step = p_step(denoise, x_t, INDEX, SCHEDULE, noise)
    std = float(SCHEDULE.posterior_variance[INDEX]) ** 0.5
    torch.testing.assert_close(step.x_prev - without.x_prev, noise * std)


def test_an_ancestral_guide_moves_the_mean_by_the_variance_and_leaves_x0() -> None:
    x_t = state()
    gradient = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    _, log_variance, _ = p_mean_variance(textured, x_t, INDEX, SCHEDULE)
    assert log_variance is not None
    plain = p_step(textured, x_t, INDEX, SCHEDULE)
    guided = p_step(textured, x_t, INDEX, SCHEDULE, cond_fn=lambda x, t, x0: gradient)
    shift = guided.x_prev - plain.x_prev
    torch.testing.assert_close(shift, log_variance.exp() * gradient, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(guided.x0, plain.x0)


def test_a_ddim_guide_moves_eps_of_the_clipped_x0_and_nothing_clips_it_again() -> None:
    x_t, gradient = state(), torch.full((1, 3, 8, 8), 2.0)
    plain = ddim_step(textured, x_t, INDEX, SCHEDULE)
    guided = ddim_step(textured, x_t, INDEX, SCHEDULE, cond_fn=lambda x, t, x0: gradient)
    ab = float(SCHEDULE.alphas_cumprod[INDEX])
    wanted = plain.x0 + (1 - ab) / ab**0.5 * gradient
    torch.testing.assert_close(guided.x0, wanted, atol=1e-4, rtol=1e-4)
    assert float(guided.x0.max()) > 1


def test_a_ddim_step_is_equation_12() -> None:
    x_t, noise = state(), SeededNoise([9])(torch.empty(1, 3, 8, 8))
    ab = float(SCHEDULE.alphas_cumprod[INDEX])
    prev = float(SCHEDULE.alphas_cumprod_prev[INDEX])
    eta = 0.6
    sigma = eta * ((1 - prev) / (1 - ab)) ** 0.5 * (1 - ab / prev) ** 0.5
    step = ddim_step(textured, x_t, INDEX, SCHEDULE, noise, eta=eta)
    eps = (x_t - ab**0.5 * step.x0) / (1 - ab) ** 0.5
    wanted = prev**0.5 * step.x0 + (1 - prev - sigma**2) ** 0.5 * eps + sigma * noise
    torch.testing.assert_close(step.x_prev, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("take", [p_step, ddim_step])
def test_the_step_at_index_0_returns_x0_without_noise(take: object) -> None:
    x_t, noise = state(), torch.full((1, 3, 8, 8), 5.0)
    step = (p_step if take is p_step else ddim_step)(textured, x_t, 0, SCHEDULE, noise)
    torch.testing.assert_close(step.x_prev, step.x0, atol=1e-6, rtol=0)


def test_the_clipped_fraction_counts_values_at_the_bounds() -> None:
    def denoise(x_t: Tensor, t: Tensor, /) -> Prediction:
        x0 = torch.zeros_like(x_t)
        x0[..., :2] = 3  # a quarter of the columns
        return Prediction(predict_eps(x_t, x0, INDEX, SCHEDULE), None)

    step = p_step(denoise, state(), INDEX, SCHEDULE)
    assert float(step.clipped_fraction) == pytest.approx(0.25)


def test_x0_and_eps_are_each_others_inverse() -> None:
    x_t, eps = state(), torch.full((1, 3, 8, 8), 0.3)
    x0 = predict_x0(x_t, eps, INDEX, SCHEDULE)
    torch.testing.assert_close(predict_eps(x_t, x0, INDEX, SCHEDULE), eps)
