"""Turn a network's raw output into eps and variance, whatever it was trained to predict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from glide_core.config import PredictionType
from glide_core.diffusion.types import Prediction

if TYPE_CHECKING:
    from glide_core.diffusion.schedule import Schedule


def split(
    raw: Tensor, x_t: Tensor, t: Tensor, schedule: Schedule, prediction_type: PredictionType
) -> Prediction:
    """Split raw [B, 2C, H, W] at original timesteps t [B] into eps and variance, float32.

    schedule: the model's full schedule (1000 steps), never a respaced one.
    v is sqrt(ab) * eps - sqrt(1 - ab) * x0 (Salimans and Ho 2022), hence
    eps = sqrt(ab) * v + sqrt(1 - ab) * x_t.
    """
    channels = x_t.shape[1]
    out, variance = raw.float().split([channels, raw.shape[1] - channels], dim=1)
    if prediction_type == "v_prediction":
        alphas_cumprod = torch.from_numpy(schedule.alphas_cumprod).to(t.device)[t][:, None, None, None]
        a = alphas_cumprod.sqrt().float()
        s = (1 - alphas_cumprod).sqrt().float()
        out = a * out + s * x_t.float()
    return Prediction(out, variance if variance.shape[1] else None)
