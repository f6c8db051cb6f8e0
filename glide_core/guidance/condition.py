"""Parts of guides: gradients in any grad mode, sums, intervals."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from glide_core.diffusion.schedule import Schedule
from glide_core.diffusion.types import ConditionFn

Interval = tuple[float, float]  # lowest and highest sigma = sqrt((1 - ab) / ab), both included
# Called while a step is taken: timesteps [B] and one value per image [B], detached. It receives
# what was computed anyway and changes nothing.
GuidanceCallback = Callable[[Tensor, Tensor], None]


def add_guides(*guides: ConditionFn) -> ConditionFn:
    """Apply several guides at once: the sum of their gradients."""

    def total(x_t: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
        gradient = torch.zeros_like(x_t)
        for guide in guides:
            gradient = gradient + guide(x_t, t, x0)
        return gradient

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


def gradient(score: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient of sum(score(x)) with respect to x, float32, under any grad or inference mode.

    Hosts run samplers under torch.inference_mode, whose tensors autograd refuses: leave it for the
    gradient alone, on a clone. All else that `score` uses must go through `clone_if_inference`.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.clone().float().requires_grad_()
        (grad,) = torch.autograd.grad(score(leaf).sum(), leaf)
        return grad.detach()


def clone_if_inference(x: Tensor) -> Tensor:
    """A tensor that autograd accepts: x itself, or a copy if it was made in inference mode."""
    with torch.inference_mode(False):
        return x.clone() if x.is_inference() else x


def encode_image_for_grad(model: nn.Module, *args: Tensor) -> Tensor:
    """Call model.encode_image(*args) with weights that autograd accepts.

    Moving a module under inference mode turns its weights into inference tensors. They are copied
    for the call then, so that the module itself stays as its owner left it.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if not any(tensor.is_inference() for tensor in tensors.values()):
        return model.encode_image(*args)  # type: ignore[operator, no-any-return]
    copies = {f"model.{name}": clone_if_inference(tensor) for name, tensor in tensors.items()}
    return functional_call(_EncodeImage(model), copies, args)  # type: ignore[no-any-return]


class _EncodeImage(nn.Module):
    """functional_call only calls forward; this makes encode_image one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Tensor) -> Tensor:
        return self.model.encode_image(*args)  # type: ignore[operator, no-any-return]
