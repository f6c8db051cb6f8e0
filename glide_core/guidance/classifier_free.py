"""Classifier-free guidance (Ho and Salimans 2021; section 2.3 of the GLIDE paper)."""

from __future__ import annotations

import torch
from torch import Tensor

from glide_core.diffusion.schedule import Schedule
from glide_core.diffusion.types import CondUncondModel, EpsModel, Prediction
from glide_core.guidance.condition import (
    GuidanceCallback,
    Interval,
    guidance_strength,
    per_image,
    sigma_inside,
)


def classifier_free(
    model: CondUncondModel,
    scale: float,
    *,
    schedule: Schedule,
    rescale: float = 0.0,
    interval: Interval | None = None,
    guidance_callback: GuidanceCallback | None = None,
) -> EpsModel:
    """Move eps away from the unconditional or negative prompt's: uncond + scale * (cond - uncond).

    rescale: 0 to 1, how far the standard deviation of eps, per image, is brought back to that of
        cond, against over-exposure at high scales (Lin et al. 2023, section 3.4).
    interval: guide only where sigma = sqrt((1 - ab) / ab) lies in it (Kynkaanniemi et al. 2024);
        outside, and everywhere at scale 1, only cond is computed.
    guidance_callback: called every time with the `guidance_strength`, 0 where nothing was guided.

    Only eps is guided; the variance of cond is kept, as in the paper.
    """

    def guided(x_t: Tensor, t: Tensor, /) -> Prediction:
        inside = None if interval is None else sigma_inside(t, interval, schedule)
        if scale == 1 or (inside is not None and not inside.any()):
            if guidance_callback is not None:
                guidance_callback(t, x_t.new_zeros(len(x_t)))
            return model(x_t, t, False)[0]
        cond, uncond = model(x_t, t, True)
        eps = uncond.eps + scale * (cond.eps - uncond.eps)
        if rescale:
            eps = torch.lerp(eps, eps * (_std(cond.eps) / _std(eps)), rescale)
        if inside is not None:
            inside = per_image(inside, eps)
            eps = torch.where(inside, eps, cond.eps)
        if guidance_callback is not None:
            a, s = (per_image(table, eps) for table in schedule.alpha_sigma(t, 1))
            guidance_callback(t, guidance_strength((x_t - s * eps) / a, (x_t - s * cond.eps) / a))
        return Prediction(eps, cond.model_var_values)

    return guided


def _std(eps: Tensor) -> Tensor:
    return eps.std(dim=list(range(1, eps.ndim)), keepdim=True)
