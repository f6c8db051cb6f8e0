"""ComfyUI's attention patches on GLIDE's joint attention over text and pixels.

Softmax attention over two sets of keys splits exactly: with L1 and L2 the log-sum-exp of the scores
of pixels and text, `out = (e^L1 out1 + e^L2 out2) / (e^L1 + e^L2)`. So the pixel part is shown to
"attn1" patches (self-attention elsewhere) and the text part to "attn2" patches (cross-attention).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from glide_core.models.layers import merge_heads, split_heads
from glide_core.models.unet import AttentionBlock

Patch = Callable[..., Any]

ATTENTION_PATCHES = frozenset(
    {"attn1_patch", "attn1_output_patch", "attn2_patch", "attn2_output_patch"}
)
REPLACED = ("attn1", "attn2")
_SCORES = 2**26  # attention scores held at a time: 256 MB in float32


class PatchedAttention:
    """The hook of one block: joint attention in two parts, each with its patches."""

    def __init__(
        self,
        options: Mapping[str, Any],
        place: tuple[str, int],
        h: Tensor,
        states: Tensor,
        grid: tuple[int, int],
    ) -> None:
        """states: the text encoder's [B, L, W]. grid: the finest attention layer's rows, columns.

        Patches take sizes from "original_shape" and act where a layer has as many tokens, since in
        other models the first level has attention. GLIDE's finest layer stands for that level.
        """
        self.patches: Mapping[str, list[Patch]] = options.get("patches", {})
        self.replaced: Mapping[str, Mapping[Any, Patch]] = options.get("patches_replace", {})
        self.place, self.states = place, states
        kept = {k: v for k, v in options.items() if k not in ("patches", "patches_replace")}
        self.options = {
            **kept,
            "block": place,
            "block_index": 0,
            "transformer_index": kept.get("transformer_index", 0),
            "original_shape": [len(h), h.shape[1], *grid],
            "activations_shape": list(h.shape),
            "attn_precision": None,
        }

    def __call__(self, block: AttentionBlock, tokens: Tensor, keys_values: Tensor) -> Tensor:
        """Give the attention's output [B, HW, C]."""
        width = block.head_channels
        heads = tokens.shape[-1] // width
        self.options |= {"n_heads": heads, "dim_head": width}
        q, k, v = block.queries_keys_values(tokens)
        pixels, pixel_weight = self._pixels(block, tokens, (q, k, v))
        words, word_weight = self._text(block, tokens, q, keys_values.to(q.dtype))
        # [B, heads, HW, 1]: the share of the pixels in each query's softmax
        share = torch.sigmoid(pixel_weight - word_weight)[..., None]
        pixels, words = (split_heads(x, 1, width)[0].float() for x in (pixels, words))
        return merge_heads(words + share * (pixels - words)).to(tokens.dtype)

    def _pixels(
        self, block: AttentionBlock, tokens: Tensor, plain: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Give self-attention [B, HW, C] and the log-sum-exp of its scores [B, heads, HW]."""
        q, k, v = plain
        if self.patches.get("attn1_patch"):
            n = context = value = tokens
            for patch in self.patches["attn1_patch"]:
                n, context, value = patch(n, context, value, self.options)
            q = block.queries_keys_values(n)[0]
            k = block.queries_keys_values(context)[1]
            v = block.queries_keys_values(value)[2]
        replace = self._replacement("attn1")
        if replace is not None:
            out = replace(merge_heads(q), merge_heads(k), merge_heads(v), self.options)
        else:
            out = merge_heads(attend(q, k, v))
        for patch in self.patches.get("attn1_output_patch", ()):
            out = patch(out, self.options)
        # a patch that merges or moves tokens changes what is attended, not each query's share
        weight = log_sum_exp(q, k) if q.shape == plain[0].shape else log_sum_exp(*plain[:2])
        return out, weight

    def _text(
        self, block: AttentionBlock, tokens: Tensor, q: Tensor, text: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Give cross-attention [B, HW, C] and the log-sum-exp of its scores [B, heads, HW]."""
        k, v = text
        if self.patches.get("attn2_patch"):
            n, context, value = tokens, self.states, self.states
            for patch in self.patches["attn2_patch"]:
                n, context, value = patch(n, context, value, self.options)
            q = block.queries_keys_values(n)[0]
            k = block.text_keys_values(context)[0].to(q.dtype)
            v = block.text_keys_values(value)[1].to(q.dtype)
        replace = self._replacement("attn2")
        if replace is not None:
            out = replace(merge_heads(q), merge_heads(k), merge_heads(v), self.options)
        else:
            out = merge_heads(attend(q, k, v))
        for patch in self.patches.get("attn2_output_patch", ()):
            out = patch(out, self.options)
        return out, log_sum_exp(q, k)

    def _replacement(self, kind: str) -> Patch | None:
        found = self.replaced.get(kind, {})
        return found.get((*self.place, 0), found.get(self.place))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over [B, heads, L, d].

    Where a patch has cut the queries into tiles along the batch axis, keys and values are cut in
    their own order, as ComfyUI's attention does.
    """
    if len(q) != len(k):
        k, v = (tiles(x, len(q)) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v)


def tiles(x: Tensor, count: int) -> Tensor:
    """Cut [B, heads, L, d] along L into [count, heads, L * B / count, d]."""
    batch, heads, length, width = x.shape
    parts = x.view(batch, heads, count // batch, -1, width).transpose(1, 2)
    return parts.reshape(count, heads, length * batch // count, width)


def log_sum_exp(q: Tensor, k: Tensor) -> Tensor:
    """Logarithm of the softmax's denominator, [B, heads, L], in float32."""
    rows = max(1, _SCORES // max(1, q.shape[0] * q.shape[1] * k.shape[2]))
    keys = k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
    return torch.cat([(part.float() @ keys).logsumexp(-1) for part in q.split(rows, dim=2)], dim=2)


def blocks_of(replaced: Mapping[Any, Patch]) -> set[tuple[str, int]]:
    """Give the blocks that replacements name, as (place, number)."""
    return {(key[0], key[1]) for key in replaced}
