"""A noisy CLIP and an un-noised one of 16x16 pixels, with random weights."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from glide_core.diffusion import Schedule
from glide_core.models.noisy_clip import NoisyClip
from tools.tiny_models import TINY_CLIP

FULL = Schedule.named("squaredcos_cap_v2")
TINY = replace(TINY_CLIP, embedding=8, image_width=16, n_vocab=32, text_width=16)


class CleanClip(nn.Module):
    """Has the methods and attributes of an open_clip model that guidance uses."""

    def __init__(self) -> None:
        super().__init__()
        mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
        self.visual = SimpleNamespace(image_size=(12, 12), image_mean=mean, image_std=std)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Tanh(), nn.Flatten())
        self.features.append(nn.Linear(72, 8))

    def encode_image(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (3, 12, 12)
        out: Tensor = self.features(x)
        return out


def noisy_clip() -> NoisyClip:
    torch.manual_seed(0)
    clip = NoisyClip(TINY)
    for parameter in clip.parameters():  # as built, some weights are zero
        nn.init.normal_(parameter, std=0.3)
    return clip


def clean_clip() -> CleanClip:
    torch.manual_seed(0)
    return CleanClip()


def text(batch: int = 2) -> Tensor:
    return torch.randn(batch, 8, generator=torch.Generator().manual_seed(1)) * 3
