"""A distribution with a known answer: pixels i.i.d. N(MEAN, STD^2), whose exact eps is known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from glide_core.diffusion.schedule import Schedule
from glide_core.diffusion.types import EpsModel, Prediction

MEAN, STD = 0.3, 0.25


def exact_eps(schedule: Schedule) -> EpsModel:
    """E[eps | x_t], and no variance."""

    def denoise(x_t: Tensor, t: Tensor, /) -> Prediction:
        a, s = schedule.alpha_sigma(t, x_t.ndim)
        return Prediction(s * (x_t - a * MEAN) / (a * a * STD**2 + s * s), None)

    return denoise


def exact(schedule: Schedule) -> EpsModel:
    """E[eps | x_t] and the v that makes the learned variance that of p(x_{t-1} | x_t)."""
    ab = schedule.alphas_cumprod
    of_x0 = STD**2 * (1 - ab) / (ab * STD**2 + 1 - ab)  # variance of x0 given x_t
    wanted = np.log(schedule.posterior_variance + schedule.posterior_mean_coef1**2 * of_x0)
    low, high = schedule.posterior_log_variance_clipped, np.log(schedule.betas)
    v = 2 * (wanted - low) / (high - low) - 1
    means = exact_eps(schedule)
    index_of = {int(t): i for i, t in enumerate(schedule.timestep_map)}

    def denoise(x_t: Tensor, t: Tensor, /) -> Prediction:
        variance = torch.tensor([v[index_of[int(step)]] for step in t], dtype=torch.float32)
        return Prediction(means(x_t, t).eps, variance.reshape(-1, 1, 1, 1).expand(x_t.shape))

    return denoise


def textured(x_t: Tensor, t: Tensor, /) -> Prediction:
    """A model that is nonlinear, mixes neighbours, and has model_var_values out of [-1, 1]."""
    blurred = torch.nn.functional.avg_pool2d(x_t, 3, 1, 1)
    eps = torch.tanh(2 * x_t - blurred) + 0.1 * torch.cos(t.float() / 90).reshape(-1, 1, 1, 1)
    return Prediction(eps, 1.3 * torch.sin(3 * x_t))
