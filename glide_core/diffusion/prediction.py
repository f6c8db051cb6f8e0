"""Turn a network's raw output into eps and variance, whatever it was trained to predict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from glide_core.config import PredictionType
from glide_core.diffusion.types import Prediction

if TYPE_CHECKING:
    from glide_core.diffusion.schedule import Schedule


def split(
    raw: Tensor, x_t: Tensor, t: Tensor, schedule: Schedule, prediction_type: PredictionType
) -> Prediction:
    """Split raw [B, 2C, H, W] at original timesteps t [B] into eps and variance, float32.

    schedule: the model's, respaced or not.
    v is sqrt(ab) * eps - sqrt(1 - ab) * x0 (Salimans and Ho 2022), hence
    eps = sqrt(ab) * v + sqrt(1 - ab) * x_t.
    """
    channels = x_t.shape[1]
    out, variance = raw.float().tensor_split([channels], dim=1)
    if prediction_type == "v_prediction":
        a, s = schedule.alpha_sigma(t.to(x_t.device), x_t.ndim)
        out = a * out + s * x_t.float()
    return Prediction(out, variance if variance.shape[1] else None)
