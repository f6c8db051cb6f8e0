"""Exact conversion of the UNet to and from diffusers' `UNet2DConditionModel`.

OpenAI interleaves q, k and v per head in one kernel-1 convolution where diffusers has three
matrices. The text encoder stays ours: diffusers' UNet is given its `last_hidden_state` [B, L, W] as
`encoder_hidden_states` and its pooled vector [B, E] as `class_labels`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from glide_core.checkpoints.files import check_tensors
from glide_core.checkpoints.loading import model_from_state_dict
from glide_core.config import GlideConfig, UNetConfig
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel

# OpenAI's names and diffusers': several where OpenAI's projection is fused
_ENDS = {
    "time_embed.0": ("time_embedding.linear_1",),
    "time_embed.2": ("time_embedding.linear_2",),
    "input_blocks.0.0": ("conv_in",),
    "out.0": ("conv_norm_out",),
    "out.2": ("conv_out",),
}
_RES = {
    "in_layers.0": ("norm1",),
    "in_layers.2": ("conv1",),
    "emb_layers.1": ("time_emb_proj",),
    "out_layers.0": ("norm2",),
    "out_layers.3": ("conv2",),
    "skip_connection": ("conv_shortcut",),
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
    for ours, theirs in layers(model.config.unet):
        for suffix in (".weight", ".bias"):
            if (value := state.get(ours + suffix)) is None:
                continue  # a skip connection that is the identity
            if value.ndim == 3:  # OpenAI's projections are convolutions with a kernel of 1
                value = value[..., 0]
            for name, piece in zip(theirs, _split(value, len(theirs), heads), strict=True):
                converted[name + suffix] = piece
    return diffusers_config(model.config), converted


def from_diffusers(state: Mapping[str, Tensor], model: GlideModel) -> GlideModel:
    """Turn a UNet from `to_diffusers`, trained further there, back into a GLIDE model.

    model: the one that it was made of; gives the config and the text encoder. GlideError when
    tensors are missing, too many or of another shape.
    """
    check_tensors(state, to_diffusers(model)[1], "The diffusers UNet")
    merged = {key: value.clone() for key, value in model.openai_state_dict().items()}
    for ours, theirs in layers(model.config.unet):
        for key in (f"{ours}.weight", f"{ours}.bias"):
            if key in merged:
                pieces = [state[name + key.removeprefix(ours)] for name in theirs]
                fused = fuse(pieces, model.config.unet.num_head_channels)
                merged[key] = fused.view_as(merged[key])
    return model_from_state_dict(merged, model.config, where="The diffusers UNet")


def diffusers_config(config: GlideConfig) -> dict[str, Any]:
    """The keyword arguments of `UNet2DConditionModel`, besides defaults, that make it GLIDE's."""
    unet = config.unet
    if unet.channel_mult[0] != 1 or unet.patch_size != 1 or unet.coord_channels or unet.sigma_data:
        raise GlideError(
            "This UNet has no counterpart in diffusers. Expected a channel_mult that begins with "
            "1, and no patch_size, coord_channels or sigma_data, which the bundled models have."
        )
    attended = _attended(unet)
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
        "norm_num_groups": unet.norm_groups,
        "dropout": unet.dropout,
    }


def layers(unet: UNetConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Layers that may hold a weight and a bias: OpenAI's name, diffusers' names of its parts."""
    yield from _ENDS.items()
    for ours, theirs in _blocks(unet):
        inside = _ATTENTION if ".attentions." in theirs else _RES
        for name, parts in inside.items():
            yield f"{ours}.{name}", tuple(f"{theirs}.{part}" for part in parts)


def _blocks(unet: UNetConfig) -> Iterator[tuple[str, str]]:
    """Pairs of names (OpenAI's, diffusers') of the residual and attention blocks."""
    attended, count = _attended(unet), unet.num_res_blocks
    for level, has_attention in enumerate(attended):
        theirs = f"down_blocks.{level}"
        first = 1 + level * (count + 1)
        for i in range(count):
            yield f"input_blocks.{first + i}.0", f"{theirs}.resnets.{i}"
            if has_attention:
                yield f"input_blocks.{first + i}.1", f"{theirs}.attentions.{i}"
        if level < len(attended) - 1:
            yield f"input_blocks.{first + count}.0", f"{theirs}.downsamplers.0"
    yield "middle_block.0", "mid_block.resnets.0"
    yield "middle_block.1", "mid_block.attentions.0"
    yield "middle_block.2", "mid_block.resnets.1"
    for level, has_attention in enumerate(reversed(attended)):
        theirs = f"up_blocks.{level}"
        for i in range(count + 1):
            ours = f"output_blocks.{level * (count + 1) + i}"
            yield f"{ours}.0", f"{theirs}.resnets.{i}"
            if has_attention:
                yield f"{ours}.1", f"{theirs}.attentions.{i}"
        if level < len(attended) - 1:
            yield f"{ours}.{1 + has_attention}", f"{theirs}.upsamplers.0"


def _attended(unet: UNetConfig) -> list[bool]:
    """Whether each level has attention."""
    return [2**level in unet.attention_factors for level in range(len(unet.channel_mult))]


def _split(value: Tensor, parts: int, head_channels: int) -> Sequence[Tensor]:
    """[heads * parts * d, ...] interleaved per head to `parts` tensors [heads * d, ...]."""
    if parts == 1:
        return [value]
    split = value.reshape(-1, parts, head_channels, *value.shape[1:])
    return [part.flatten(0, 1) for part in split.unbind(1)]


def fuse(pieces: Sequence[Tensor], head_channels: int) -> Tensor:
    """Interleave parts [heads * d, ...] per head: [heads * parts * d, ...], as OpenAI has them."""
    if len(pieces) == 1:
        return pieces[0]
    split = [piece.reshape(-1, head_channels, *piece.shape[1:]) for piece in pieces]
    return torch.stack(split, dim=1).flatten(0, 2)
