"""8-bit convolutions for a CPU: int8 weights, activations quantized per image while sampling.

oneDNN's quantized convolution, which torch has as an operator, multiplies uint8 activations by int8
weights into int32 and returns float32. A weight has one scale per output channel; an activation has
one scale per image, from its own range. The UNet is called image by image, so that an image is the
same in any batch. Norms, the text encoder, the first and the last convolution, the time
embedding and attention scores stay float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Conv2d
from torch.nn import functional as F

from glide_core.errors import shorten
from glide_core.models.layers import norm_act
from glide_core.models.text_encoder import TextEncoder
from glide_core.models.unet import AttentionBlock, ResBlock, TextContext, UNet

_KEPT = 0.98  # of the range after SiLU: finer steps for all against errors in the few values above
_LEVELS = 254.9  # the highest level is 255.4 before it is rounded down
_SILU_MIN = -0.2784645427610738  # at -1.2784645427610738
_BAND = 2**17  # values read at a time: 0.5 MB of float32, so that they stay in the L2 cache


@cache
def highest_weight() -> int:
    """Highest level of a weight: 127, or 64 on a processor without VNNI.

    There oneDNN adds products of uint8 and int8 in pairs into int16, which saturates above 32,767:
    2 * 255 * 127 is higher, 2 * 255 * 64 is not. One convolution of the highest levels tells.
    """
    conv = Conv2d(64, 16, 3, bias=False)
    conv.weight.data.fill_(1)
    image = torch.full((1, 64, 8, 8), 255, dtype=torch.uint8)
    image = image.contiguous(memory_format=torch.channels_last)
    out = Int8Conv(conv, highest=127).image(Quantized(image, 1.0, 0))
    return 127 if torch.allclose(out, torch.tensor(255.0 * 64 * 9), rtol=0.01) else 64


class Quantized(NamedTuple):
    """One image as uint8 [1, C, H, W], channels_last: value = scale * (level - zero)."""

    levels: Tensor
    scale: float
    zero: int


def group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, float]:
    """Measure the group norm of one image [1, C, H, W] (float32, channels_last).

    Returns the norm as scale and shift per channel [C], and the highest value after it.
    """
    measured = [
        (band.sum(0), band.square().sum(0), band.amax(0), band.amin(0)) for band in _bands(x)
    ]
    sums, squares, high, low = (torch.stack(values) for values in zip(*measured, strict=True))
    count = x[0].numel() // groups
    mean = sums.double().sum(0).view(groups, -1).sum(1) / count
    square = squares.double().sum(0).view(groups, -1).sum(1) / count
    rstd = ((square - mean.square()).clamp_min(0) + eps).rsqrt()
    per_group = x.shape[1] // groups
    scale = weight * rstd.float().repeat_interleave(per_group)
    shift = torch.addcmul(bias, mean.float().repeat_interleave(per_group), scale, value=-1)
    ends = torch.stack([high.amax(0), low.amin(0)]) * scale + shift
    return scale, shift, float(ends.amax())


def _bands(x: Tensor) -> Sequence[Tensor]:
    """Split one image into bands of rows [n * W, C]."""
    _, c, _, width = x.shape
    rows = max(1, _BAND // (c * width))
    return torch.split(x[0].permute(1, 2, 0).flatten(0, 1), rows * width)


def quantize(
    x: Tensor, pad: int, *, norm: tuple[Any, ...] | None = None, double: bool = False
) -> Quantized:
    """Quantize one image [1, C, H, W] (float32, channels_last) over its own range.

    norm: groups, weight, bias and eps of a group norm that is applied first, then SiLU, both band
    by band. double: repeat every pixel 2x2. pad: border of zeros on every side.
    """
    if norm is None:
        low, high = min(0.0, float(x.amin())), max(0.0, float(x.amax()))
    else:  # SiLU increases above its minimum, so that its range is known before it is computed
        factor, shift, highest = group_norm(x, *norm)
        low, high = _SILU_MIN, max(0.0, _KEPT * float(F.silu(torch.tensor(highest))))
    scale = max(high - low, 1e-12) / _LEVELS
    zero = round(-low / scale)
    _, c, height, width = x.shape
    times = 2 if double else 1
    shape = (times * height + 2 * pad, times * width + 2 * pad, c)
    levels = torch.full(shape, zero, dtype=torch.uint8)
    inside = levels[pad : shape[0] - pad, pad : shape[1] - pad]
    offset = torch.tensor(zero + 0.5)  # conversion to uint8 truncates
    top = 0
    for band in _bands(x):
        if norm is not None:
            band = F.silu(torch.addcmul(shift, band, factor), inplace=True)
        # by way of int16, which is seven times as fast as float32 to uint8 directly
        whole = torch.add(offset, band, alpha=1 / scale).to(torch.int16).clamp_max_(255)
        band = whole.to(torch.uint8).view(-1, width, c)
        target = inside[times * top : times * (top + len(band))]
        top += len(band)
        if double:
            band = band[:, None, :, None]
            target = target.view(-1, 2, width, 2, c)
        target.copy_(band)
    return Quantized(levels.permute(2, 0, 1)[None], scale, zero)


class Int8Conv(nn.Module):
    """A convolution with int8 weights and stride 1; in place of nn.Conv2d, Conv1d, Linear."""

    def __init__(self, conv: Any, highest: int = 0) -> None:
        super().__init__()
        weight: Tensor = conv.weight.detach().float()
        self.in_dim = weight.dim()  # a linear layer [B, C], Conv1d [B, C, L], Conv2d [B, C, H, W]
        weight = weight.reshape(*weight.shape, *[1] * (4 - weight.dim()))
        self.pad = weight.shape[-1] // 2 if self.in_dim == 4 else 0
        highest = highest or highest_weight()
        scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / (highest + 0.49)
        levels = (weight / scale[:, None, None, None]).round().to(torch.int8)
        self.packed: Any = levels  # in oneDNN's order for the images of `packed_for`
        self.packed_for: tuple[int, ...] = ()
        zeros = torch.zeros(len(weight))
        self.bias = zeros if conv.bias is None else conv.bias.detach().float()
        self.weight_scale, self.no_zero_point = scale, zeros.long()
        self.weight_sum = levels.flatten(1).sum(1).float() * scale

    def image(self, x: Quantized, onto: Tensor | None = None) -> Tensor:
        """Convolve one image, without padding; add it to `onto` in place where given."""
        levels = x.levels
        if self.packed_for != levels.shape:  # weights in another order take up to 100 times as long
            weight = self.packed.to_dense() if self.packed_for else self.packed
            self.packed = torch.ops.onednn.qconv_prepack(
                weight, self.weight_scale, 1.0, 0, [1, 1], [0, 0], [1, 1], 1, list(levels.shape)
            )
            self.packed_for = tuple(levels.shape)
        # the zero point is subtracted from the bias: oneDNN would sum the weights at every call
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
        """Apply to one [1, C], [1, C, L] or [1, C, H, W] of any float dtype; returns float32."""
        image = x.float().reshape(*x.shape[:2], *[1] * (4 - x.dim()), *x.shape[2:])
        image = image.contiguous(memory_format=torch.channels_last)
        return self.image(quantize(image, self.pad)).reshape(1, -1, *x.shape[2:])


class Int8ResBlock(nn.Module):
    """A ResBlock for one image, whose norm and SiLU end in the quantized input of the next
    convolution."""

    def __init__(self, block: ResBlock) -> None:
        super().__init__()
        self.resample = block.resample
        self.norm1, self.norm2 = block.in_layers[0], block.out_layers[0]
        self.conv1, self.conv2 = Int8Conv(block.in_layers[2]), Int8Conv(block.out_layers[3])
        self.emb = Int8Conv(block.emb_layers[1])
        # a 1x1 convolution takes less time than quantizing its input would
        self.skip = block.skip_connection.float()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm: Any = self.norm1
        x = x.contiguous(memory_format=torch.channels_last)
        if self.resample == "down":
            levels = quantize(F.avg_pool2d(norm_act(norm, x, act=True), 2), 1)
            x = F.avg_pool2d(x, 2)
        else:
            double = self.resample == "up"
            given = norm.num_groups, norm.weight, norm.bias, norm.eps
            levels = quantize(x, 1, norm=given, double=double)
            x = F.interpolate(x, scale_factor=2, mode="nearest") if double else x
        h = self.conv1.image(levels)
        norm = self.norm2
        scale, shift = self.emb(emb)[0].chunk(2)  # each [C]
        weight = norm.weight * (1 + scale)
        bias = torch.addcmul(shift, norm.bias, 1 + scale)
        levels = quantize(h, 1, norm=(norm.num_groups, weight, bias, norm.eps))
        del h  # 50 MB at 256x256
        if isinstance(self.skip, nn.Identity):
            return self.conv2.image(levels).add_(x)
        return self.conv2.image(levels, onto=self.skip(x))


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
    for block in (*unet.input_blocks, unet.middle_block, *unet.output_blocks):
        assert isinstance(block, nn.ModuleList)
        for i, layer in enumerate(block):
            if isinstance(layer, ResBlock):
                block[i] = Int8ResBlock(layer)
            elif isinstance(layer, AttentionBlock):
                layer.qkv, layer.proj_out = Int8Conv(layer.qkv), Int8Conv(layer.proj_out)
                layer.encoder_kv = stored(layer.encoder_kv)
            else:
                layer.float()
    unet.skip_dtype = torch.float16  # 25 MB instead of 50 for a skip of the upsampler
    unet.forward = partial(_image_by_image, unet.forward)  # type: ignore[method-assign]


def _image_by_image(
    predict: Callable[..., Tensor],
    x: Tensor,
    t: Tensor,
    context: TextContext,
    **images: Tensor | None,
) -> Tensor:
    """Call a UNet for each image: in a batch its sums would be in another order."""
    outputs = []
    for i in range(len(x)):
        row = slice(i, i + 1)
        own = {name: value[row] for name, value in images.items() if value is not None}
        outputs.append(predict(x[row], t[row], context.select(row), **own))
    return torch.cat(outputs)


def why_not_int8(device: torch.device | str = "cpu") -> str:
    """Why 8-bit models cannot run on this device; empty if they can."""
    if torch.device(device).type != "cpu":
        return f"8-bit models run on a CPU, not on {torch.device(device)}"
    names = ("qconv_prepack", "qconv2d_pointwise")
    if not all(hasattr(torch.ops.onednn, name) for name in names):
        return f"torch {torch.__version__} has no quantized oneDNN convolutions"
    try:
        with torch.no_grad():
            Int8Conv(Conv2d(16, 16, 3, padding=1))(torch.ones(1, 16, 8, 8))
    except (RuntimeError, TypeError) as error:  # no AVX2, other signatures
        return f"torch {torch.__version__} cannot run them on this processor ({shorten(error)})"
    return ""
