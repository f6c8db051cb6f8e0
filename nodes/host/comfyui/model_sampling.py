"""GLIDE's noise schedules as ComfyUI's model sampling, and where its samplers start."""

from __future__ import annotations

import inspect
from typing import Any

import comfy.samplers
from comfy.model_sampling import EPS, V_PREDICTION, ModelSamplingDiscrete
from torch import Tensor

from glide_core.config import ScheduleConfig
from glide_core.errors import GlideError

# Built-in samplers that weigh the slope at a step's end as much as the one at its beginning.
_END_WEIGHTED = ("heun", "dpm_2_ancestral", "dpm_fast")
MAX_SIGMA = 80.0  # where Karras et al. 2022 start; no image can be seen in so much noise


def sampling_settings(schedule: ScheduleConfig) -> dict[str, Any]:
    """Give a GLIDE schedule as ComfyUI's sampling settings, whose names mean other things.

    ComfyUI's "linear" is linear in the square root of beta; what the paper calls linear is its
    "sqrt_linear". Both tables agree with the reference's to 1e-7.
    """
    steps = schedule.diffusion_steps
    if schedule.noise_schedule == "squaredcos_cap_v2":
        return {"beta_schedule": "cosine", "timesteps": steps}
    if schedule.noise_schedule == "linear":
        scale = 1000 / steps
        ends = {"linear_start": scale * 1e-4, "linear_end": scale * 2e-2}
        return {"beta_schedule": "sqrt_linear", "timesteps": steps, **ends}
    raise GlideError(
        f"the noise schedule {schedule.noise_schedule!r} cannot be sampled in ComfyUI; expected "
        "squaredcos_cap_v2 or linear"
    )


class GlideSigmas(ModelSamplingDiscrete):
    """The whole table of 1000 sigmas; schedulers that ask for the largest get a lower one.

    The cosine schedule ends at sigma 20291. From there to the next of 20 steps is a jump to 12,
    over which heun, dpm_2_ancestral and dpm_fast lose the image, and karras spends half of its
    steps above sigma 80 (measured: docs/compatibility.md). The reference's own samplers take that
    jump exactly: they use the table alone.
    """

    def __init__(self, model_config: Any) -> None:
        super().__init__(model_config)
        self.temperature: float = model_config.glide_config.temperature

    @property
    def sigma_max(self) -> Tensor:
        return self.sigmas[self.sigmas <= MAX_SIGMA][-1]

    def noise_scaling(self, sigma: Tensor, noise: Tensor, *args: Any, **options: Any) -> Tensor:
        """Scale the first noise, with the model's own temperature."""
        return super().noise_scaling(sigma, noise * self.temperature, *args, **options)


class EpsSigmas(GlideSigmas, EPS):
    """For models that predict eps."""


class VelocitySigmas(GlideSigmas, V_PREDICTION):
    """For models that predict v."""


def clamp_start_sigma(
    executor: Any,
    noise: Tensor,
    latent: Tensor,
    sampler: Any,
    sigmas: Tensor,
    *rest: Any,
    **more: Any,
) -> Any:
    """Lower the first sigma for samplers that lose the image on the jump from the table's end.

    An OUTER_SAMPLE wrapper, for schedulers that read the table ("simple", KSampler's first choice,
    "beta"). The noise is scaled by what the run then starts at, so no more than that changes.
    """
    function = getattr(sampler, "sampler_function", None)
    if is_end_weighted(function) and len(sigmas) > 1:
        largest = executor.class_obj.model_patcher.get_model_object("model_sampling").sigma_max
        if sigmas[0] > MAX_SIGMA and sigmas[1] < largest <= MAX_SIGMA:
            sigmas = sigmas.clone()
            sigmas[0] = largest
    return executor(noise, latent, sampler, sigmas, *rest, **more)


def is_end_weighted(function: Any) -> bool:
    """Whether this is the function of a sampler in `_END_WEIGHTED`, a new closure or not."""
    names = [name for name in _END_WEIGHTED if name in comfy.samplers.KSampler.SAMPLERS]
    code = code_of(function)
    return code is not None and any(
        code_of(comfy.samplers.ksampler(name).sampler_function) is code for name in names
    )


def code_of(function: Any) -> Any:
    """Give the code of a function as it was written, without its decorators."""
    return getattr(inspect.unwrap(function), "__code__", None) if function else None
