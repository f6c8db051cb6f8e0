"""Every sampler against a Gaussian with the exact eps: the only error is the sampler's own.

STD is 0.25; 12288 samples know it to about 0.0016.
"""

from __future__ import annotations

import gaussian
import pytest
import torch
from torch import Tensor

from glide_core.diffusion import Schedule, SeededNoise, sample
from glide_core.names import SAMPLERS
from glide_core.noise_schedules import NOISE_SCHEDULES

# diffusers' own, with new numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

FULL = {name: Schedule.named(name) for name in NOISE_SCHEDULES}


def sampled(sampler: str, noise_schedule: str, respacing: str, *, eta: float = 0.0) -> Tensor:
    full = FULL[noise_schedule]
    noise = SeededNoise([1])
    x_T = noise(torch.empty(1, 3, 64, 64))
    return sample(
        sampler,
        gaussian.exact_eps(full),
        x_T,
        full.respaced(respacing),
        noise=noise,
        eta=eta,
        clip_denoised=False,
    )


@pytest.mark.parametrize("noise_schedule", NOISE_SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_more_steps_come_closer_to_the_exact_solution(sampler: str, noise_schedule: str) -> None:
    errors = []
    for steps in ("10", "40", "200"):
        x = sampled(sampler, noise_schedule, steps)
        assert float(x.mean()) == pytest.approx(gaussian.MEAN, abs=0.008)
        errors.append(abs(float(x.std()) - gaussian.STD))
    few, some, many = errors
    noise_floor = 0.003
    assert some < few + noise_floor
    assert many < some + noise_floor
    # first-order samplers with noise, at a fixed variance, are the slowest
    stochastic = sampler in ("ddpm", "euler_ancestral")
    assert many < (0.02 if stochastic else 0.007)


# Measured elsewhere with stock schedulers (std after the run; STD is 0.25)
@pytest.mark.parametrize(
    ("sampler", "noise_schedule", "respacing", "std"),
    [
        ("ddim", "linear", "10", 0.139),
        ("ddim", "linear", "20", 0.191),
        ("ddim", "linear", "fast27", 0.223),
        ("ddim", "linear", "50", 0.224),
        ("ddim", "squaredcos_cap_v2", "10", 0.185),
        ("ddim", "squaredcos_cap_v2", "fast27", 0.233),
        ("dpmpp_2m", "linear", "10", 0.134),
        ("dpmpp_2m", "linear", "20", 0.198),
        ("dpmpp_2m", "linear", "fast27", 0.239),
        ("dpmpp_2m", "linear", "4,3,1,1,1", 0.181),
        ("dpmpp_2m", "squaredcos_cap_v2", "20", 0.234),
        ("dpmpp_2m", "squaredcos_cap_v2", "fast27", 0.244),
    ],
)
def test_fine_texture_is_kept_as_well_as_known(
    sampler: str, noise_schedule: str, respacing: str, std: float
) -> None:
    assert float(sampled(sampler, noise_schedule, respacing).std()) == pytest.approx(std, abs=0.005)


@pytest.mark.parametrize("noise_schedule", NOISE_SCHEDULES)
def test_fast27_keeps_as_much_texture_as_50_even_steps(noise_schedule: str) -> None:
    fast = float(sampled("ddim", noise_schedule, "fast27").std())
    even = float(sampled("ddim", noise_schedule, "50").std())
    assert fast > even - 0.006


@pytest.mark.parametrize("sampler", ["plms", "dpmpp_2m", "unipc", "deis", "heun"])
@pytest.mark.parametrize("noise_schedule", NOISE_SCHEDULES)
def test_second_order_beats_ddim_on_fast27(sampler: str, noise_schedule: str) -> None:
    def error(name: str) -> float:
        return abs(float(sampled(name, noise_schedule, "fast27").std()) - gaussian.STD)

    assert error(sampler) < 0.75 * error("ddim")


@pytest.mark.parametrize("sampler", ["plms", "heun"])
def test_the_last_timestep_of_the_cosine_schedule_stays_bounded(sampler: str) -> None:
    # Heun straight across sigma 20291 gives 1.20
    assert float(sampled(sampler, "squaredcos_cap_v2", "10").std()) < 0.28


@pytest.mark.parametrize("noise_schedule", NOISE_SCHEDULES)
@pytest.mark.parametrize("respacing", ["10", "fast27"])
def test_the_exact_learned_variance_makes_ddpm_exact(noise_schedule: str, respacing: str) -> None:
    schedule = FULL[noise_schedule].respaced(respacing)
    noise = SeededNoise([2])
    x_T = noise(torch.empty(1, 3, 64, 64))
    x = sample("ddpm", gaussian.exact(schedule), x_T, schedule, noise=noise, clip_denoised=False)
    assert float(x.mean()) == pytest.approx(gaussian.MEAN, abs=0.008)
    assert float(x.std()) == pytest.approx(gaussian.STD, abs=0.005)


@pytest.mark.parametrize("noise_schedule", NOISE_SCHEDULES)
@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [
        ("euler", "EulerDiscreteScheduler"),
        ("euler_ancestral", "EulerAncestralDiscreteScheduler"),
    ],
)
def test_euler_methods_are_those_of_diffusers(
    sampler: str, scheduler: str, noise_schedule: str
) -> None:
    import diffusers

    full = FULL[noise_schedule]
    schedule = full.respaced("20")
    model = gaussian.exact_eps(full)
    theirs = getattr(diffusers, scheduler)()
    theirs.set_timesteps(len(schedule))
    sigmas = schedule.sqrt_recipm1_alphas_cumprod[::-1]
    theirs.sigmas = torch.tensor([*sigmas, 0.0], dtype=torch.float32)
    theirs.timesteps = torch.tensor(schedule.timestep_map[::-1].copy(), dtype=torch.float32)
    theirs.set_begin_index(0)
    theirs.is_scale_input_called = True
    generator = torch.Generator().manual_seed(1)  # as SeededNoise([1])
    x_T = torch.randn(3, 64, 64, generator=generator)[None]
    x = x_T * float((1 + sigmas[0] ** 2) ** 0.5)
    for t, sigma in zip(theirs.timesteps, sigmas, strict=True):
        eps = model(x / float((1 + sigma**2) ** 0.5), t.long()[None]).eps
        x = theirs.step(eps, t, x, generator=[generator]).prev_sample
    torch.testing.assert_close(sampled(sampler, noise_schedule, "20"), x, atol=2e-3, rtol=0)


@pytest.mark.parametrize("noise_schedule", NOISE_SCHEDULES)
def test_ddim_with_eta_1_is_ddpm_with_the_posterior_variance(noise_schedule: str) -> None:
    first = sampled("ddim", noise_schedule, "20", eta=1.0)
    torch.testing.assert_close(first, sampled("ddpm", noise_schedule, "20"), atol=2e-3, rtol=0)
