from __future__ import annotations

import torch
from torch import Tensor

from glide_core.diffusion import Schedule, SeededNoise
from glide_core.diffusion.types import Prediction
from glide_core.guidance import add_guides, condition_score, limit_to_interval

FULL = Schedule.named("squaredcos_cap_v2")


def constant(value: float, asked: list[int] | None = None):  # type: ignore[no-untyped-def]
    def guide(x_t: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
        if asked is not None:
            asked.append(int(t[0]))
        return torch.full_like(x_t, value)

    return guide


def test_a_score_guide_shifts_eps_by_the_noise_level_and_keeps_the_variance() -> None:
    x_t = SeededNoise([0, 1])(torch.empty(2, 3, 8, 8))
    t = torch.tensor([100, 900])
    seen: list[Tensor] = []

    def denoise(x: Tensor, t: Tensor, /) -> Prediction:
        return Prediction(0.5 * x, 0.25 * x)

    def guide(x: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
        seen.append(x0)
        return torch.full_like(x, 3.0)

    eps, variance = condition_score(denoise, guide, FULL)(x_t, t)
    a, s = FULL.alpha_sigma(t, 4)
    torch.testing.assert_close(eps, 0.5 * x_t - s * 3.0)
    assert variance is not None
    torch.testing.assert_close(variance, 0.25 * x_t)
    torch.testing.assert_close(seen[0], ((x_t - s * 0.5 * x_t) / a).clamp(-1, 1))


def test_guides_add_up() -> None:
    x = torch.zeros(1, 3, 4, 4)
    total = add_guides(constant(1.0), constant(2.5))(x, torch.tensor([5]), x)
    torch.testing.assert_close(total, torch.full_like(x, 3.5))
    assert not add_guides()(x, torch.tensor([5]), x).any()


def test_a_guide_outside_its_interval_is_silent_and_not_even_asked() -> None:
    x, asked = torch.zeros(1, 3, 4, 4), []
    low, high = float(FULL.sigma(300)), float(FULL.sigma(700))
    guide = limit_to_interval(constant(2.0, asked), (low, high), FULL)
    values = [float(guide(x, torch.tensor([t]), x).mean()) for t in (299, 300, 500, 700, 701)]
    assert values == [0, 2, 2, 2, 0]
    assert asked == [300, 500, 700]


def test_an_interval_is_each_images_own() -> None:
    x = torch.zeros(2, 3, 4, 4)
    guide = limit_to_interval(constant(2.0), (0.0, float(FULL.sigma(400))), FULL)
    values = guide(x, torch.tensor([100, 800]), x)
    assert values.amax((1, 2, 3)).tolist() == [2.0, 0.0]
