"""Training losses: hybrid (simple + variational bound) for diffusion, contrastive for CLIP.

A weighting is a weight of the squared error of x0, the same whatever the network predicts: an error
d of x0 is an error sqrt(snr) d of eps and sqrt(snr + 1) d of v, snr = alpha_bar / (1 - alpha_bar).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from glide_core.config import PredictionType
from glide_core.diffusion.schedule import Schedule
from glide_core.errors import GlideError
from glide_core.names import WEIGHTINGS

GAMMA = 5.0  # of min-snr, as its authors recommend
LARGEST = 100.0  # a cap: the eps of the last cosine steps would weigh 1 / alpha_bar = 4e8


def hybrid_loss(
    raw: Tensor,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    noise: Tensor,
    schedule: Schedule,
    prediction_type: PredictionType,
) -> tuple[Tensor, Tensor]:
    """L_hybrid of Nichol and Dhariwal 2021 (section 3.1) for raw output [B, 2C, H, W].

    Returns two losses per image, [B]: the mean squared error of eps or v ("simple"), and the step's
    term of the variational bound in bits per dimension, times T / 1000. The bound trains the
    variance alone: the mean enters it detached. As in the reference (clip_denoised=False), the
    predicted x0 is not clamped.
    """
    if raw.dtype != torch.float64:
        raw = raw.float()
    out, model_var_values = raw.chunk(2, dim=1)
    a, s = schedule.alpha_sigma(t, x0.ndim)
    if prediction_type == "v_prediction":
        target = a * noise - s * x0
        x0_hat = a * x_t - s * out.detach()
    else:
        target = noise
        x0_hat = (x_t - s * out.detach()) / a
    simple = (out - target).square().mean(dim=(1, 2, 3))
    bound = variance_bound(x0, x_t, x0_hat, model_var_values, t, schedule)
    return simple, bound * (len(schedule) / 1000)


def variance_bound(
    x0: Tensor,
    x_t: Tensor,
    x0_hat: Tensor,
    model_var_values: Tensor,
    t: Tensor,
    schedule: Schedule,
) -> Tensor:
    """KL(q(x_{t-1}|x_t, x0) || p(x_{t-1}|x_t)) in bits per dimension, [B]; at t = 0 the
    decoder's negative log-likelihood of 8-bit pixels."""
    tables = schedule.on(t.device)
    at = t[:, None, None, None]
    low, high = tables.posterior_log_variance_clipped[at], tables.log_betas[at]
    c1, c2 = tables.posterior_mean_coef1[at], tables.posterior_mean_coef2[at]
    fraction = (model_var_values + 1) / 2
    log_variance = fraction * high + (1 - fraction) * low
    mean, mean_hat = c1 * x0 + c2 * x_t, c1 * x0_hat + c2 * x_t
    kl = 0.5 * (
        log_variance
        - low
        + (low - log_variance).exp()
        + (mean - mean_hat).square() * (-log_variance).exp()
        - 1
    )
    decoder = -discretized_log_likelihood(x0, mean_hat, 0.5 * log_variance)
    per_pixel = torch.where(at == 0, decoder, kl)
    return per_pixel.mean(dim=(1, 2, 3)) / math.log(2)


def discretized_log_likelihood(x0: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of 8-bit pixels x0 in [-1, 1] under a Gaussian, elementwise."""
    inverse = (-log_scale).exp()
    centred = x0 - mean
    upper = torch.special.ndtr(inverse * (centred + 1 / 255))
    lower = torch.special.ndtr(inverse * (centred - 1 / 255))
    probability = torch.where(x0 < -0.999, upper, torch.where(x0 > 0.999, 1 - lower, upper - lower))
    return probability.clamp(min=1e-12).log()


def loss_weights(
    name: str, prediction_type: PredictionType, schedule: Schedule
) -> NDArray[np.float64]:
    """Factors [T] on the mean squared error of the network's prediction.

    uniform: 1 (the paper, for eps). snr: the error of eps, which gives the noisiest steps, where
    the layout is decided, little weight. v: the error of v (Salimans and Ho 2022, SNR + 1).
    truncated-snr: max(snr, 1), also theirs. min-snr: min(snr, 5) (Hang et al. 2023).
    """
    if name == "uniform":
        return np.ones(len(schedule))
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    of_x0 = {
        "snr": snr,
        "v": snr + 1,
        "truncated-snr": np.maximum(snr, 1),
        "min-snr": np.minimum(snr, GAMMA),
    }
    if name not in of_x0:
        raise GlideError(f"unknown weighting {name!r}: expected {', '.join(WEIGHTINGS)}")
    own = snr + 1 if prediction_type == "v_prediction" else snr
    weights: NDArray[np.float64] = np.minimum(of_x0[name] / own, LARGEST)
    return weights


def contrastive_loss(image: Tensor, text: Tensor, logit_scale: float) -> Tensor:
    """CLIP's symmetric cross-entropy over a batch of matching rows [B, n]; a scalar."""
    logits = logit_scale * F.normalize(image.float()) @ F.normalize(text.float()).T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
