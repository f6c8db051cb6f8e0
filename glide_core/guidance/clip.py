"""CLIP guidance by a CLIP trained on noised images, and by any other (paper, section 2.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from glide_core.diffusion.schedule import Schedule
from glide_core.diffusion.types import ConditionFn
from glide_core.errors import GlideError
from glide_core.guidance.guides import GuidanceCallback, per_image

if TYPE_CHECKING:
    from glide_core.models.noisy_clip import NoisyClip

LOGIT_SCALE = 100.0  # exp of CLIP's trained temperature; in the reference an option, not a weight
_SMALLEST_CUTOUT = 0.6  # of the image's shorter side


def noisy_clip_guide(
    clip: NoisyClip,
    text_embedding: Tensor,
    scale: float,
    *,
    guidance_callback: GuidanceCallback | None = None,
) -> ConditionFn:
    """Gradient of scale * 100 * cos(image, text) at the noised x_t itself: the reference's cond_fn.

    text_embedding: [B, n] or [1, n], `clip.encode_text`'s output; need not be normalized.
    guidance_callback: called every time with the cosine, -1 to 1.
    """
    logit_scale = clip.config.logit_scale

    def cond_fn(x_t: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
        text = clone_if_inference(F.normalize(text_embedding.detach().float()).to(x_t.device))
        times = t.to(x_t.device, non_blocking=True)

        def score(x: Tensor) -> Tensor:
            image = F.normalize(encode_image_for_grad(clip, x, clone_if_inference(times)).float())
            cosine = (text * image).sum(-1)
            if guidance_callback is not None:
                guidance_callback(t, cosine.detach())
            return logit_scale * cosine

        return gradient(score, x_t) * scale

    return cond_fn


def open_clip_guide(
    model: nn.Module,
    text_embedding: Tensor,
    scale: float,
    *,
    schedule: Schedule,
    seed: int | Sequence[int] = 0,
    cutouts: int = 8,
    blend: bool = True,
    guidance_callback: GuidanceCallback | None = None,
) -> ConditionFn:
    """Gradient of scale * 100 * mean cos(cutout, text), by a CLIP trained on clean images.

    It is given the x0 estimate, or, with `blend`, fac * x0 + (1 - fac) * x_t where
    fac = sqrt(1 - ab) (Crowson 2021): late in the run x_t is nearly clean and is what the step will
    keep. The gradient at that image is used in place of the one at x_t, which would cost the UNet's
    backward pass; and the factor dx0/dx_t = 1/sqrt(ab) is 20291 where the cosine schedule starts.

    model: an open_clip model (`encode_image`, `visual`). text_embedding: [B, n] or [1, n].
    seed: of the cutouts; one per image where they are to differ. cutouts: the whole image and
        cutouts - 1 random squares of 60 to 100 % of its side, new at every timestep.
    guidance_callback: called every time with the cosine, -1 to 1, the mean over an image's cutouts.
    """
    if cutouts < 1:
        raise GlideError(f"cutouts is {cutouts}: expected 1 or more")
    size, channel_means, channel_stds = clip_preprocessing(model)

    def cond_fn(x_t: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
        text = clone_if_inference(F.normalize(text_embedding.detach().float()).to(x_t.device))
        seeds = [seed] * len(x_t) if isinstance(seed, int) else list(seed)
        if len(seeds) != len(x_t):
            raise GlideError(f"{len(seeds)} cutout seeds for {len(x_t)} images: expected as many")
        draws = [seed * 1_000_003 + time for seed, time in zip(seeds, t.tolist(), strict=True)]

        def score(x: Tensor) -> Tensor:
            views = _cut(x, draws, cutouts, size)
            mean, std = (v.to(x.device, non_blocking=True) for v in (channel_means, channel_stds))
            views = ((views + 1) / 2 - mean) / std
            dtype = next(model.parameters(), views).dtype
            features = F.normalize(encode_image_for_grad(model, views.to(dtype)).float())
            cosine = (text[:, None] * features.reshape(len(x), cutouts, -1)).sum(-1)
            mean_cosine = cosine.mean(1)
            if guidance_callback is not None:
                guidance_callback(t, mean_cosine.detach())
            return LOGIT_SCALE * mean_cosine

        image = x0
        if blend:
            fac = per_image(schedule.alpha_sigma(t, 1)[1], x_t)
            image = fac * x0 + (1 - fac) * x_t
        return gradient(score, image) * scale

    return cond_fn


def _cut(x: Tensor, seeds: Sequence[int], count: int, size: int) -> Tensor:
    """Cut `count` views out of every image of x [B, C, H, W]: [B * count, C, size, size], resized.

    The first is the whole image, the others are squares, the same for the same seed.
    """
    height, width = x.shape[2:]
    views = []
    for image, seed in zip(torch.split(x, 1), seeds, strict=True):
        views.append(image)
        generator = torch.Generator().manual_seed(seed % 2**63)
        for u, v, w in torch.rand(count - 1, 3, dtype=torch.float32, generator=generator).tolist():
            side = round(min(height, width) * (_SMALLEST_CUTOUT + (1 - _SMALLEST_CUTOUT) * u))
            top, left = int(v * (height - side + 1)), int(w * (width - side + 1))
            views.append(image[:, :, top : top + side, left : left + side])
    resized = [F.interpolate(v, (size, size), mode="bicubic", antialias=True) for v in views]
    return torch.cat(resized)


def clip_preprocessing(model: nn.Module) -> tuple[int, Tensor, Tensor]:
    """Input side, and mean and std [3, 1, 1] for images in [0, 1], of an open_clip model."""
    visual: Any = model.visual
    side = visual.image_size
    with torch.inference_mode(False):
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device="cpu").reshape(3, 1, 1)
            for values in (visual.image_mean, visual.image_std)
        )
    return side if isinstance(side, int) else int(side[0]), mean, std


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
