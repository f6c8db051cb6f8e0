"""8-bit convolutions for a CPU: int8 weights, activations quantized per image while sampling.

oneDNN's quantized convolution, which torch has as an operator, multiplies uint8 activations by int8
weights into int32 and returns float32. A weight has one scale per output channel; an activation has
one scale per image, from its own range. Everything is computed image by image, so that an image is
the same in any batch. Norms, the text encoder, the first and the last convolution, the time
embedding and attention scores stay float32.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Conv2d
from torch.nn import functional as F

from glide_core.errors import shorten
from glide_core.models.layers import join_images
from glide_core.models.text_encoder import TextEncoder
from glide_core.models.unet import AttentionBlock, ResBlock, UNet

_KEPT = 0.98  # of the range after SiLU: finer steps for all against errors in the few values above
_LEVELS = 254.9  # the highest level is 255.4 before it is rounded down
_SILU_MIN = -0.2784645427610738  # at -1.2784645427610738
_BAND = 2**17  # values read at a time: 0.5 MB of float32, so that they stay in the L2 cache


@functools.cache
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


class Normalization(NamedTuple):
    """A group norm of one image as an affine map: scale * x + shift, per channel [C]."""

    scale: Tensor
    shift: Tensor
    highest: float  # value after it


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Normalization:
    """Measure the group norm of one image [1, C, H, W] (float32, channels_last)."""
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
    return Normalization(scale, shift, float(ends.amax()))


def _bands(x: Tensor) -> Sequence[Tensor]:
    """Split one image into bands of rows [n * W, C]."""
    _, c, _, width = x.shape
    rows = max(1, _BAND // (c * width))
    return torch.split(x[0].permute(1, 2, 0).flatten(0, 1), rows * width)


def quantize(
    x: Tensor, pad: int, *, norm: Normalization | None = None, double: bool = False
) -> Quantized:
    """Quantize one image [1, C, H, W] (float32, channels_last) over its own range.

    norm: applied first, then SiLU, both band by band. double: repeat every pixel 2x2. pad: border
    of zeros on every side.
    """
    if norm is None:
        low, high = min(0.0, float(x.amin())), max(0.0, float(x.amax()))
    else:  # SiLU increases above its minimum, so that its range is known before it is computed
        low, high = _SILU_MIN, max(0.0, _KEPT * float(F.silu(torch.tensor(norm.highest))))
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
            band = F.silu(torch.addcmul(norm.shift, band, norm.scale), inplace=True)
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
        self.out_channels = len(weight)
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
        """Apply to [B, C], [B, C, L] or [B, C, H, W] of any float dtype; returns float32."""
        images = x.float().reshape(*x.shape[:2], *[1] * (4 - x.dim()), *x.shape[2:])
        images = images.contiguous(memory_format=torch.channels_last)
        out = join_images([self.image(quantize(image[None], self.pad)) for image in images])
        return out.reshape(len(x), self.out_channels, *x.shape[2:])


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
        return join_images([self.image(x[i : i + 1], m) for i, m in enumerate(modulation)])

    def image(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Apply to one image [1, C, H, W] with its scale and shift [2 C]."""
        norm: Any = self.norm1
        given = norm.num_groups, norm.weight, norm.bias, norm.eps
        double = self.resample == "up"
        if self.resample == "down":
            h = F.avg_pool2d(F.silu(F.group_norm(x, *given), inplace=True), 2)
            levels = quantize(h, 1)
            x = F.avg_pool2d(x, 2)
        else:
            levels = quantize(x, 1, norm=group_norm(x, *given), double=double)
            x = F.interpolate(x, scale_factor=2, mode="nearest") if double else x
        h = self.conv1.image(levels)
        norm = self.norm2
        scale, shift = modulation.chunk(2)
        weight = norm.weight * (1 + scale)
        bias = torch.addcmul(shift, norm.bias, 1 + scale)
        levels = quantize(h, 1, norm=group_norm(h, norm.num_groups, weight, bias, norm.eps))
        del h  # 50 MB at 256x256
        if isinstance(self.skip, nn.Identity):
            return self.conv2.image(levels).add_(x)
        return self.conv2.image(levels, onto=self.skip(x))


class PerImage(nn.Module):
    """Call a float32 layer image by image: its sums would be in another order in another batch."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return join_images([self.layer(x[i : i + 1].float()) for i in range(len(x))])


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
    unet.skip_dtype = torch.float16  # 25 MB instead of 50 for a skip of the upsampler
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
        with torch.no_grad():
            Int8Conv(Conv2d(16, 16, 3, padding=1))(torch.ones(1, 16, 8, 8))
    except (RuntimeError, TypeError) as error:  # no AVX2, other signatures
        return f"torch {torch.__version__} cannot run them on this processor ({shorten(error)})"
    return ""
