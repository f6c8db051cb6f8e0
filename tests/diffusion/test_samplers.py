"""What every sampler promises, whatever its mathematics."""

from __future__ import annotations

from itertools import count

import gaussian
import pytest
import torch
from gaussian import textured
from torch import Tensor

from glide_core.diffusion import Denoiser, Schedule, SeededNoise, sample
from glide_core.diffusion.samplers import ddim_reverse, sample_loop
from glide_core.diffusion.types import Prediction, StepInfo
from glide_core.errors import GlideError
from glide_core.names import SAMPLER_ALIASES, SAMPLERS

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
    def sampled(global_seed: int, seed: int) -> Tensor:
        torch.manual_seed(global_seed)
        x_T = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)
        noise = SeededNoise([seed])
        return sample(sampler, textured, x_T, LINEAR.respaced("10"), noise=noise, eta=1.0)

    first = sampled(0, 7)
    torch.testing.assert_close(first, sampled(1, 7), rtol=0, atol=0)
    stochastic = sampler in ("ddpm", "ddim", "dpmpp_2m_sde", "euler_ancestral")
    assert torch.equal(first, sampled(0, 8)) != stochastic


@every_sampler
@pytest.mark.parametrize("respacing", ["fast27", "10"])
def test_the_model_is_called_at_original_timesteps_from_noise_to_image(
    sampler: str, respacing: str
) -> None:
    called: list[int] = []

    def denoise(x_t: Tensor, t: Tensor, /) -> Prediction:
        assert t.dtype == torch.int64
        assert t.shape == (2,)
        assert x_t.dtype == torch.float32
        called.append(int(t[0]))
        return textured(x_t, t)

    schedule = COSINE.respaced(respacing)
    noise, x_T = noise_and_start(0, 1)
    sample(sampler, denoise, x_T, schedule, noise=noise)
    assert set(called) <= set(schedule.timestep_map.tolist())
    in_order = sorted(set(called), reverse=True)
    wanted = schedule.timestep_map[::-1].tolist()
    if sampler in ("dpmpp_2m", "dpmpp_2m_sde", "unipc"):
        wanted = wanted[:-1]  # t = 0 spoils their last step
    assert in_order == wanted
    if sampler not in ("plms", "heun"):  # these ask twice, PLMS once ahead
        assert called == wanted


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
    # one call a step, one more for PLMS, and two a step for Heun
    assert next(calls) <= (6 if sampler == "heun" else 4)


@every_sampler
def test_the_callback_gets_every_step_and_the_last_image(sampler: str) -> None:
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
def test_clipping_keeps_the_image_within_bounds(sampler: str) -> None:
    def wild(x_t: Tensor, t: Tensor, /) -> Prediction:
        return Prediction(-3 * x_t, torch.zeros_like(x_t))

    noise, x_T = noise_and_start(0)
    x = sample(sampler, wild, x_T, COSINE.respaced("10"), noise=noise)
    assert float(x.abs().max()) <= 1


@every_sampler
def test_known_pixels_are_unchanged(sampler: str) -> None:
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
def test_an_exact_guide_samples_the_conditional_distribution(sampler: str, full: Schedule) -> None:
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
    tolerance = 0.06 if sampler == "ddpm" else 0.02
    wanted = gaussian.MEAN + k * gaussian.STD**2
    assert float(x.mean()) == pytest.approx(wanted, abs=tolerance)
    assert float(x.std()) == pytest.approx(gaussian.STD, rel=0.2)
    assert max(seen) <= 1  # guides see the clipped estimate


@every_sampler
def test_starting_from_an_image_runs_the_remaining_steps_and_stays_near_it(
    sampler: str,
) -> None:
    schedule = COSINE.respaced("27")
    full = gaussian.exact_eps(COSINE)
    called: list[int] = []

    def denoise(x_t: Tensor, t: Tensor, /) -> Prediction:
        called.append(int(t[0]))
        return full(x_t, t)

    noise = SeededNoise([0])
    image = gaussian.MEAN + gaussian.STD * noise(torch.empty(1, 3, 32, 32))
    start = 3
    noised = schedule.q_sample(image, start, noise(image))
    x = sample(sampler, denoise, noised, schedule, noise=noise, start=start)
    assert called[0] == schedule.timestep(start)
    sigma = float(schedule.sigma(schedule.timestep(start)))
    assert float((x - image).abs().mean()) < 1.2 * sigma
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


@pytest.mark.parametrize(("alias", "name"), SAMPLER_ALIASES.items())
def test_an_alias_is_the_sampler_it_stands_for(alias: str, name: str) -> None:
    def sampled(sampler: str) -> Tensor:
        noise, x_T = noise_and_start(0)
        return sample(sampler, textured, x_T, LINEAR.respaced("5"), noise=noise)

    assert torch.equal(sampled(alias), sampled(name))


@every_sampler
def test_model_calls_and_steps_are_as_documented(sampler: str) -> None:
    calls, steps = count(), count()

    def model(x_t: Tensor, t: Tensor, /) -> Prediction:
        next(calls)
        return textured(x_t, t)

    noise, x_T = noise_and_start(0)
    schedule = LINEAR.respaced("10")
    sample(sampler, model, x_T, schedule, noise=noise, callback=lambda info: next(steps) and None)
    documented = SAMPLERS[sampler].rpartition(": ")[2].removesuffix(" calls")
    # linear's first timestep is all but pure noise, which PLMS and Heun cross with one call
    expected = {"N": 10, "N + 1": 11, "N - 1": 9, "up to 2 N - 1": 18}[documented]
    assert next(calls) == expected
    assert next(steps) == (9 if documented == "N - 1" else 10)


def test_an_unknown_sampler_is_refused_with_the_known_ones() -> None:
    noise, x_T = noise_and_start(0)
    with pytest.raises(GlideError, match=r"'eulr'.*ddpm, ddim, plms, dpmpp_2m"):
        sample("eulr", textured, x_T, LINEAR, noise=noise)


@every_sampler
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_from_the_model_are_errors_that_name_the_timestep(
    sampler: str, value: float
) -> None:
    def broken(x_t: Tensor, t: Tensor, /) -> Prediction:
        if t[0] > 600:
            return textured(x_t, t)
        return Prediction(torch.full_like(x_t, value), None)  # clipping would hide infinity

    noise, x_T = noise_and_start(0)
    with pytest.raises(GlideError, match="timestep 555 contains NaN or infinity"):
        sample(sampler, broken, x_T, LINEAR.respaced("10"), noise=noise)


@every_sampler
def test_a_result_that_is_not_finite_is_an_error(sampler: str) -> None:
    def guide(x_t: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
        return torch.full_like(x_t, 1e38) * 100

    noise, x_T = noise_and_start(0)
    with pytest.raises(GlideError, match="NaN or infinity"):
        sample(
            sampler,
            textured,
            x_T,
            LINEAR.respaced("10"),
            noise=noise,
            cond_fn=guide,
            clip_guided=False,
        )


@pytest.mark.parametrize("eta", [float("-inf"), float("nan"), 1e38])
def test_an_eta_that_gives_no_image_is_an_error(eta: float) -> None:
    noise, x_T = noise_and_start(0)
    with pytest.raises(GlideError, match="NaN or infinity"):
        sample("ddim", textured, x_T, LINEAR.respaced("10"), noise=noise, eta=eta)


@pytest.mark.parametrize("start", [-1, 10, 999])
def test_a_start_outside_the_schedule_is_refused(start: int) -> None:
    noise, x_T = noise_and_start(0)
    with pytest.raises(GlideError, match="expected 0 to 9"):
        sample("ddim", textured, x_T, LINEAR.respaced("10"), noise=noise, start=start)


def test_ddim_inverted_and_run_again_gives_the_image_back() -> None:
    schedule, denoise = COSINE.respaced("ddim100"), Denoiser(gaussian.exact_eps(COSINE), COSINE)
    noise = SeededNoise([0])
    image = (gaussian.MEAN + gaussian.STD * noise(torch.empty(1, 3, 16, 16))).clamp(-1, 1)
    inverted = sample_loop(ddim_reverse(denoise, schedule), image, schedule, range(100))
    assert float(inverted.std()) == pytest.approx(1, abs=0.1)
    again = sample("ddim", gaussian.exact_eps(COSINE), inverted, schedule, noise=noise)
    torch.testing.assert_close(again, image, atol=0.06, rtol=0)


def test_inversion_can_stop_half_way() -> None:
    seen: list[StepInfo] = []
    schedule = COSINE.respaced("ddim10")
    image = torch.zeros(1, 3, 8, 8)
    step = ddim_reverse(Denoiser(textured, COSINE), schedule)
    sample_loop(step, image, schedule, range(5), seen.append)
    assert [step.timestep for step in seen] == [0, 100, 200, 300, 400]
