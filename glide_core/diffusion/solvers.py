"""Multistep samplers through diffusers' schedulers, on GLIDE's own timesteps.

The schedulers provide their update rules and nothing else. Timesteps, sigmas and x0 estimates are
ours, because their defaults do not fit GLIDE: "leading" spacing starts at t = 950, respacing
strings are unknown to them, most take no custom timesteps, and sigmas come from float32 products.
So each is set up normally and then given our float64 tables. The step to sigma 0 is the last x0
estimate in every one of these methods and is taken as such.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from glide_core.diffusion.denoiser import Denoiser
from glide_core.diffusion.samplers import Step, StepFn
from glide_core.diffusion.schedule import Schedule
from glide_core.diffusion.types import NoiseSource

# A scheduler of diffusers and the options of its constructor
SOLVERS: dict[str, tuple[str, dict[str, str]]] = {
    # DPM-Solver++(2M), Lu et al. 2022
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    # Zhao et al. 2023. diffusers copies two sigmas to the device and solves a system of equations
    # there at every step, and waits for both; the other solvers never wait.
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),  # Zhang and Chen 2022
}


def multistep(
    name: str, denoiser: Denoiser, schedule: Schedule, indices: Sequence[int], noise: NoiseSource
) -> StepFn:
    """The solver `name` over these indices: one model call per step."""
    import diffusers  # slow to import and only needed here

    scheduler_class, options = SOLVERS[name]
    with torch.device("cpu"):  # whatever torch's default device is
        scheduler = getattr(diffusers, scheduler_class)(
            num_train_timesteps=len(schedule.full), prediction_type="sample", **options
        )
        scheduler.set_timesteps(len(indices))  # resets its history; the tables are replaced below
    sigmas = np.append(schedule.sqrt_recipm1_alphas_cumprod[indices], 0.0)
    # On the CPU, where diffusers keeps them: single numbers, read without waiting for a device.
    scheduler.sigmas = torch.from_numpy(sigmas).float()
    scheduler.timesteps = torch.from_numpy(schedule.timestep_map[indices])
    scheduler.num_inference_steps = len(indices)
    scheduler.set_begin_index(0)

    def step(x: Tensor, index: int) -> Step:
        timestep = schedule.timestep(index)
        x0, _ = denoiser(x, timestep)
        if index == indices[-1]:
            return Step(x0, x0)
        # their own noise would come from one generator for the batch
        drawn = {"variance_noise": noise(x)} if name == "dpmpp_2m_sde" else {}
        return Step(scheduler.step(x0, timestep, x, return_dict=False, **drawn)[0], x0)

    return step


def solver_indices(name: str, indices: range) -> range:
    """The indices at which a solver calls the model: without t = 0, but for DEIS.

    From the last but one step to t = 0 the log noise level falls as far as over many steps before,
    and second-order extrapolation of x0 over that gap overshoots (measured: up to 36 % too much
    variance). DEIS extrapolates eps and is better off with t = 0.
    """
    return indices if name == "deis" or len(indices) == 1 else indices[:-1]
