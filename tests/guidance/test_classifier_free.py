from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glide_core.diffusion import Schedule, SeededNoise, sample
from glide_core.diffusion.types import Prediction
from glide_core.guidance.guides import classifier_free

FULL = Schedule.named("squaredcos_cap_v2")


class Model:
    """Each prompt has its own eps and variance; every call is recorded."""

    def __init__(self) -> None:
        self.calls: list[bool] = []  # whether uncond was wanted

    def __call__(self, x_t: Tensor, t: Tensor, uncond: bool, /) -> tuple[Prediction, ...]:
        self.calls.append(uncond)
        return tuple(
            Prediction(torch.sin(x_t + i), torch.full_like(x_t, 0.1 * (i + 1)))
            for i in range(1 + uncond)
        )


def state(batch: int = 2) -> Tensor:
    return SeededNoise(range(batch))(torch.empty(batch, 3, 8, 8))


def at(*steps: int) -> Tensor:
    return torch.tensor(steps)


@pytest.mark.parametrize("scale", [0.0, 1.5, 3.0, -2.0])
def test_eps_is_pushed_away_from_the_unconditional_prompt(scale: float) -> None:
    x, model = state(), Model()
    eps, variance = classifier_free(model, scale, schedule=FULL)(x, at(500, 500))
    cond, uncond = torch.sin(x), torch.sin(x + 1)
    torch.testing.assert_close(eps, uncond + scale * (cond - uncond))
    assert variance is not None
    torch.testing.assert_close(variance, torch.full_like(x, 0.1))  # cond's
    assert model.calls == [True]  # both in one call


def test_scale_1_computes_the_conditional_prompt_alone() -> None:
    x, model = state(), Model()
    eps, _ = classifier_free(model, 1.0, schedule=FULL, rescale=0.5)(x, at(500, 500))
    torch.testing.assert_close(eps, torch.sin(x))
    assert model.calls == [False]


def test_rescale_brings_each_images_spread_back() -> None:
    x, t = state(), at(500, 500)
    x[1] *= 0.1
    plain = classifier_free(Model(), 6.0, schedule=FULL)(x, t).eps
    half = classifier_free(Model(), 6.0, schedule=FULL, rescale=0.5)(x, t).eps
    whole = classifier_free(Model(), 6.0, schedule=FULL, rescale=1.0)(x, t).eps
    cond = torch.sin(x)
    torch.testing.assert_close(whole.std((1, 2, 3)), cond.std((1, 2, 3)))
    ratio = (cond.std((1, 2, 3)) / plain.std((1, 2, 3))).reshape(2, 1, 1, 1)
    torch.testing.assert_close(half, 0.5 * plain * ratio + 0.5 * plain)


def test_guidance_applies_only_within_its_interval_of_sigma() -> None:
    x, model = state(), Model()
    low, high = float(FULL.sigma(300)), float(FULL.sigma(700))
    guided = classifier_free(model, 3.0, schedule=FULL, interval=(low, high))
    for step, uncond in ((299, False), (300, True), (700, True), (701, False)):
        guided(x, at(step, step))
        assert model.calls[-1] == uncond


def test_each_image_of_a_batch_is_guided_by_its_own_noise_level() -> None:
    x, model = state(), Model()
    interval = (0.0, float(FULL.sigma(400)))
    guided = classifier_free(model, 3.0, schedule=FULL, interval=interval)
    eps, _ = guided(x, at(200, 800))
    cond, uncond = torch.sin(x), torch.sin(x + 1)
    torch.testing.assert_close(eps[0], (uncond + 3 * (cond - uncond))[0])
    torch.testing.assert_close(eps[1], cond[1])


def test_a_guided_run_computes_both_prompts_only_in_the_middle() -> None:
    model = Model()
    noise = SeededNoise([0])
    interval = (float(FULL.sigma(200)), float(FULL.sigma(700)))
    guided = classifier_free(model, 3.0, schedule=FULL, interval=interval)
    x_T = noise(torch.empty(1, 3, 8, 8))
    sample("ddim", guided, x_T, FULL.respaced("ddim10"), noise=noise)
    assert model.calls == [False] * 2 + [True] * 6 + [False] * 2
