"""A tiny model and a tiny noisy CLIP with their initial weights."""

from __future__ import annotations

import pytest
import torch

from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from tools.tiny_models import TINY, TINY_CLIP


@pytest.fixture
def model() -> GlideModel:
    torch.manual_seed(0)
    return GlideModel(TINY)


@pytest.fixture
def clip() -> NoisyClip:
    torch.manual_seed(0)
    return NoisyClip(TINY_CLIP)
