"""Classifier-free guidance (section 2.3 of the paper), and how guides are combined and limited."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from glide_core.diffusion.schedule import Schedule
from glide_core.diffusion.types import ConditionFn, CondUncondModel, EpsModel, Prediction

Interval = tuple[float, float]  # lowest and highest sigma = sqrt((1 - ab) / ab), both included
# Called while a step is taken: timesteps [B] and one value per image [B], detached. It receives
# what was computed anyway and changes nothing.
GuidanceCallback = Callable[[Tensor, Tensor], None]


def classifier_free(
    model: CondUncondModel,
    scale: float,
    *,
    schedule: Schedule,
    rescale: float = 0.0,
    interval: Interval | None = None,
    guidance_callback: GuidanceCallback | None = None,
) -> EpsModel:
    """Move eps away from the unconditional or negative prompt's: uncond + scale * (cond - uncond)
    (Ho and Salimans 2021).

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


def add_guides(*guides: ConditionFn) -> ConditionFn:
    """Apply several guides at once: the sum of their gradients."""

    def total(x_t: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
        return sum((guide(x_t, t, x0) for guide in guides), torch.zeros_like(x_t))

    return total


def limit_to_interval(cond_fn: ConditionFn, interval: Interval, schedule: Schedule) -> ConditionFn:
    """Apply a guide only where sigma is in `interval`; elsewhere it is not called."""

    def limited(x_t: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
        inside = sigma_inside(t, interval, schedule)
        if not inside.any():
            return torch.zeros_like(x_t)
        gradient = cond_fn(x_t, t, x0)
        return gradient * per_image(inside.to(gradient.dtype), gradient)

    return limited


def sigma_inside(t: Tensor, interval: Interval, schedule: Schedule) -> Tensor:
    """Which images [B] are at a noise level within the interval, ends included, on t's device."""
    low, high = interval
    sigma = schedule.sigma(t)
    return (low <= sigma) & (sigma <= high)


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Reshape one value per image [B] to [B, 1, ...] for `like`, on its device."""
    values = values.reshape(-1, *[1] * (like.ndim - 1))
    return values.to(like.device, non_blocking=True)


def guidance_strength(guided: Tensor, plain: Tensor, limit: float | None = 1.0) -> Tensor:
    """How far guidance moved the estimate of the clean image: RMS over each image's pixels [B].

    guided, plain: x0 [B, C, H, W] with and without it. Both are clamped to +-`limit`, or the first
    steps, whose x0 is noise divided by nearly nothing, would outweigh all others. None for latents,
    which have no such range.
    """
    if limit is not None:
        guided, plain = guided.clamp(-limit, limit), plain.clamp(-limit, limit)
    return (guided - plain).float().square().flatten(1).mean(1).sqrt()
