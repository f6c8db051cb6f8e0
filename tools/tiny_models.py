"""Models of a few thousand weights, for tests and for tools that only need some checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from glide_core.config import ClipConfig, GlideConfig, ModelKind, TextConfig, UNetConfig
from glide_core.models.glide import GlideModel

TINY = GlideConfig(
    text=TextConfig(n_vocab=2048, context_length=8, width=32, layers=1, heads=2),
    unet=UNetConfig(
        image_size=16,
        model_channels=32,
        num_res_blocks=1,
        channel_mult=(1, 2),
        attention_factors=(2,),
        num_head_channels=16,
    ),
    tokenizer="glide-small",
)
TINY_CLIP = ClipConfig(
    image_size=16,
    embedding=16,
    image_width=32,
    image_heads=2,
    image_layers=1,
    n_vocab=2048,
    context_length=8,
    text_width=32,
    text_heads=2,
    text_layers=1,
    tokenizer="glide-small",
)


def tiny_variant(
    *, text: Mapping[str, Any] | None = None, unet: Mapping[str, Any] | None = None, **changes: Any
) -> GlideConfig:
    """TINY with other fields: of its text encoder, of its UNet, and of its own."""
    parts = {"text": replace(TINY.text, **(text or {})), "unet": replace(TINY.unet, **(unet or {}))}
    return replace(TINY, **parts, **changes)


# Heads of 64 channels, as in all of OpenAI's models: a file can be read without metadata.
LIKE_OPENAI = tiny_variant(
    text={"width": 64, "heads": 1},
    unet={"model_channels": 64, "channel_mult": (1, 1), "num_head_channels": 64},
)
CLIP_LIKE_OPENAI = replace(TINY_CLIP, image_width=64, image_heads=1, text_width=64, text_heads=1)


def tiny_config(kind: ModelKind) -> GlideConfig:
    """A model of this kind for images of the released models' sizes."""
    upsampler = "upsampler" in kind
    return tiny_variant(
        kind=kind,
        text={"context_length": 24},
        unet={
            "image_size": 256 if upsampler else 64,
            "channel_mult": (1, 1, 1, 1) if upsampler else (1, 1),
            "attention_factors": (8,) if upsampler else (2,),
        },
    )


def tiny_model(kind: ModelKind, seed: int = 0) -> GlideModel:
    torch.manual_seed(seed)
    model = GlideModel(tiny_config(kind))
    for weight in model.parameters():  # the output layers start at zero otherwise
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.05)
    return model.requires_grad_(False).eval()
