"""Classifier-free guidance (Ho and Salimans 2021; section 2.3 of the GLIDE paper)."""

from __future__ import annotations

import torch
from torch import Tensor

from glide_core.diffusion.schedule import Schedule
from glide_core.diffusion.types import BranchDenoiser, Denoiser, Prediction
from glide_core.guidance.condition import (
    GuidanceCallback,
    Interval,
    guidance_strength,
    sigma_inside,
)

CONDITIONAL, UNCONDITIONAL = 0, 1  # branches


def classifier_free(
    denoise: BranchDenoiser,
    scale: float,
    *,
    schedule: Schedule,
    rescale: float = 0.0,
    interval: Interval | None = None,
    guidance_callback: GuidanceCallback | None = None,
) -> Denoiser:
    """Push eps away from the unconditional (or negative) branch: u + scale * (c - u).

    rescale: 0 to 1, how far eps is brought back to the conditional one's spread per image, against
        over-exposure at high scales (Lin et al. 2023, section 3.4).
    interval: guide only where sigma = sqrt((1 - ab) / ab) lies in it (Kynkaanniemi et al. 2024);
        outside, and everywhere at scale 1, the conditional branch is all that is computed.
    guidance_callback: told at every call of the `guidance_strength`, 0 where there was none.

    Only eps is guided; the conditional branch's variance is kept, as in the paper.
    """

    def guided(x_t: Tensor, t: Tensor, /) -> Prediction:
        inside = None if interval is None else sigma_inside(t, interval, schedule)
        if scale == 1 or (inside is not None and not inside.any()):
            if guidance_callback is not None:
                guidance_callback(t, x_t.new_zeros(len(x_t)))
            return denoise(x_t, t, (CONDITIONAL,))[0]
        cond, uncond = denoise(x_t, t, (CONDITIONAL, UNCONDITIONAL))
        eps = uncond.eps + scale * (cond.eps - uncond.eps)
        if rescale:
            eps = torch.lerp(eps, eps * (_spread(cond.eps) / _spread(eps)), rescale)
        if inside is not None:
            eps = torch.where(inside.reshape(-1, *[1] * (eps.ndim - 1)), eps, cond.eps)
        if guidance_callback is not None:
            a, s = schedule.alpha_sigma(t, x_t.ndim)
            guidance_callback(t, guidance_strength((x_t - s * eps) / a, (x_t - s * cond.eps) / a))
        return Prediction(eps, cond.variance)

    return guided


def _spread(eps: Tensor) -> Tensor:
    return eps.std(dim=list(range(1, eps.ndim)), keepdim=True)
