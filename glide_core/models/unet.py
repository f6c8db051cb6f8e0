"""The UNet in its four variants: base, upsampler, inpaint, upsampler-inpaint.

Parameter names and block order are OpenAI's, so their checkpoints load unchanged. The text is
passed as a `TextContext`: the pooled vector, added to the time embedding, and each attention
layer's text keys and values, projected once per prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glide_core.config import GlideConfig, UNetConfig
from glide_core.models.conditions import Precondition, spatial_conditions
from glide_core.models.layers import (
    add,
    attention,
    call_in_weight_dtype,
    conv3x3,
    coord_channels,
    merge_heads,
    norm_act,
    pointwise,
    split_heads,
    timestep_embedding,
)
from glide_core.models.text_encoder import TextFeatures


class TextContext(NamedTuple):
    """Text inputs of the UNet; keys_values has one entry per attention layer, in order."""

    pooled: Tensor  # [B, E]
    keys_values: tuple[Tensor, ...]  # each [2, B, heads, L, d]: the keys, then the values

    def select(self, index: Tensor | slice) -> TextContext:
        """Select images of the batch."""
        layers = tuple(layer[:, index] for layer in self.keys_values)
        return TextContext(self.pooled[index], layers)

    @staticmethod
    def cat(contexts: Sequence[TextContext]) -> TextContext:
        """Join contexts along the batch axis."""
        pooled, keys_values = zip(*contexts, strict=True)
        layers = tuple(torch.cat(layer, dim=1) for layer in zip(*keys_values, strict=True))
        return TextContext(torch.cat(pooled), layers)


class BlockPatches:
    """A host's changes in and between blocks; these change nothing.

    place: "input", "middle" or "output". number: the block's index in the state dict.
    """

    def attention(self, place: str, number: int, h: Tensor) -> Attention:
        """Return the attention for a block with input h; see `AttentionBlock.joint_attention`."""
        return AttentionBlock.joint_attention

    def before_skip(self, h: Tensor, number: int) -> Tensor:
        """Change the output of input block `number` before it is stored as skip connection."""
        return h

    def after_skip(self, h: Tensor, number: int) -> Tensor:
        """Change the output of input block `number` for the next block, not the skip connection."""
        return h

    def before_output(self, h: Tensor, skip: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Change the inputs of output block `number`: h and the skip connection."""
        return h, skip


class ResBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the second norm is scaled and shifted by the embedding.

    `resample` doubles ("up", nearest) or halves ("down", 2x2 mean) the resolution of both branches
    before the first convolution.
    """

    def __init__(
        self, u: UNetConfig, channels: int, out_channels: int, operations: Any, resample: str = ""
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm_act = norm_act  # an attribute, so that another kernel can replace it
        self.in_layers = nn.Sequential(
            operations.GroupNorm(u.norm_groups, channels),
            nn.SiLU(),
            operations.Conv2d(channels, out_channels, 3, padding=1),
        )
        emb = operations.Linear(u.embedding_width, 2 * out_channels)
        self.emb_layers = nn.Sequential(nn.SiLU(), emb)
        self.out_layers = nn.Sequential(
            operations.GroupNorm(u.norm_groups, out_channels),
            nn.SiLU(),
            nn.Dropout(u.dropout),
            operations.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection: Any = nn.Identity()
        if channels != out_channels:
            self.skip_connection = operations.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, _, conv = self.in_layers
        h = self.norm_act(norm, x, act=True)
        if self.resample == "up":
            x, h = (F.interpolate(v, scale_factor=2, mode="nearest") for v in (x, h))
        elif self.resample == "down":
            x, h = F.avg_pool2d(x, 2), F.avg_pool2d(h, 2)
        h = conv3x3(conv, h)
        # emb is already activated: the SiLU is the same for every block and is applied once
        emb = call_in_weight_dtype(self.emb_layers[1], emb)[:, :, None, None]  # [B, 2C, 1, 1]
        scale, shift = emb.chunk(2, dim=1)
        norm, _, dropout, conv = self.out_layers
        h = self.norm_act(norm, h, scale, shift, act=True)
        return add(self.skip_connection(x), conv3x3(conv, dropout(h)))


class AttentionBlock(nn.Module):
    """Attention from pixels to the concatenated text and pixels."""

    def __init__(self, u: UNetConfig, channels: int, text_width: int, operations: Any) -> None:
        super().__init__()
        self.head_channels = u.num_head_channels
        self.norm_act = norm_act
        self.norm = operations.GroupNorm(u.norm_groups, channels)
        self.qkv = operations.Conv1d(channels, 3 * channels, 1)
        self.encoder_kv = operations.Conv1d(text_width, 2 * channels, 1)
        self.proj_out = operations.Conv1d(channels, channels, 1)

    def text_keys_values(self, last_hidden_state: Tensor) -> Tensor:
        """Project the text encoder's output [B, L, W] to keys and values [2, B, heads, L, d]."""
        return split_heads(pointwise(self.encoder_kv, last_hidden_state), 2, self.head_channels)

    def queries_keys_values(self, tokens: Tensor) -> Tensor:
        """Project normalized tokens [B, L, C] to queries, keys, values [3, B, heads, L, d]."""
        return split_heads(pointwise(self.qkv, tokens), 3, self.head_channels)

    def joint_attention(self, tokens: Tensor, keys_values: Tensor) -> Tensor:
        """Attend from normalized tokens [B, HW, C] to the text's keys and values and the tokens;
        returns [B, HW, C], before the output projection."""
        q, k, v = self.queries_keys_values(tokens)
        text_k, text_v = keys_values.to(k.dtype)
        k = torch.cat([text_k, k], dim=2)  # text first, as in the reference
        v = torch.cat([text_v, v], dim=2)
        # No mask on text positions: padding is attended. 1/sqrt(d) as 64**-0.25 on each side.
        return merge_heads(attention(q, k, v))

    def forward(self, x: Tensor, keys_values: Tensor, attend: Attention) -> Tensor:
        b, c, height, width = x.shape
        h = self.norm_act(self.norm, x, act=False)
        tokens = h.permute(0, 2, 3, 1).reshape(b, height * width, c)  # [B, HW, C]
        out = pointwise(self.proj_out, attend(self, tokens, keys_values))
        return add(x, out.reshape(b, height, width, c).permute(0, 3, 1, 2))


Attention = Callable[[AttentionBlock, Tensor, Tensor], Tensor]


class UNet(nn.Module):
    """x_t, timestep and text -> raw output: channels of eps (or v), then of the variance."""

    def __init__(self, config: GlideConfig, *, operations: Any = torch.nn) -> None:
        super().__init__()
        self.config = config
        u = config.unet
        self.precondition = Precondition(config) if u.sigma_data else None
        self.skip_dtype: torch.dtype | None = None  # that skips are kept in; None: the blocks' own
        self.time_embed = nn.Sequential(
            operations.Linear(u.model_channels, u.embedding_width),
            nn.SiLU(),
            operations.Linear(u.embedding_width, u.embedding_width),
        )

        widths = [u.model_channels * m for m in u.channel_mult]
        ch = widths[0]
        first = operations.Conv2d(config.first_channels, ch, 3, padding=1)
        self.input_blocks = nn.ModuleList([nn.ModuleList([first])])
        skips = [ch]
        for level, width in enumerate(widths):
            for _ in range(u.num_res_blocks):
                layers: list[nn.Module] = [ResBlock(u, ch, width, operations)]
                ch = width
                if 2**level in u.attention_factors:
                    layers.append(AttentionBlock(u, ch, config.text.width, operations))
                self.input_blocks.append(nn.ModuleList(layers))
                skips.append(ch)
            if level < len(widths) - 1:
                self.input_blocks.append(nn.ModuleList([ResBlock(u, ch, ch, operations, "down")]))
                skips.append(ch)

        self.middle_block = nn.ModuleList(
            [
                ResBlock(u, ch, ch, operations),
                AttentionBlock(u, ch, config.text.width, operations),
                ResBlock(u, ch, ch, operations),
            ]
        )

        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for i in range(u.num_res_blocks + 1):
                layers = [ResBlock(u, ch + skips.pop(), width, operations)]
                ch = width
                if 2**level in u.attention_factors:
                    layers.append(AttentionBlock(u, ch, config.text.width, operations))
                if level and i == u.num_res_blocks:
                    layers.append(ResBlock(u, ch, ch, operations, "up"))
                self.output_blocks.append(nn.ModuleList(layers))

        self.out = nn.Sequential(
            operations.GroupNorm(u.norm_groups, ch),
            nn.SiLU(),
            operations.Conv2d(ch, 2 * u.channels * u.patch_size**2, 3, padding=1),
        )

    def attention_layers(self) -> list[AttentionBlock]:
        """Return the attention layers in the order of the forward pass."""
        blocks = [*self.input_blocks, self.middle_block, *self.output_blocks]
        return [layer for block in blocks for layer in block if isinstance(layer, AttentionBlock)]

    def context(self, features: TextFeatures) -> TextContext:
        """Project the text for every attention layer; once per prompt, not once per step."""
        states = features.last_hidden_state
        layers = (layer.text_keys_values(states) for layer in self.attention_layers())
        return TextContext(features.pooled, tuple(layers))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: TextContext | TextFeatures,
        *,
        low_res: Tensor | None = None,
        image: Tensor | None = None,
        keep_mask: Tensor | None = None,
        patches: BlockPatches | None = None,
    ) -> Tensor:
        """Predict raw output [B, 2C, H, W], float32.

        x: [B, C, H, W], H and W divisible by 2 ** (levels - 1).
        t: [B] original timesteps 0..999.
        low_res: upsamplers, [B, C, h, w] in [-1, 1], resized here to H x W.
        image, keep_mask: inpainting models, [B, C, H, W] and [B, 1, H, W] with 1 = keep; the image
            is multiplied by the mask here. Without them: zeros (all pixels unknown).
        patches: a host's changes in and between blocks.
        """
        patches = patches or BlockPatches()
        if isinstance(context, TextFeatures):
            context = self.context(context)
        emb = timestep_embedding(t, self.config.unet.model_channels)
        emb = F.silu(call_in_weight_dtype(self.time_embed[0], emb))
        emb = call_in_weight_dtype(self.time_embed[2], emb)
        emb = F.silu(emb + context.pooled.to(emb.dtype))  # [B, E]
        keys_values = iter(context.keys_values)

        def run(block: Any, h: Tensor, place: str, number: int) -> Tensor:
            for layer in block:
                if isinstance(layer, AttentionBlock):
                    h = layer(h, next(keys_values), patches.attention(place, number, h))
                else:
                    h = layer(h, emb)
            return h

        first = self.input_blocks[0][0]  # type: ignore[index]
        conditions = spatial_conditions(self.config, x, low_res, image, keep_mask)
        x_t, patch, waves = x, self.config.unet.patch_size, self.config.unet.coord_channels
        if self.precondition is not None:
            x = self.precondition.network_input(x_t, t, conditions[-1])
        x = torch.cat([x, *(c.to(x.dtype) for c in conditions)], dim=1)
        if patch > 1:
            x = F.pixel_unshuffle(x, patch)
        if waves:
            x = torch.cat([x, coord_channels(x, waves)], dim=1)
        if x.device.type == "cpu" or first.weight.is_contiguous(memory_format=torch.channels_last):
            x = x.contiguous(memory_format=torch.channels_last)  # kept by all following layers
        h, skips = x, []
        for number, block in enumerate(self.input_blocks):
            h = run(block, h, "input", number) if number else call_in_weight_dtype(first, h)
            h = patches.before_skip(h, number)
            skips.append(h if self.skip_dtype is None else h.to(self.skip_dtype))
            h = patches.after_skip(h, number)
        h = run(self.middle_block, h, "middle", 0)
        for number, block in enumerate(self.output_blocks):
            h, skip = patches.before_output(h, skips.pop().to(h.dtype), number)
            h = torch.cat([h, skip], dim=1)
            del skip  # 50 MB in the upsampler's last blocks
            h = run(block, h, "output", number)
        norm, _, conv = self.out
        # float32 as in the reference: guidance amplifies errors of eps
        out = call_in_weight_dtype(conv, norm_act(norm, h.float(), act=True)).float()
        if patch > 1:
            out = F.pixel_shuffle(out, patch)
        if self.precondition is not None:
            out = self.precondition.v_prediction(out, x_t, t, conditions[-1])
        return out
