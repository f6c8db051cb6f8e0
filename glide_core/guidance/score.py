"""How well pictures fit a text, by CLIP: for ranking, and for choosing the best of many."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glide_core.guidance.clip import _preprocessing, normalise

if TYPE_CHECKING:
    from glide_core.models.noisy_clip import NoisyClip


def noisy_clip_scores(clip: NoisyClip, pictures: Tensor, text: str) -> list[float]:
    """Cosines of clean pictures [B, C, H, W] in [-1, 1] with a text, by a noisy CLIP at t = 0."""
    side = clip.config.image_size
    with torch.no_grad():
        small = _resized(pictures, side)
        t = torch.zeros(len(small), dtype=torch.int64, device=small.device)
        return _cosines(clip.encode_image(small, t), clip.encode_prompts([text]))


def open_clip_scores(
    model: nn.Module, tokenizer: Callable[[list[str]], Tensor], pictures: Tensor, text: str
) -> list[float]:
    """Cosines of pictures [B, C, H, W] in [-1, 1] with a text, by an open_clip model."""
    size, mean, std = _preprocessing(model)
    clip: Any = model
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        views = (_resized(pictures, size) + 1) / 2
        views = (views - mean.to(views.device)) / std.to(views.device)
        ids = tokenizer([text]).to(views.device)
        return _cosines(clip.encode_image(views.to(dtype)), clip.encode_text(ids))


def _resized(pictures: Tensor, side: int) -> Tensor:
    """Squares of the given side: the whole picture, squeezed, for a score must see all of it."""
    return F.interpolate(
        pictures.float(), (side, side), mode="bicubic", antialias=True, align_corners=False
    ).clamp(-1, 1)


def _cosines(image: Tensor, text: Tensor) -> list[float]:
    found: list[float] = (normalise(image.float()) * normalise(text.float())).sum(-1).tolist()
    return found
