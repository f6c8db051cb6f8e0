"""CLIP scores of images for a text: for ranking, and for choosing the best of many."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glide_core.guidance.clip import clip_preprocessing, normalize

if TYPE_CHECKING:
    from glide_core.models.noisy_clip import NoisyClip


def noisy_clip_scores(clip: NoisyClip, image_batch: Tensor, text: str) -> list[float]:
    """Cosines of clean images [B, C, H, W] in [-1, 1] with a text, by a noisy CLIP at t = 0."""
    side = clip.config.image_size
    with torch.no_grad():
        small = resize_square(image_batch, side)
        t = torch.zeros(len(small), dtype=torch.int64, device=small.device)
        return _cosines(clip.encode_image(small, t), clip.encode_prompts([text]))


def open_clip_scores(
    model: nn.Module, tokenizer: Callable[[list[str]], Tensor], image_batch: Tensor, text: str
) -> list[float]:
    """Cosines of images [B, C, H, W] in [-1, 1] with a text, by an open_clip model."""
    size, mean, std = clip_preprocessing(model)
    clip: Any = model
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        views = (resize_square(image_batch, size) + 1) / 2
        views = (views - mean.to(views.device)) / std.to(views.device)
        ids = tokenizer([text]).to(views.device)
        return _cosines(clip.encode_image(views.to(dtype)), clip.encode_text(ids))


def resize_square(image_batch: Tensor, side: int) -> Tensor:
    """Resize to squares of the given side; not cropped, since a score must cover all of it."""
    return F.interpolate(
        image_batch.float(), (side, side), mode="bicubic", antialias=True, align_corners=False
    ).clamp(-1, 1)


def _cosines(image: Tensor, text: Tensor) -> list[float]:
    found: list[float] = (normalize(image.float()) * normalize(text.float())).sum(-1).tolist()
    return found
