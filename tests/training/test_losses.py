"""The hybrid loss against numeric integrals and the definitions it comes from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from glide_core.diffusion.schedule import Schedule
from glide_core.training.losses import (
    contrastive_loss,
    discretized_log_likelihood,
    hybrid_loss,
    variance_bound,
)

SCHEDULE = Schedule.named("squaredcos_cap_v2")


def pieces(t: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x0 = torch.rand(2, 3, 4, 4, generator=rng) * 2 - 1
    noise = torch.randn(x0.shape, generator=rng)
    steps = torch.full((2,), t)
    return x0, noise, SCHEDULE.q_sample(x0, steps, noise), steps


def numeric_kl(mean: float, log_var: float, mean_hat: float, log_var_hat: float) -> float:
    """KL of two Gaussians by the trapezoidal rule."""
    std = math.exp(0.5 * log_var)
    x = torch.linspace(mean - 12 * std, mean + 12 * std, 20001, dtype=torch.float64)

    def log_density(m: float, lv: float) -> Tensor:
        return -0.5 * (math.log(2 * math.pi) + lv + (x - m) ** 2 / math.exp(lv))

    p = log_density(mean, log_var)
    return float(torch.trapezoid(p.exp() * (p - log_density(mean_hat, log_var_hat)), x))


@pytest.mark.parametrize("t", [1, 10, 300, 900])
def test_the_bound_is_the_kl_of_the_two_gaussians(t: int) -> None:
    x0, _, x_t, steps = pieces(t)
    fraction = torch.full_like(x0, 0.3)
    x0_hat = (x0 + 0.05).clamp(-1, 1)
    got = variance_bound(x0, x_t, x0_hat, fraction, steps, SCHEDULE)
    low, high = SCHEDULE.posterior_log_variance_clipped[t], math.log(SCHEDULE.betas[t])
    c1, c2 = SCHEDULE.posterior_mean_coef1[t], SCHEDULE.posterior_mean_coef2[t]
    want = [
        numeric_kl(
            c1 * float(a) + c2 * float(x),
            low,
            c1 * float(b) + c2 * float(x),
            0.65 * high + 0.35 * low,
        )
        for a, b, x in zip(x0[0].flatten(), x0_hat[0].flatten(), x_t[0].flatten(), strict=True)
    ]
    mean = sum(want) / len(want) / math.log(2)
    assert float(got[0]) == pytest.approx(mean, rel=2e-3, abs=1e-6)


def test_pixel_probabilities_sum_to_one() -> None:
    levels = torch.arange(256) / 127.5 - 1
    mean, log_scale = torch.full_like(levels, 0.2), torch.full_like(levels, -2.0)
    total = discretized_log_likelihood(levels, mean, log_scale).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_exact_prediction_has_zero_simple_loss(kind: str) -> None:
    x0, noise, x_t, t = pieces(400)
    a, s = SCHEDULE.alpha_sigma(t, 4)
    answer = noise if kind == "epsilon" else a * noise - s * x0
    raw = torch.cat([answer, torch.full_like(answer, -1.0)], dim=1)
    simple, bound = hybrid_loss(raw, x0, x_t, t, noise, SCHEDULE, kind)  # type: ignore[arg-type]
    assert float(simple.max()) < 1e-10
    assert float(bound.abs().max()) < 1e-4  # posterior variance and mean: no divergence


def test_the_bound_has_a_gradient_only_for_the_variance() -> None:
    x0, noise, x_t, t = pieces(400)
    raw = torch.randn(2, 6, 4, 4, requires_grad=True)
    hybrid_loss(raw, x0, x_t, t, noise, SCHEDULE, "epsilon")[1].sum().backward()
    assert raw.grad is not None
    assert float(raw.grad[:, :3].abs().max()) == 0
    assert float(raw.grad[:, 3:].abs().min()) > 0


def test_matching_pairs_have_the_least_contrastive_loss() -> None:
    features = torch.eye(4)
    right = contrastive_loss(features, features, 30.0)
    assert float(right) < float(contrastive_loss(features, features.roll(1, 0), 30.0))
    assert float(right) < 1e-6


def test_the_bound_does_not_clamp_the_predicted_x0() -> None:
    """The reference's training losses pass clip_denoised=False."""
    x0, noise, x_t, t = pieces(400)
    a, s = SCHEDULE.alpha_sigma(t, 4)
    beyond = x0 + 3
    fraction = torch.zeros_like(x0)
    v = (a * x_t - beyond) / s
    raw = torch.cat([v, fraction], dim=1)
    _, bound = hybrid_loss(raw, x0, x_t, t, noise, SCHEDULE, "v_prediction")
    want = variance_bound(x0, x_t, beyond, fraction, t, SCHEDULE)
    torch.testing.assert_close(bound, want, rtol=1e-4, atol=1e-5)
