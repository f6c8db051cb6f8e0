"""Layers shared by the networks: float32 norms, attention, convolutions, embeddings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_BAND = 2**19  # values of an image normalized at a time: 2 MB in float32
_FEW_PIXELS = 128  # cond and uncond at 8x8
_MANY_WEIGHTS = 2**21  # of a convolution: 8 MB in float32
_SCORES_IN_CACHE = 2**23  # attention scores of one image, all heads: 16 MB in bfloat16


def norm_act(
    norm: Any, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, *, act: bool
) -> Tensor:
    """GroupNorm, then * (1 + scale) + shift where given ([B, C, 1, 1]), then SiLU if `act`.

    Statistics are float32; returns x's dtype.
    """
    if x.device.type == "cpu" and type(norm) is nn.GroupNorm and not torch.is_grad_enabled():
        weight, bias = norm.weight.expand(len(x), -1), norm.bias.expand(len(x), -1)  # [B, C]
        if scale is not None and shift is not None:
            # folded into the norm's weight and bias: saves a pass over the image
            factor = 1 + scale.flatten(1)
            weight, bias = weight * factor, bias * factor + shift.flatten(1)
        images = [
            _norm_act_image(image, norm.num_groups, w, b, norm.eps, act)
            for image, w, b in zip(torch.split(x, 1), weight.float(), bias.float(), strict=True)
        ]
        return images[0] if len(images) == 1 else torch.cat(images)
    if x.dtype == torch.float32 or type(norm) is not nn.GroupNorm or x.device.type == "cpu":
        h = norm(x)  # CPU kernels accumulate in float32 already
    else:
        h = F.group_norm(x.float(), norm.num_groups, norm.weight, norm.bias, norm.eps).to(x.dtype)
    if scale is not None and shift is not None:
        h = torch.addcmul(shift.to(h.dtype), h, 1 + scale.to(h.dtype))
    return F.silu(h, inplace=not torch.is_grad_enabled()) if act else h


def _norm_act_image(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, act: bool
) -> Tensor:
    """Apply norm and SiLU to one image [1, C, H, W]; rounded to x's dtype once, at the end."""
    _, c, height, width = x.shape
    if x.dtype == torch.float32 or x.numel() <= 2 * _BAND:
        h = F.group_norm(x.float(), groups, weight, bias, eps)
        return (F.silu(h, inplace=True) if act else h).to(x.dtype)
    # a float32 copy of a large image would not fit the cache; a band of rows does
    _, mean, rstd = torch.native_group_norm(x, weight, bias, 1, c, height * width, groups, eps)
    factor = weight.view(groups, -1) * rstd.view(groups, 1)
    offset = (bias.view(groups, -1) - factor * mean.view(groups, 1)).view(1, c, 1, 1)
    factor = factor.view(1, c, 1, 1)
    out = torch.empty_like(x)
    rows = max(1, _BAND // (c * width))
    for top in range(0, height, rows):
        band = x[:, :, top : top + rows].float()
        torch.addcmul(offset, band, factor, out=band)
        out[:, :, top : top + rows] = F.silu(band, inplace=True) if act else band
    return out


def add(x: Tensor, output: Tensor) -> Tensor:
    """Return x + output, computed in place in `output` (a layer's output) without gradients.

    At 256x256 on a CPU, allocating a new tensor takes longer than the sum.
    """
    if torch.is_grad_enabled() or x.dtype != output.dtype:
        return x + output
    return output.add_(x)


def call_in_weight_dtype(layer: Any, x: Tensor) -> Tensor:
    """Run a layer on x in the layer's own dtype.

    Plain torch layers need an input of their weight's dtype; a host's layer classes cast their
    weights to the input's dtype themselves.
    """
    if type(layer).__module__.startswith("torch."):
        x = x.to(layer.weight.dtype)
    return layer(x)  # type: ignore[no-any-return]


def conv3x3(conv: Any, x: Tensor) -> Tensor:
    """Apply a 3x3 convolution with padding 1.

    For a small image and a large weight, torch's CPU convolution spends most of its time on
    reordering the weight at every call; a matrix product does not.
    """
    b, c, height, width = x.shape
    weight = conv.weight
    few = b * height * width <= _FEW_PIXELS and type(conv) is nn.Conv2d
    large = weight.dtype == torch.float32 and weight.numel() >= _MANY_WEIGHTS
    large = large or weight.dtype == torch.bfloat16
    if not (few and large) or x.device.type != "cpu" or torch.is_grad_enabled():
        return conv(x)  # type: ignore[no-any-return]
    padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # [B, H + 2, W + 2, C]
    image, row, column, channel = padded.stride()
    windows = padded.as_strided(
        (b, height, width, 3, 3, c), (image, row, column, row, column, channel)
    )
    kernel = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)  # no copy from channels_last
    out = F.linear(windows.reshape(b, height, width, -1), kernel, conv.bias)
    return out.permute(0, 3, 1, 2)


def pointwise(conv: Any, tokens: Tensor) -> Tensor:
    """Apply a kernel-1 Conv1d to tokens [B, L, C_in] -> [B, L, C_out] without a transpose.

    A plain Conv1d is a matrix product over the last axis. A host's convolution class (casting,
    LoRA) is called with the transposed tensor, because its `forward` may do more.
    """
    if type(conv) is not nn.Conv1d:
        return conv(tokens.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]
    tokens = tokens.to(conv.weight.dtype)
    if tokens.device.type != "cpu" or torch.is_grad_enabled():
        return F.linear(tokens, conv.weight[..., 0], conv.bias)
    # On a CPU torch's convolution is faster than its matrix product (float32 on AMD: twice).
    # In memory, tokens are a channels_last image [B, C, 1, L].
    image = tokens.transpose(1, 2).unsqueeze(2)
    return F.conv2d(image, conv.weight[..., None], conv.bias).squeeze(2).transpose(1, 2)


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


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of raw timesteps [B] -> [B, dim], float32, cosines first (reference nn.py)."""
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float32, device="cpu") / half
    freqs = torch.exp(-math.log(10000) * exponent).to(t.device, non_blocking=True)
    args = t[:, None].float() * freqs[None]  # [B, half]
    return torch.cat([args.cos(), args.sin()], dim=-1)


def split_heads(x: Tensor, parts: int, head_channels: int) -> Tensor:
    """Split [B, L, heads * parts * d] into [parts, B, heads, L, d].

    The channel axis is interleaved per head (head 0's q, k, v, then head 1's ...), as in OpenAI's
    checkpoints; a plain chunk would load without an error and give wrong results.
    """
    b, length, width = x.shape
    heads = width // (parts * head_channels)
    return x.view(b, length, heads, parts, head_channels).permute(3, 0, 2, 1, 4)


def merge_heads(x: Tensor) -> Tensor:
    """Merge heads: [B, heads, L, d] -> [B, L, heads * d]."""
    b, heads, length, d = x.shape
    return x.transpose(1, 2).reshape(b, length, heads * d)


def coord_channels(like: Tensor, count: int) -> Tensor:
    """Return cos(pi k u), k = 1..count, of positions u in 0..1 along x, then y: [B, 2n, H, W].

    Without them a UNet has position information only from zero padding, which a small UNet learns
    slowly.
    """
    b, _, height, width = like.shape
    k = torch.arange(1, count + 1, device=like.device, dtype=torch.float32)[:, None]
    x, y = (
        torch.cos(math.pi * k * (torch.arange(n, dtype=k.dtype, device=k.device) + 0.5) / n)
        for n in (width, height)
    )
    planes = torch.cat([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)])
    return planes.to(like.dtype).expand(b, -1, -1, -1)
