"""What the networks share: norms in float32, attention, pointwise convolutions, sinusoids."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SCORES_IN_CACHE = 2**23  # attention scores of one image, all heads: 16 MB in bfloat16


def group_norm(
    norm: Any, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Normalise [B, C, ...] with float32 statistics and give back x's dtype.

    weight, bias: in place of the norm's own [C].
    """
    if type(norm) is not nn.GroupNorm:
        return norm(x)  # type: ignore[no-any-return]
    if weight is None or bias is None:
        weight, bias = norm.weight, norm.bias
    # CPU kernels accumulate in float32 already
    y = x if x.device.type == "cpu" else x.float()
    return F.group_norm(y, norm.num_groups, weight, bias, norm.eps).to(x.dtype)


def norm_act(
    norm: Any, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, *, act: bool
) -> Tensor:
    """GroupNorm, then * (1 + scale) + shift where given ([B, C, 1, 1]), then SiLU if `act`."""
    if scale is None or shift is None:
        h = group_norm(norm, x)
    elif x.device.type == "cpu" and type(norm) is nn.GroupNorm and not torch.is_grad_enabled():
        # scale and shift go into the norm's own weight and bias, image by image: one pass over the
        # picture less, and no rounding between
        weight = norm.weight * (1 + scale.flatten(1).to(norm.weight.dtype))  # [B, C]
        bias = norm.bias * (1 + scale.flatten(1).to(norm.bias.dtype)) + shift.flatten(1)
        images = [
            group_norm(norm, x[i : i + 1], weight[i], bias[i].to(weight.dtype))
            for i in range(len(x))
        ]
        h = images[0] if len(images) == 1 else torch.cat(images)
    else:
        h = group_norm(norm, x)
        h = torch.addcmul(shift.to(h.dtype), h, 1 + scale.to(h.dtype))
    return F.silu(h, inplace=not torch.is_grad_enabled()) if act else h


def add(x: Tensor, fresh: Tensor) -> Tensor:
    """x + fresh, in the memory of `fresh` (a layer's output) where no gradient needs it.

    At 256x256 a new tensor costs more than the sum: the system hands it over page by page.
    """
    if torch.is_grad_enabled() or x.dtype != fresh.dtype:
        return x + fresh
    return fresh.add_(x)


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
    if type(conv) is not nn.Conv1d:
        return conv(tokens.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]
    tokens = tokens.to(conv.weight.dtype)
    if tokens.device.type != "cpu" or torch.is_grad_enabled():
        return F.linear(tokens, conv.weight[..., 0], conv.bias)
    # On a CPU torch's convolution is quicker than its matrix product (float32 on AMD: twice).
    # Tokens are a channels_last picture [B, C, 1, L] as they lie.
    picture = tokens.transpose(1, 2).unsqueeze(2)
    return F.conv2d(picture, conv.weight[..., None], conv.bias).squeeze(2).transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over [B, heads, L, d], without a mask."""
    small = q.shape[1] * q.shape[2] * k.shape[2] <= _SCORES_IN_CACHE
    if q.dtype != torch.bfloat16 or q.device.type != "cpu" or torch.is_grad_enabled() or not small:
        return F.scaled_dot_product_attention(q, k, v)
    # torch's CPU kernel multiplies bfloat16 at a third of the speed of its matrix product (measured
    # without AMX). Image by image the scores stay in the cache.
    q = q * q.shape[-1] ** -0.5
    images = (
        torch.bmm(torch.bmm(qi, ki.transpose(1, 2)).softmax(-1), vi)
        for qi, ki, vi in zip(q, k, v, strict=True)
    )
    return torch.stack(list(images))


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
