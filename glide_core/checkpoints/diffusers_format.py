"""Exact conversion of the UNet to and from diffusers' `UNet2DConditionModel`.

OpenAI interleaves q, k and v per head in one kernel-1 convolution where diffusers has three
matrices. The text encoder stays ours: diffusers' UNet is given its `last_hidden_state` [B, L, W] as
`encoder_hidden_states` and its pooled vector [B, E] as `class_labels`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glide_core.checkpoints.files import check_tensors
from glide_core.checkpoints.loading import model_from_state_dict
from glide_core.config import GlideConfig, UNetConfig
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel


class Layer(NamedTuple):
    """A module that may hold a weight and a bias, under its names in both formats."""

    ours: str
    theirs: tuple[str, ...]  # several where OpenAI's projection is fused
    kernel: bool  # OpenAI's weight carries a kernel axis of 1


_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_RES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ATTENTION = {
    "qkv": ("to_q", "to_k", "to_v"),
    "encoder_kv": ("add_k_proj", "add_v_proj"),
    "proj_out": ("to_out.0",),
    "norm": ("group_norm",),
}
_DOWN = ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D")
_UP = ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D")


def to_diffusers(model: GlideModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The UNet's config and state dict as diffusers has them; the tensors are the same numbers."""
    state, heads = model.unet.state_dict(), model.config.unet.num_head_channels
    converted: dict[str, Tensor] = {}
    for layer in layers(model.config.unet):
        for suffix in (".weight", ".bias"):
            value = state.get(layer.ours + suffix)
            if value is None:
                continue  # a skip connection that is the identity
            if layer.kernel and suffix == ".weight":
                value = value[..., 0]
            pieces = _split(value, len(layer.theirs), heads)
            for name, piece in zip(layer.theirs, pieces, strict=True):
                converted[name + suffix] = piece
    return diffusers_config(model.config), converted


def from_diffusers(state: Mapping[str, Tensor], model: GlideModel) -> GlideModel:
    """Turn a UNet from `to_diffusers`, trained further there, back into a GLIDE model.

    model: the one that it was made of; gives the config and the text encoder. GlideError when
    tensors are missing, too many or of another shape.
    """
    check_tensors(state, to_diffusers(model)[1], "The diffusers UNet")
    merged = {key: value.clone() for key, value in model.openai_state_dict().items()}
    for layer in layers(model.config.unet):
        for suffix in (".weight", ".bias"):
            if (key := layer.ours + suffix) in merged:
                pieces = [state[name + suffix] for name in layer.theirs]
                value = fuse(pieces, model.config.unet.num_head_channels)
                merged[key] = value[..., None] if layer.kernel and suffix == ".weight" else value
    return model_from_state_dict(merged, model.config, where="The diffusers UNet")


def diffusers_config(config: GlideConfig) -> dict[str, Any]:
    """The keyword arguments of `UNet2DConditionModel` that make it GLIDE's UNet."""
    unet = config.unet
    if unet.channel_mult[0] != 1 or unet.patch_size != 1 or unet.coord_channels or unet.sigma_data:
        raise GlideError(
            "This UNet has no counterpart in diffusers. Expected a channel_mult that begins with "
            "1, and no patch_size, coord_channels or sigma_data, which the bundled models have."
        )
    attended = [2**level in unet.attention_factors for level in range(len(unet.channel_mult))]
    return {
        "sample_size": unet.image_size,
        "in_channels": config.in_channels,
        "out_channels": 2 * unet.channels,
        "block_out_channels": [unet.model_channels * mult for mult in unet.channel_mult],
        "layers_per_block": unet.num_res_blocks,
        "down_block_types": [_DOWN[attention] for attention in attended],
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": [_UP[attention] for attention in reversed(attended)],
        "cross_attention_dim": config.text.width,
        "attention_head_dim": unet.num_head_channels,  # for these blocks: the width of a head
        "resnet_time_scale_shift": "scale_shift",
        "class_embed_type": "identity",  # class_labels are added to the time embedding
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "act_fn": "silu",
        "norm_num_groups": unet.norm_groups,
        "norm_eps": 1e-5,
        "only_cross_attention": False,
        "center_input_sample": False,
        "dropout": unet.dropout,
    }


def layers(unet: UNetConfig) -> Iterator[Layer]:
    """Every layer of a UNet that may hold a weight and a bias."""
    for ours, theirs in _ENDS.items():
        yield Layer(ours, (theirs,), False)
    for ours, theirs in _blocks(unet):
        if ".attentions." in theirs:
            for name, parts in _ATTENTION.items():
                names = tuple(f"{theirs}.{part}" for part in parts)
                yield Layer(f"{ours}.{name}", names, name != "norm")
        else:
            for a, b in _RES.items():
                yield Layer(f"{ours}.{a}", (f"{theirs}.{b}",), False)


def _blocks(unet: UNetConfig) -> Iterator[tuple[str, str]]:
    """Pairs of names (OpenAI's, diffusers') of the residual and attention blocks."""
    levels, count = len(unet.channel_mult), unet.num_res_blocks
    attended = [2**level in unet.attention_factors for level in range(levels)]
    for level in range(levels):
        theirs = f"down_blocks.{level}"
        for i in range(count):
            ours = f"input_blocks.{1 + level * (count + 1) + i}"
            yield f"{ours}.0", f"{theirs}.resnets.{i}"
            if attended[level]:
                yield f"{ours}.1", f"{theirs}.attentions.{i}"
        if level < levels - 1:
            yield f"input_blocks.{(level + 1) * (count + 1)}.0", f"{theirs}.downsamplers.0"
    yield "middle_block.0", "mid_block.resnets.0"
    yield "middle_block.1", "mid_block.attentions.0"
    yield "middle_block.2", "mid_block.resnets.1"
    for block, level in enumerate(reversed(range(levels))):
        theirs = f"up_blocks.{block}"
        for i in range(count + 1):
            ours = f"output_blocks.{block * (count + 1) + i}"
            yield f"{ours}.0", f"{theirs}.resnets.{i}"
            if attended[level]:
                yield f"{ours}.1", f"{theirs}.attentions.{i}"
        if level:
            yield f"{ours}.{1 + attended[level]}", f"{theirs}.upsamplers.0"


def _split(value: Tensor, parts: int, head_channels: int) -> list[Tensor]:
    """[heads * parts * d, ...] interleaved per head to `parts` tensors [heads * d, ...]."""
    if parts == 1:
        return [value]
    split = value.reshape(-1, parts, head_channels, *value.shape[1:])
    return [split[:, i].flatten(0, 1).contiguous() for i in range(parts)]


def fuse(pieces: Sequence[Tensor], head_channels: int) -> Tensor:
    """Interleave parts [heads * d, ...] per head: [heads * parts * d, ...], as OpenAI has them."""
    if len(pieces) == 1:
        return pieces[0]
    split = [piece.reshape(-1, head_channels, *piece.shape[1:]) for piece in pieces]
    return torch.stack(split, dim=1).flatten(0, 2)
