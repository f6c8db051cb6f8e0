"""8-bit convolutions for a CPU: int8 weights, activations quantized per image while sampling.

oneDNN's quantized convolution, which torch has as an operator, multiplies uint8 activations by int8
weights into int32 and returns float32. A weight has one scale per output channel; an activation has
one scale per image, from its own range. Everything is computed image by image, so that an image is
the same in any batch. Norms, the text encoder, the first and the last convolution, the time
embedding and attention scores stay float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Conv2d
from torch.nn import functional as F

from glide_core.errors import shorten
from glide_core.models.text_encoder import TextEncoder
from glide_core.models.unet import AttentionBlock, ResBlock, UNet

_KEPT = 0.98  # of the range after SiLU: finer steps for all against errors in the few values above
_LEVELS = 254.9  # the highest level is 255.4 before it is rounded down
_SILU_MIN = -0.2784645427610738  # at -1.2784645427610738
_BAND = 2**17  # values quantized at a time: 0.5 MB of float32, so that they stay in the L2 cache


class Quantized:
    """One image as uint8 [1, C, H, W], channels_last: value = scale * (level - zero)."""

    def __init__(self, levels: Tensor, scale: float, zero: int) -> None:
        self.levels, self.scale, self.zero = levels, scale, zero


def quantize(x: Tensor, pad: int, *, silu: bool = False, double: bool = False) -> Quantized:
    """Quantize one image [1, C, H, W] (float32, channels_last) over its own range.

    silu: apply it first. double: repeat every pixel 2x2. pad: border of zeros on every side.
    """
    high = float(x.amax())
    if silu:  # increasing above its minimum, so that its range is known before it is computed
        low, high = _SILU_MIN, max(0.0, _KEPT * float(F.silu(torch.tensor(high))))
    else:
        low, high = min(0.0, float(x.amin())), max(0.0, high)
    scale = max(high - low, 1e-12) / _LEVELS
    zero = round(-low / scale)
    _, c, height, width = x.shape
    times = 2 if double else 1
    shape = (times * height + 2 * pad, times * width + 2 * pad, c)
    levels = torch.full(shape, zero, dtype=torch.uint8)
    inside = levels[pad : shape[0] - pad, pad : shape[1] - pad]
    pixels = x[0].permute(1, 2, 0)  # [H, W, C]
    offset = torch.tensor(zero + 0.5)  # conversion to uint8 truncates
    rows = max(1, _BAND // (c * width))
    for top in range(0, height, rows):
        band = pixels[top : top + rows]
        if silu:
            band = F.silu(band)
        band = torch.add(offset, band, alpha=1 / scale).clamp_max_(255)
        target = inside[times * top : times * (top + rows)]
        if double:
            band = band.to(torch.uint8)[:, None, :, None]
            target = target.view(-1, 2, width, 2, c)
        target.copy_(band)
    return Quantized(levels.permute(2, 0, 1)[None], scale, zero)


class Int8Conv(nn.Module):
    """A convolution with int8 weights and stride 1; in place of nn.Conv2d, Conv1d, Linear."""

    bias: Tensor
    weight_scale: Tensor
    weight_sum: Tensor
    no_zero_point: Tensor

    def __init__(self, conv: Any) -> None:
        super().__init__()
        weight: Tensor = conv.weight.detach().float()
        self.in_dim = weight.dim()  # a linear layer [B, C], Conv1d [B, C, L], Conv2d [B, C, H, W]
        weight = weight.reshape(*weight.shape, *[1] * (4 - weight.dim()))
        self.pad = weight.shape[-1] // 2 if self.in_dim == 4 else 0
        scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / 127.49  # not 128
        levels = (weight / scale[:, None, None, None]).round().to(torch.int8)
        self.out_channels = len(weight)
        self.packed: Any = levels  # in oneDNN's order for the images of `packed_for`
        self.packed_for: tuple[int, ...] = ()
        bias = torch.zeros(len(weight)) if conv.bias is None else conv.bias.detach().float()
        self.register_buffer("bias", bias)
        self.register_buffer("weight_scale", scale)
        self.register_buffer("weight_sum", levels.flatten(1).sum(1).float() * scale)
        self.register_buffer("no_zero_point", torch.zeros(len(weight), dtype=torch.int64))

    def image(self, x: Quantized, onto: Tensor | None = None) -> Tensor:
        """Convolve one image, without padding; add it to `onto` in place where given."""
        levels = x.levels
        if self.packed_for != levels.shape:  # weights in another order take up to 100 times as long
            weight = self.packed.to_dense() if self.packed_for else self.packed
            ones = [1, 1]
            self.packed = torch.ops.onednn.qconv_prepack(
                weight, self.weight_scale, 1.0, 0, ones, [0, 0], ones, 1, list(levels.shape)
            )
            self.packed_for = tuple(levels.shape)
        # the zero point is subtracted from the bias: oneDNN would compute it anew at every call
        bias = torch.sub(self.bias, self.weight_sum, alpha=x.zero * x.scale)
        weights = (self.packed, self.weight_scale, self.no_zero_point)
        geometry = ([1, 1], [0, 0], [1, 1], 1, 1.0, 0, torch.float32)
        if onto is None:
            out: Tensor = torch.ops.onednn.qconv2d_pointwise(
                levels, x.scale, 0, *weights, bias, *geometry, "none", [], ""
            )
            return out
        torch.ops.onednn.qconv2d_pointwise.binary(
            levels, x.scale, 0, *weights, onto, bias, *geometry, 1.0, 0, "sum", 1.0, None, [], None
        )
        return onto

    def forward(self, x: Tensor) -> Tensor:
        """Apply to [B, C], [B, C, L] or [B, C, H, W] of any float dtype; returns float32."""
        images = x.float().reshape(*x.shape[:2], *[1] * (4 - x.dim()), *x.shape[2:])
        images = images.contiguous(memory_format=torch.channels_last)
        out = [self.image(quantize(image[None], self.pad)) for image in images]
        return torch.cat(out).reshape(len(x), self.out_channels, *x.shape[2:])


class Int8ResBlock(nn.Module):
    """A ResBlock whose norm and SiLU end in the quantized input of the next convolution."""

    def __init__(self, block: ResBlock) -> None:
        super().__init__()
        self.resample = block.resample
        self.norm1, self.norm2 = block.in_layers[0], block.out_layers[0]
        self.conv1, self.conv2 = Int8Conv(block.in_layers[2]), Int8Conv(block.out_layers[3])
        self.emb = Int8Conv(block.emb_layers[1])
        # a 1x1 convolution takes less time than quantizing its input would
        self.skip = block.skip_connection.float()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        modulation = self.emb(emb)
        x = x.contiguous(memory_format=torch.channels_last)
        out = [self.image(x[i : i + 1], m) for i, m in enumerate(modulation)]
        return out[0] if len(out) == 1 else torch.cat(out)

    def image(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Apply to one image [1, C, H, W] with its scale and shift [2 C]."""
        norm: Any = self.norm1
        double = self.resample == "up"
        h = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        if self.resample == "down":
            levels = quantize(F.avg_pool2d(F.silu(h, inplace=True), 2), 1)
            x = F.avg_pool2d(x, 2)
        else:
            levels = quantize(h, 1, silu=True, double=double)
            x = F.interpolate(x, scale_factor=2, mode="nearest") if double else x
        del h  # 100 MB at 256x256
        h = self.conv1.image(levels)
        norm = self.norm2
        scale, shift = modulation.chunk(2)
        weight = norm.weight * (1 + scale)
        bias = torch.addcmul(shift, norm.bias, 1 + scale)
        h = F.group_norm(h, norm.num_groups, weight, bias, norm.eps)
        levels = quantize(h, 1, silu=True)
        del h
        if isinstance(self.skip, nn.Identity):
            return self.conv2.image(levels).add_(x)
        return self.conv2.image(levels, onto=self.skip(x))


class PerImage(nn.Module):
    """Call a float32 layer image by image: its sums would be in another order in another batch."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.layer(x[i : i + 1].float()) for i in range(len(x))])


class StoredHalf(nn.Module):
    """Call a layer in float32 that is kept in float16, as in its file: half of the memory.

    For what is called once per prompt.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer).half()  # not in the mapped file, which can be closed

    def forward(self, x: Tensor) -> Tensor:
        return copy.deepcopy(self.layer).float()(x)  # type: ignore[no-any-return]


def quantize_model(text: TextEncoder, unet: UNet) -> None:
    """Replace the layers of a model in place, one at a time, which keeps the peak memory low."""
    blocks: Any = text.transformer.resblocks
    half = blocks[0].mlp.c_fc.weight.dtype == torch.float16
    stored: Callable[[Any], Any] = StoredHalf if half else nn.Module.float
    text.token_embedding = stored(text.token_embedding)
    for i, layer in enumerate(blocks):
        blocks[i] = stored(layer)
    for name in ("transformer", "transformer_proj"):
        setattr(text, name, PerImage(getattr(text, name)))
    text.transformer_proj.float()
    for block in (*unet.input_blocks, unet.middle_block, *unet.output_blocks):
        assert isinstance(block, nn.ModuleList)
        for i, layer in enumerate(block):
            if isinstance(layer, ResBlock):
                block[i] = Int8ResBlock(layer)
            elif isinstance(layer, AttentionBlock):
                layer.qkv, layer.proj_out = Int8Conv(layer.qkv), Int8Conv(layer.proj_out)
                layer.encoder_kv = PerImage(stored(layer.encoder_kv))
            else:
                block[i] = PerImage(layer.float())
    for layers, i in ((unet.time_embed, 0), (unet.time_embed, 2), (unet.out, 2)):
        layers[i] = PerImage(layers[i].float())


def why_not_int8(device: torch.device | str = "cpu") -> str:
    """Why 8-bit models cannot run on this device; empty if they can."""
    if torch.device(device).type != "cpu":
        return f"8-bit models run on a CPU, not on {torch.device(device)}"
    names = ("qconv_prepack", "qconv2d_pointwise")
    if not all(hasattr(torch.ops.onednn, name) for name in names):
        return f"torch {torch.__version__} has no quantized oneDNN convolutions"
    try:
        conv = Conv2d(16, 16, 3, padding=1)
        with torch.no_grad():
            Int8Conv(conv)(torch.ones(1, 16, 8, 8))
    except (RuntimeError, TypeError) as error:  # no AVX2, other signatures
        return (
            f"torch {torch.__version__} cannot run them on this processor ({shorten(error, 100)})"
        )
    return ""
