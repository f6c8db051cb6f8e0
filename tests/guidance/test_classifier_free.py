from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glide_core.diffusion import Schedule, SeededNoise, sample
from glide_core.diffusion.types import Prediction
from glide_core.guidance import classifier_free

FULL = Schedule.named("squaredcos_cap_v2")


class Branches:
    """Branch b predicts eps and variance of its own; every question is remembered."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def __call__(
        self, x_t: Tensor, t: Tensor, branches: tuple[int, ...], /
    ) -> tuple[Prediction, ...]:
        self.asked.append(branches)
        return tuple(
            Prediction(torch.sin(x_t + b), torch.full_like(x_t, 0.1 * (b + 1))) for b in branches
        )


def state(batch: int = 2) -> Tensor:
    return SeededNoise(range(batch))(torch.empty(batch, 3, 8, 8))


def at(*steps: int) -> Tensor:
    return torch.tensor(steps)


@pytest.mark.parametrize("scale", [0.0, 1.5, 3.0, -2.0])
def test_eps_is_pushed_away_from_the_unconditional_branch(scale: float) -> None:
    x, branches = state(), Branches()
    eps, variance = classifier_free(branches, scale, schedule=FULL)(x, at(500, 500))
    cond, uncond = torch.sin(x), torch.sin(x + 1)
    torch.testing.assert_close(eps, uncond + scale * (cond - uncond))
    assert variance is not None
    torch.testing.assert_close(variance, torch.full_like(x, 0.1))  # the conditional branch's
    assert branches.asked == [(0, 1)]  # both in one call


def test_scale_1_asks_for_the_conditional_branch_alone() -> None:
    x, branches = state(), Branches()
    eps, _ = classifier_free(branches, 1.0, schedule=FULL, rescale=0.5)(x, at(500, 500))
    torch.testing.assert_close(eps, torch.sin(x))
    assert branches.asked == [(0,)]


def test_rescale_brings_each_images_spread_back() -> None:
    x, t = state(), at(500, 500)
    x[1] *= 0.1
    plain = classifier_free(Branches(), 6.0, schedule=FULL)(x, t).eps
    half = classifier_free(Branches(), 6.0, schedule=FULL, rescale=0.5)(x, t).eps
    whole = classifier_free(Branches(), 6.0, schedule=FULL, rescale=1.0)(x, t).eps
    cond = torch.sin(x)
    torch.testing.assert_close(whole.std((1, 2, 3)), cond.std((1, 2, 3)))
    ratio = (cond.std((1, 2, 3)) / plain.std((1, 2, 3))).reshape(2, 1, 1, 1)
    torch.testing.assert_close(half, 0.5 * plain * ratio + 0.5 * plain)


def test_guidance_holds_within_its_interval_of_sigma_only() -> None:
    x, branches = state(), Branches()
    low, high = float(FULL.sigma(300)), float(FULL.sigma(700))
    guided = classifier_free(branches, 3.0, schedule=FULL, interval=(low, high))
    for step, asked in ((299, (0,)), (300, (0, 1)), (700, (0, 1)), (701, (0,))):
        guided(x, at(step, step))
        assert branches.asked[-1] == asked


def test_images_at_different_noise_levels_are_guided_each_by_its_own() -> None:
    x, branches = state(), Branches()
    interval = (0.0, float(FULL.sigma(400)))
    guided = classifier_free(branches, 3.0, schedule=FULL, interval=interval)
    eps, _ = guided(x, at(200, 800))
    cond, uncond = torch.sin(x), torch.sin(x + 1)
    torch.testing.assert_close(eps[0], (uncond + 3 * (cond - uncond))[0])
    torch.testing.assert_close(eps[1], cond[1])


def test_a_guided_run_asks_for_two_branches_only_in_the_middle() -> None:
    branches = Branches()
    noise = SeededNoise([0])
    interval = (float(FULL.sigma(200)), float(FULL.sigma(700)))
    guided = classifier_free(branches, 3.0, schedule=FULL, interval=interval)
    x_T = noise(torch.empty(1, 3, 8, 8))
    sample("ddim", guided, x_T, FULL.respaced("ddim10"), noise=noise)
    assert [len(asked) for asked in branches.asked] == [1, 1, 2, 2, 2, 2, 2, 2, 1, 1]
