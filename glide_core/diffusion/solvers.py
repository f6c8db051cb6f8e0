"""Every other sampler, through diffusers' schedulers on GLIDE's own timesteps.

The schedulers bring their update rules and nothing else. Timesteps, sigmas and x0 estimates are
ours, because their defaults do not fit GLIDE: "leading" spacing starts at t = 950, respacing
strings are unknown to them, most take no custom timesteps, and sigmas come from float32 products.
So each is set up normally and then given our float64 tables. The step to sigma 0 is the last x0
estimate in every one of these methods and is taken as such.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from glide_core.diffusion.plms import SIGMA_ALL_NOISE
from glide_core.diffusion.samplers import first_index, process_x0, timesteps
from glide_core.diffusion.schedule import Schedule
from glide_core.diffusion.types import (
    ConditionFn,
    DenoisedFn,
    Denoiser,
    NoiseSource,
    StepCallback,
    StepInfo,
)
from glide_core.errors import GlideError

# (call, state, x0, variance) to the next state
Update = Callable[[int, Tensor, Tensor, Tensor | None], Tensor]


class Plan(NamedTuple):
    """A scheduler set up for one run."""

    indices: list[int]  # schedule index of every model call, in order
    update: Update  # asked after every call but the last
    sigma_space: bool = False  # its state is x_t / sqrt(ab), k-diffusion's scaling


class InjectedNoise(TorchFunctionMode):
    """Within it, torch.randn draws from a NoiseSource.

    Some schedulers draw their own noise and take only generators; a picture must not depend on its
    batch, so they get the run's noise. The mode is local to the thread and to the call.
    """

    def __init__(self, noise: NoiseSource, like: Tensor) -> None:
        super().__init__()
        self.noise, self.like = noise, like

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.randn:
            return self.noise(self.like)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def sample_solver(
    name: str,
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    *,
    noise: NoiseSource,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
    cond_fn: ConditionFn | None = None,
    callback: StepCallback | None = None,
    start: int | None = None,
) -> Tensor:
    """Sample x0 from x_T, or from a picture noised to index `start`, with the solver `name`.

    cond_fn moves eps (condition-score) before x0 is estimated and clipped for good. The callback is
    told of every model call; Heun makes two a step. GlideError for a name not in `SOLVERS`.
    """
    if name not in _PLANS:
        raise GlideError(f"unknown solver {name!r}: expected one of {', '.join(SOLVERS)}")
    descending = list(range(first_index(schedule, start), -1, -1))
    plan = _PLANS[name](schedule, descending, noise)
    last = len(plan.indices) - 1
    x = x_T.float()
    for call, index in enumerate(plan.indices):
        t = timesteps(x, index, schedule)
        a, s = schedule.alpha_sigma(t, x.ndim)
        eps, variance = denoiser(x, t)
        x0 = process_x0((x - s * eps) / a, clip_denoised, denoised_fn)
        if cond_fn is not None:
            eps = eps - s * cond_fn(x, t, x0).float()
            x0 = process_x0((x - s * eps) / a, clip_denoised, denoised_fn)
        if call == last:
            x = x0
        elif plan.sigma_space:
            a_next = float(np.sqrt(schedule.alphas_cumprod[plan.indices[call + 1]]))
            x = plan.update(call, x / a, x0, variance) * a_next
        else:
            x = plan.update(call, x, x0, variance)
        if callback is not None:
            callback(StepInfo(call, last + 1, schedule.timestep(index), x, x0))
    return x


def _scheduler(name: str, schedule: Schedule, indices: list[int], **config: Any) -> Any:
    """Build diffusers' scheduler `name` over our timesteps and sigmas, one entry per model call."""
    import diffusers  # slow to import and only needed here

    betas = 1 - schedule.original_alphas_cumprod / np.append(
        1.0, schedule.original_alphas_cumprod[:-1]
    )
    scheduler = getattr(diffusers, name)(
        num_train_timesteps=schedule.original_steps, trained_betas=betas, **config
    )
    scheduler.set_timesteps(len(indices))  # resets its history; the tables are replaced below
    sigmas = np.append(schedule.sqrt_recipm1_alphas_cumprod[indices], 0.0)
    scheduler.sigmas = torch.from_numpy(sigmas).float()
    # a float dtype: the Euler family takes integers for positions and refuses them
    scheduler.timesteps = torch.from_numpy(schedule.timestep_map[indices]).float()
    scheduler.num_inference_steps = len(indices)
    scheduler.set_begin_index(0)
    scheduler.is_scale_input_called = True  # we scale; else the Euler family warns at every step
    return scheduler


def _without_t0(indices: list[int]) -> list[int]:
    """Drop the last index where others remain.

    From the last but one to t = 0 the log noise level falls as far as over many steps before, and
    second-order extrapolation over that gap overshoots (measured: up to 36 % too much variance).
    """
    return indices[:-1] if len(indices) > 1 else indices


def _multistep(name: str, schedule: Schedule, indices: list[int], **config: Any) -> Plan:
    scheduler = _scheduler(name, schedule, indices, prediction_type="sample", **config)

    def update(call: int, x: Tensor, x0: Tensor, variance: Tensor | None) -> Tensor:
        out = scheduler.step(x0, scheduler.timesteps[call], x, return_dict=False)
        return out[0]  # type: ignore[no-any-return]

    return Plan(indices, update)


def _dpmpp_2m(schedule: Schedule, indices: list[int], noise: NoiseSource) -> Plan:
    """DPM-Solver++(2M), Lu et al. 2022."""
    return _multistep("DPMSolverMultistepScheduler", schedule, _without_t0(indices))


def _dpmpp_2m_sde(schedule: Schedule, indices: list[int], noise: NoiseSource) -> Plan:
    indices = _without_t0(indices)
    scheduler = _scheduler(
        "DPMSolverMultistepScheduler",
        schedule,
        indices,
        prediction_type="sample",
        algorithm_type="sde-dpmsolver++",
    )

    def update(call: int, x: Tensor, x0: Tensor, variance: Tensor | None) -> Tensor:
        t = scheduler.timesteps[call]
        out = scheduler.step(x0, t, x, variance_noise=noise(x), return_dict=False)
        return out[0]  # type: ignore[no-any-return]

    return Plan(indices, update)


def _unipc(schedule: Schedule, indices: list[int], noise: NoiseSource) -> Plan:
    """UniPC, Zhao et al. 2023."""
    return _multistep("UniPCMultistepScheduler", schedule, _without_t0(indices))


def _deis(schedule: Schedule, indices: list[int], noise: NoiseSource) -> Plan:
    """DEIS, Zhang and Chen 2022. It extrapolates eps and not x0, and is better off with t = 0."""
    return _multistep("DEISMultistepScheduler", schedule, indices)


def _euler(schedule: Schedule, indices: list[int], noise: NoiseSource) -> Plan:
    plan = _multistep("EulerDiscreteScheduler", schedule, indices)
    return plan._replace(sigma_space=True)


def _euler_ancestral(schedule: Schedule, indices: list[int], noise: NoiseSource) -> Plan:
    scheduler = _scheduler("EulerAncestralDiscreteScheduler", schedule, indices)

    def update(call: int, x: Tensor, x0: Tensor, variance: Tensor | None) -> Tensor:
        eps = (x - x0) / scheduler.sigmas[call]
        with InjectedNoise(noise, x):
            out = scheduler.step(eps, scheduler.timesteps[call], x, return_dict=False)
        return out[0]  # type: ignore[no-any-return]

    return Plan(indices, update, sigma_space=True)


def _heun(schedule: Schedule, indices: list[int], noise: NoiseSource) -> Plan:
    """Heun's second order (Karras et al. 2022, algorithm 1), Euler where all is noise.

    Its correction is a difference of two slopes times the step in sigma. From cosine's last
    timestep that step is 20286, and any difference becomes a picture of its own.
    """
    sigmas = schedule.sqrt_recipm1_alphas_cumprod
    lead = sum(sigmas[i] > SIGMA_ALL_NOISE for i in indices[:-1])
    rest = indices[lead:]
    calls = [rest[0], *(i for i in rest[1:] for _ in range(2))]
    scheduler = _scheduler("HeunDiscreteScheduler", schedule, calls)

    def update(call: int, x: Tensor, x0: Tensor, variance: Tensor | None) -> Tensor:
        if call < lead:
            here, there = sigmas[indices[call]], sigmas[indices[call + 1]]
            return x0 + (x - x0) * float(there / here)
        eps = (x - x0) / float(sigmas[calls[call - lead]])
        out = scheduler.step(eps, scheduler.timesteps[call - lead], x, return_dict=False)
        return out[0]  # type: ignore[no-any-return]

    return Plan(indices[:lead] + calls, update, sigma_space=True)


def _ddpm(schedule: Schedule, indices: list[int], noise: NoiseSource) -> Plan:
    """Ancestral sampling once more, in diffusers' words; with the learned variance if there is."""
    import diffusers

    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=schedule.original_steps,
        prediction_type="sample",
        variance_type="learned_range",
        clip_sample=False,
    )
    steps = [schedule.timestep(i) for i in indices]
    scheduler.set_timesteps(timesteps=steps)
    scheduler.alphas_cumprod = torch.from_numpy(schedule.original_alphas_cumprod)

    def update(call: int, x: Tensor, x0: Tensor, variance: Tensor | None) -> Tensor:
        v = torch.full_like(x0, -1.0) if variance is None else variance  # -1: the posterior's
        with InjectedNoise(noise, x):
            out = scheduler.step(torch.cat([x0, v], dim=1), steps[call], x, return_dict=False)
        return out[0]  # type: ignore[no-any-return]

    return Plan(indices, update)


_PLANS: dict[str, Callable[[Schedule, list[int], NoiseSource], Plan]] = {
    "dpmpp_2m": _dpmpp_2m,
    "dpmpp_2m_sde": _dpmpp_2m_sde,
    "unipc": _unipc,
    "deis": _deis,
    "euler": _euler,
    "euler_ancestral": _euler_ancestral,
    "heun": _heun,
    "ddpm": _ddpm,
}
SOLVERS: tuple[str, ...] = tuple(_PLANS)
