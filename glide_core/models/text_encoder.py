"""The text encoder: a bidirectional transformer over padded tokens (paper section 4.1)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glide_core.config import TextConfig
from glide_core.models.layers import call_in_weight_dtype, merge_heads, split_heads


class TextFeatures(NamedTuple):
    """Output of a text encoder.

    last_hidden_state: every position after the final norm, [B, L, W]; padding included, as in the
        reference.
    pooled: projection of the LAST position (normally a padding slot), [B, E].
    """

    last_hidden_state: Tensor
    pooled: Tensor


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, operations: Any) -> None:
        super().__init__()
        self.head_width = width // heads
        self.c_qkv = operations.Linear(width, 3 * width)
        self.c_proj = operations.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = call_in_weight_dtype(self.c_qkv, x)  # [B, L, 3 W]
        q, k, v = split_heads(qkv, 3, self.head_width)  # each [B, H, L, d]
        # 1/sqrt(d) on the product equals the reference's d**-0.25 on each side. No mask: padding
        # positions are attended.
        out = F.scaled_dot_product_attention(q, k, v)
        return call_in_weight_dtype(self.c_proj, merge_heads(out))


class Mlp(nn.Module):
    def __init__(self, width: int, operations: Any) -> None:
        super().__init__()
        self.c_fc = operations.Linear(width, 4 * width)
        self.c_proj = operations.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(call_in_weight_dtype(self.c_fc, x))  # exact (erf) GELU
        return call_in_weight_dtype(self.c_proj, h)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, operations: Any) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads, operations)
        self.ln_1 = operations.LayerNorm(width)
        self.mlp = Mlp(width, operations)
        self.ln_2 = operations.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x.float()))
        return x + self.mlp(self.ln_2(x.float()))  # type: ignore[no-any-return]


class TextEncoder(nn.Module):
    """Token ids and padding mask -> `TextFeatures`, with OpenAI's parameter names."""

    def __init__(
        self, config: TextConfig, output_width: int, *, operations: Any = torch.nn
    ) -> None:
        super().__init__()
        self.config = config
        blocks = (Block(config.width, config.heads, operations) for _ in range(config.layers))
        self.transformer: Any = nn.Sequential(OrderedDict(resblocks=nn.Sequential(*blocks)))
        self.final_ln = operations.LayerNorm(config.width)
        self.token_embedding = operations.Embedding(config.n_vocab, config.width)
        self.positional_embedding = nn.Parameter(torch.zeros(config.context_length, config.width))
        self.padding_embedding = nn.Parameter(torch.zeros(config.context_length, config.width))
        self.transformer_proj = operations.Linear(config.width, output_width)

    def forward(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        """Encode ids [B, L] int64 with mask [B, L] (True = a real token)."""
        x = self.token_embedding(ids)  # [B, L, W]
        # padding slots are the padding embedding alone, without positional embedding
        x = torch.where(
            mask[..., None], x + self.positional_embedding.to(x), self.padding_embedding.to(x)
        )
        last_hidden_state = self.final_ln(self.transformer(x).float())
        pooled = call_in_weight_dtype(self.transformer_proj, last_hidden_state[:, -1])
        return TextFeatures(last_hidden_state, pooled)
