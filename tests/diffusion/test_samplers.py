"""What every sampler promises, whatever its mathematics."""

from __future__ import annotations

from itertools import count

import gaussian
import pytest
import torch
from gaussian import textured
from torch import Tensor

from glide_core.diffusion import (
    SAMPLERS,
    Schedule,
    SeededNoise,
    invert_ddim,
    sample,
    sample_ddim,
)
from glide_core.diffusion.types import Prediction, StepInfo
from glide_core.errors import GlideError

# diffusers' own, with new numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

COSINE, LINEAR = Schedule.named("squaredcos_cap_v2"), Schedule.named("linear")
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)


def noise_and_start(*seeds: int) -> tuple[SeededNoise, Tensor]:
    noise = SeededNoise(seeds)
    return noise, noise(torch.empty(len(seeds), 3, 8, 8))


@every_sampler
def test_image_i_is_the_same_in_any_batch(sampler: str) -> None:
    schedule = COSINE.respaced("10")
    noise, x_T = noise_and_start(3, 4, 5)
    together = sample(sampler, textured, x_T, schedule, noise=noise, eta=0.7)
    for i, seed in enumerate((3, 4, 5)):
        noise, x_T = noise_and_start(seed)
        alone = sample(sampler, textured, x_T, schedule, noise=noise, eta=0.7)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


@every_sampler
def test_all_randomness_comes_from_the_noise_source(sampler: str) -> None:
    def drawn(global_seed: int, seed: int) -> Tensor:
        torch.manual_seed(global_seed)
        x_T = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)
        noise = SeededNoise([seed])
        return sample(sampler, textured, x_T, LINEAR.respaced("10"), noise=noise, eta=1.0)

    first = drawn(0, 7)
    torch.testing.assert_close(first, drawn(1, 7), rtol=0, atol=0)
    stochastic = sampler in ("ancestral", "ddim", "dpmpp_2m_sde", "euler_ancestral", "ddpm")
    assert torch.equal(first, drawn(0, 8)) != stochastic


@every_sampler
@pytest.mark.parametrize("respacing", ["fast27", "10"])
def test_the_model_is_asked_at_original_timesteps_from_noise_to_picture(
    sampler: str, respacing: str
) -> None:
    asked: list[int] = []

    def denoise(x_t: Tensor, t: Tensor, /) -> Prediction:
        assert t.dtype == torch.int64
        assert t.shape == (2,)
        assert x_t.dtype == torch.float32
        asked.append(int(t[0]))
        return textured(x_t, t)

    schedule = COSINE.respaced(respacing)
    noise, x_T = noise_and_start(0, 1)
    sample(sampler, denoise, x_T, schedule, noise=noise)
    assert set(asked) <= set(schedule.timestep_map.tolist())
    in_order = sorted(set(asked), reverse=True)
    wanted = schedule.timestep_map[::-1].tolist()
    if sampler in ("dpmpp_2m", "dpmpp_2m_sde", "unipc"):
        wanted = wanted[:-1]  # t = 0 spoils their last step
    assert in_order == wanted
    if sampler not in ("plms", "heun"):  # these ask twice, PLMS once ahead
        assert asked == wanted


@every_sampler
def test_raising_in_the_callback_stops_within_the_step(sampler: str) -> None:
    class Cancelled(Exception):
        pass

    calls = count()
    seen: list[StepInfo] = []

    def denoise(x_t: Tensor, t: Tensor, /) -> Prediction:
        next(calls)
        return textured(x_t, t)

    def cancel(step: StepInfo) -> None:
        seen.append(step)
        if len(seen) == 3:
            raise Cancelled

    noise, x_T = noise_and_start(0)
    with pytest.raises(Cancelled):
        sample(sampler, denoise, x_T, LINEAR.respaced("20"), noise=noise, callback=cancel)
    assert len(seen) == 3
    # one call a step, and PLMS's one more; linear's first timestep is crossed without it
    assert next(calls) <= 4


@every_sampler
def test_the_callback_hears_of_every_step_and_of_the_last_picture(sampler: str) -> None:
    seen: list[StepInfo] = []
    noise, x_T = noise_and_start(0)
    x = sample(sampler, textured, x_T, COSINE.respaced("10"), noise=noise, callback=seen.append)
    assert [step.index for step in seen] == list(range(seen[0].total))
    assert len(seen) == seen[0].total
    assert seen[0].timestep == 999
    torch.testing.assert_close(seen[-1].x_t, x)
    for step in seen:
        assert step.x_t.shape == step.x0.shape == x.shape
        assert float(step.x0.abs().max()) <= 1
        assert float(step.x_t.abs().max()) < 10  # x_t, not k-diffusion's scaling of it


@every_sampler
def test_clipping_keeps_the_picture_within_bounds(sampler: str) -> None:
    def wild(x_t: Tensor, t: Tensor, /) -> Prediction:
        return Prediction(-3 * x_t, torch.zeros_like(x_t))

    noise, x_T = noise_and_start(0)
    x = sample(sampler, wild, x_T, COSINE.respaced("10"), noise=noise)
    assert float(x.abs().max()) <= 1


@every_sampler
def test_known_pixels_come_out_as_they_were(sampler: str) -> None:
    known = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)
    keep = torch.zeros(1, 1, 8, 8)
    keep[..., :4] = 1

    def paste(x0: Tensor) -> Tensor:
        return x0 * (1 - keep) + known * keep

    noise, x_T = noise_and_start(0)
    x = sample(sampler, textured, x_T, LINEAR.respaced("10"), noise=noise, denoised_fn=paste)
    torch.testing.assert_close(x[..., :4], known[..., :4], atol=1e-5, rtol=0)
    assert float((x - known)[..., 4:].abs().mean()) > 0.1


@every_sampler
@pytest.mark.parametrize("full", [COSINE, LINEAR], ids=["cosine", "linear"])
def test_an_exact_guide_draws_from_the_conditional_distribution(
    sampler: str, full: Schedule
) -> None:
    """p(y | x0) = exp(k * x0) tilts N(m, s^2) to N(m + k * s^2, s^2)."""
    k = 2.0
    seen: list[float] = []

    def tilt(x_t: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
        seen.append(float(x0.abs().max()))
        a, s = full.alpha_sigma(t, x_t.ndim)
        return k * a * gaussian.STD**2 / (a**2 * gaussian.STD**2 + s**2) + torch.zeros_like(x_t)

    noise = SeededNoise([0])
    x_T = noise(torch.empty(1, 3, 32, 32))
    denoise = gaussian.exact_eps(full)
    x = sample(sampler, denoise, x_T, full.respaced("50"), noise=noise, cond_fn=tilt)
    # condition-mean moves by each step's variance, which coarse steps underestimate
    tolerance = 0.06 if sampler == "ancestral" else 0.02
    wanted = gaussian.MEAN + k * gaussian.STD**2
    assert float(x.mean()) == pytest.approx(wanted, abs=tolerance)
    assert float(x.std()) == pytest.approx(gaussian.STD, rel=0.2)
    assert max(seen) <= 1  # guides see the clipped estimate


@every_sampler
def test_starting_from_a_picture_takes_the_rest_of_the_steps_and_stays_near_it(
    sampler: str,
) -> None:
    schedule = COSINE.respaced("27")
    full = gaussian.exact_eps(COSINE)
    asked: list[int] = []

    def denoise(x_t: Tensor, t: Tensor, /) -> Prediction:
        asked.append(int(t[0]))
        return full(x_t, t)

    noise = SeededNoise([0])
    picture = gaussian.MEAN + gaussian.STD * noise(torch.empty(1, 3, 32, 32))
    start = 3
    noised = schedule.q_sample(picture, start, noise(picture))
    x = sample(sampler, denoise, noised, schedule, noise=noise, start=start)
    assert asked[0] == schedule.timestep(start)
    sigma = float(schedule.sigma(schedule.timestep(start)))
    assert float((x - picture).abs().mean()) < 1.2 * sigma
    assert float(x.std()) == pytest.approx(gaussian.STD, rel=0.15)


@every_sampler
@pytest.mark.parametrize("start", [0, 1])
def test_the_last_steps_alone_are_enough_to_start_from(sampler: str, start: int) -> None:
    noise, x_T = noise_and_start(0)
    x = sample(sampler, textured, x_T, COSINE.respaced("10"), noise=noise, start=start)
    assert torch.isfinite(x).all()


@every_sampler
@pytest.mark.parametrize("full", [COSINE, LINEAR], ids=["cosine", "linear"])
def test_one_step_gives_the_first_clean_estimate(sampler: str, full: Schedule) -> None:
    schedule = full.respaced(1)
    noise, x_T = noise_and_start(0)
    x = sample(
        sampler,
        gaussian.exact_eps(full),
        x_T,
        schedule,
        noise=noise,
        cond_fn=lambda x_t, t, x0: torch.zeros_like(x_t),
    )
    torch.testing.assert_close(x, torch.full_like(x, gaussian.MEAN), atol=0.03, rtol=0)


@every_sampler
def test_sampling_works_where_a_host_turned_gradients_off(sampler: str) -> None:
    noise, x_T = noise_and_start(0)
    wanted = sample(sampler, textured, x_T, LINEAR.respaced("10"), noise=noise)
    with torch.inference_mode():
        noise, x_T = noise_and_start(0)
        x = sample(sampler, textured, x_T, LINEAR.respaced("10"), noise=noise)
    torch.testing.assert_close(x.clone(), wanted, rtol=0, atol=0)


def test_an_unknown_sampler_is_refused_with_the_known_ones() -> None:
    noise, x_T = noise_and_start(0)
    with pytest.raises(GlideError, match=r"'eulr'.*ancestral, ddim, plms, dpmpp_2m"):
        sample("eulr", textured, x_T, LINEAR, noise=noise)


@every_sampler
def test_nan_from_the_model_is_an_error_at_once(sampler: str) -> None:
    calls = count()

    def broken(x_t: Tensor, t: Tensor, /) -> Prediction:
        next(calls)
        return Prediction(torch.full_like(x_t, float("nan")), None)

    noise, x_T = noise_and_start(0)
    with pytest.raises(GlideError, match="NaN or infinity"):
        sample(sampler, broken, x_T, LINEAR.respaced("10"), noise=noise)
    assert next(calls) == 1


@pytest.mark.parametrize("start", [-1, 10, 999])
def test_a_start_outside_the_schedule_is_refused(start: int) -> None:
    noise, x_T = noise_and_start(0)
    with pytest.raises(GlideError, match="expected 0 to 9"):
        sample("ddim", textured, x_T, LINEAR.respaced("10"), noise=noise, start=start)


def test_ddim_with_eta_and_no_noise_source_is_refused() -> None:
    with pytest.raises(GlideError, match="draws noise"):
        sample_ddim(textured, torch.zeros(1, 3, 8, 8), LINEAR.respaced("10"), eta=0.5)


def test_ddim_inverted_and_run_again_gives_the_picture_back() -> None:
    schedule, denoise = COSINE.respaced("ddim100"), gaussian.exact_eps(COSINE)
    noise = SeededNoise([0])
    picture = (gaussian.MEAN + gaussian.STD * noise(torch.empty(1, 3, 16, 16))).clamp(-1, 1)
    inverted = invert_ddim(denoise, picture, schedule)
    assert float(inverted.std()) == pytest.approx(1, abs=0.1)
    again = sample_ddim(denoise, inverted, schedule)
    torch.testing.assert_close(again, picture, atol=0.06, rtol=0)


def test_inversion_can_stop_half_way() -> None:
    seen: list[StepInfo] = []
    schedule = COSINE.respaced("ddim10")
    picture = torch.zeros(1, 3, 8, 8)
    invert_ddim(textured, picture, schedule, stop=4, callback=seen.append)
    assert [step.timestep for step in seen] == [0, 100, 200, 300, 400]
