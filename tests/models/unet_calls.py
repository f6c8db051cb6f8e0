"""What a UNet takes, and how far apart two of its outputs are."""

from __future__ import annotations

import torch
from torch import Tensor

from glide_core.config import ModelKind
from glide_core.models.glide import GlideModel
from glide_core.models.unet import TextContext
from glide_core.sampling import tokenize


def inputs(kind: ModelKind, batch: int = 2, side: int = 32) -> dict[str, Tensor]:
    """x, t and what else the kind takes."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    given = {"x": noise(batch, 3, side, side), "t": torch.tensor([500, 20, 999][:batch])}
    if kind.startswith("upsampler"):
        given["low_res"] = noise(batch, 3, side // 4, side // 4).clamp(-1, 1)
    if kind.endswith("inpaint"):
        given["image"] = noise(batch, 3, side, side).clamp(-1, 1)
        given["keep_mask"] = (noise(batch, 1, side, side) > 0).float()
    return given


def context(model: GlideModel, prompts: list[str]) -> TextContext:
    """Encode prompts one by one, as sampling does."""
    tokens = tokenize(model.config, prompts)
    encoded = [model.encode(each.ids[None], each.mask[None]) for each in tokens]
    return TextContext.cat([model.unet.context(features) for features in encoded])


def rms_over_std(got: Tensor, wanted: Tensor) -> float:
    return ((got - wanted).square().mean().sqrt() / wanted.std()).item()
