"""What the networks share: normalisation in float32, pointwise convolutions over tokens, sinusoids."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def group_norm(norm: Any, x: Tensor) -> Tensor:
    """Normalise [B, C, ...] with float32 statistics and give back x's dtype."""
    if x.dtype == torch.float32 or type(norm) is not nn.GroupNorm or x.device.type == "cpu":
        return norm(x)  # type: ignore[no-any-return]  # CPU kernels accumulate in float32 already
    return F.group_norm(x.float(), norm.num_groups, norm.weight, norm.bias, norm.eps).to(x.dtype)


def norm_act(
    norm: Any, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, *, act: bool
) -> Tensor:
    """GroupNorm, then * (1 + scale) + shift where given ([B, C, 1, 1]), then SiLU if `act`."""
    h = group_norm(norm, x)
    if scale is not None and shift is not None:
        h = torch.addcmul(shift.to(h.dtype), h, 1 + scale.to(h.dtype))
    return F.silu(h) if act else h


def layer_norm(norm: Any, x: Tensor) -> Tensor:
    """Normalise the last axis in float32 and give back x's dtype."""
    return norm(x.float()).to(x.dtype)  # type: ignore[no-any-return]


def feed(layer: Any, x: Tensor) -> Tensor:
    """Run a layer on x in the layer's own dtype.

    Plain torch layers need an input of their weight's dtype; a host's layer classes cast their
    weights to the input instead, and are left to it.
    """
    if type(layer).__module__.startswith("torch."):
        x = x.to(layer.weight.dtype)
    return layer(x)  # type: ignore[no-any-return]


def pointwise(conv: Any, tokens: Tensor) -> Tensor:
    """Apply a kernel-1 Conv1d to tokens [B, L, C_in] -> [B, L, C_out] without moving the channels.

    A plain Conv1d is a matrix product over the last axis; a host's own convolution class (casting,
    LoRA on the fly) must see its `forward`, so it gets the transposed tensor it expects.
    """
    if type(conv) is nn.Conv1d:
        return F.linear(tokens.to(conv.weight.dtype), conv.weight[..., 0], conv.bias)
    return conv(tokens.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoids of raw timesteps [B] -> [B, dim], float32, cosines first (reference nn.py)."""
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float32) / half
    freqs = torch.exp(-math.log(max_period) * exponent).to(t.device)
    args = t[:, None].float() * freqs[None]  # [B, half]
    return torch.cat([args.cos(), args.sin()], dim=-1)


def split_heads(x: Tensor, parts: int, head_channels: int) -> tuple[Tensor, ...]:
    """Split [B, L, heads * parts * d] into `parts` tensors [B, heads, L, d].

    The channel axis is interleaved per head (head 0's q, k, v, then head 1's ...), as in OpenAI's
    checkpoints; a plain chunk would load without an error and be wrong.
    """
    b, length, width = x.shape
    heads = width // (parts * head_channels)
    return x.view(b, length, heads, parts, head_channels).permute(3, 0, 2, 1, 4).unbind(0)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, L, d] -> [B, L, heads * d]."""
    b, heads, length, d = x.shape
    return x.transpose(1, 2).reshape(b, length, heads * d)
