"""GLIDE's noise schedules in ComfyUI's words, and where its samplers start on them."""

from __future__ import annotations

from typing import Any

from comfy.model_sampling import EPS, V_PREDICTION, ModelSamplingDiscrete
from torch import Tensor

from glide_core.config import ScheduleConfig
from glide_core.errors import GlideError

# Samplers of core that weigh the slope at a step's far end as much as the one at its beginning.
_FAR_SIGHTED = ("sample_heun", "sample_dpm_2_ancestral", "dpm_fast_function")
MOST_SIGMA = 80.0  # where Karras et al. 2022 start; a picture in so much noise cannot be seen


def sampling_settings(schedule: ScheduleConfig) -> dict[str, Any]:
    """Say a GLIDE schedule in ComfyUI's words, whose names mean other things.

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
    """The whole table of 1000 sigmas; schedulers that ask where to start are told a lower place.

    The cosine schedule ends at sigma 20291. From there to the next of 20 steps is a jump to 12,
    over which heun, dpm_2_ancestral and dpm_fast lose the picture, and karras spends half of its
    steps above sigma 80 (measured: docs/compatibility.md). The reference's own samplers take that
    jump exactly, and go on doing so: they know the table alone.
    """

    @property
    def sigma_max(self) -> Tensor:
        return self.sigmas[self.sigmas <= MOST_SIGMA][-1]


class EpsSigmas(GlideSigmas, EPS):
    """For models that predict eps."""


class VelocitySigmas(GlideSigmas, V_PREDICTION):
    """For models that predict v."""


def start_lower(
    executor: Any,
    noise: Tensor,
    latent: Tensor,
    sampler: Any,
    sigmas: Tensor,
    *rest: Any,
    **more: Any,
) -> Any:
    """Lower the first sigma for samplers that lose the picture on the jump from the table's end.

    An OUTER_SAMPLE wrapper, for schedulers that read the table ("simple", KSampler's first choice,
    "beta"). The noise is scaled by what the run then starts at, so no more than that changes.
    """
    function = getattr(sampler, "sampler_function", None)
    if getattr(function, "__name__", "") in _FAR_SIGHTED and len(sigmas) > 1:
        most = executor.class_obj.model_patcher.get_model_object("model_sampling").sigma_max
        if sigmas[0] > MOST_SIGMA and sigmas[1] < most <= MOST_SIGMA:
            sigmas = sigmas.clone()
            sigmas[0] = most
    return executor(noise, latent, sampler, sigmas, *rest, **more)
