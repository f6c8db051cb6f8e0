"""CLIP trained on noised images (paper, section 2.4), with OpenAI's parameter names.

The image encoder is a ViT with a timestep token, the text encoder a causal transformer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glide_core.config import ClipConfig
from glide_core.errors import GlideError
from glide_core.models.layers import merge_heads
from glide_core.tokenizer import Tokens, get_tokenizer, warn_if_truncated

# The original CLIP's normalization of 0..255 images; not part of any checkpoint.
_CHANNEL_MEANS = (122.77093945, 116.74601272, 104.09373519)
_CHANNEL_STDS = (68.50053285, 66.63215831, 70.32316309)


class Affine(nn.Module):
    def __init__(self, n_in: int, n_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty((n_out, n_in)))
        nn.init.normal_(self.w, std=n_in**-0.5)
        self.b = nn.Parameter(torch.zeros(n_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.w.dtype), self.w, self.b)


class LayerNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(width))
        self.b = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        g, b = self.g.float(), self.b.float()
        return F.layer_norm(x.float(), g.shape, g, b, 1e-5)


class AttentionResblock(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.ln = LayerNorm(width)
        self.f_q = Affine(width, width)
        self.f_k = Affine(width, width, bias=False)
        self.f_v = Affine(width, width)
        self.f_c = Affine(width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln(x)
        b, length, width = h.shape
        # unlike in the UNet and its text encoder, heads are contiguous here
        q, k, v = (
            f(h).view(b, length, self.heads, width // self.heads).transpose(1, 2)
            for f in (self.f_q, self.f_k, self.f_v)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return x + self.f_c(merge_heads(out))  # type: ignore[no-any-return]


class MlpResblock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln = LayerNorm(width)
        self.f_1 = Affine(width, 4 * width)
        self.f_2 = Affine(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f_2(F.gelu(self.f_1(self.ln(x))))  # type: ignore[no-any-return]


class Block(nn.Sequential):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        attn = AttentionResblock(width, heads, causal)
        super().__init__(OrderedDict(f_attn=attn, f_mlp=MlpResblock(width)))


class TextEmbedding(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        shape = (config.n_vocab, config.text_width)
        self.w_voc = nn.Parameter(torch.empty(shape).normal_(std=0.02))
        shape = (config.context_length, config.text_width)
        self.w_pos = nn.Parameter(torch.empty(shape).normal_(std=0.01))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.w_voc) + self.w_pos[None]


class ImageEmbedding(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width, patch = config.image_width, config.patch_size
        std, tokens = width**-0.5, 1 + (config.image_size // patch) ** 2
        self.w_t = nn.Parameter(torch.empty((config.n_timesteps, width)).normal_(0, std))
        self.patch_proj = nn.Parameter(
            torch.empty((width, 3, patch, patch)).normal_(0, (2 / width) ** 0.5 / patch)
        )
        self.w_pos = nn.Parameter(torch.empty((tokens, width)).normal_(0, std))
        self.ln = LayerNorm(width)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        pair = [_CHANNEL_MEANS, _CHANNEL_STDS]
        statistics = torch.tensor(pair, dtype=torch.float32, device="cpu")[..., None, None]
        mean, std = statistics.to(x.device, non_blocking=True)  # each [3, 1, 1]
        x = ((x.float() + 1) * 127.5 - mean) / std
        patches = F.conv2d(
            x.to(self.patch_proj.dtype), self.patch_proj, stride=self.patch_proj.shape[-1]
        )
        class_token = F.embedding(t, self.w_t)[:, None]  # a learned class token per timestep
        tokens = torch.cat([class_token, patches.flatten(2).transpose(1, 2)], dim=1)
        return self.ln(tokens + self.w_pos[None])  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """An embedding of the input and transformer blocks; `project` makes features of one token."""

    def __init__(
        self, embed: nn.Module, width: int, heads: int, layers: int, n_out: int, causal: bool
    ) -> None:
        super().__init__()
        blocks = {f"block_{i}": Block(width, heads, causal) for i in range(layers)}
        output = OrderedDict(ln=LayerNorm(width), f=Affine(width, n_out, bias=False))
        self.blocks = nn.ModuleDict({"input": embed, **blocks, "output": nn.Sequential(output)})

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return every token after the last block, [B, L, width]."""
        embed, *blocks, _ = self.blocks.values()
        h: Tensor = embed(*inputs)
        for block in blocks:
            h = block(h)
        return h

    def project(self, token: Tensor) -> Tensor:
        """Project one token per image or text, [B, width], to features [B, n]."""
        return self.blocks["output"](token)  # type: ignore[no-any-return]


def length_with_end(tokens: Tokens, config: ClipConfig) -> int:
    """Tokens of a prompt up to its end token, whose features stand for the text.

    CLIP's own tokenizer counts the end token as text; GLIDE's pads with it.
    """
    pads = get_tokenizer(config.tokenizer).pads_with_end
    return min(tokens.length + pads, config.context_length)


class NoisyClip(nn.Module):
    """Image and text encoder. Features are not normalized; guidance and scores normalize them."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = c = config
        self.image = Encoder(
            ImageEmbedding(c), c.image_width, c.image_heads, c.image_layers, c.embedding, False
        )
        self.text = Encoder(
            TextEmbedding(c), c.text_width, c.text_heads, c.text_layers, c.embedding, True
        )

    def forward(
        self, x_t: Tensor, t: Tensor, ids: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Image and text features, each [B, n], in one call, for training."""
        return self.encode_image(x_t, t), self.encode_text(ids, lengths)

    def encode_image(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Encode noised images [B, 3, S, S] in about [-1, 1] at original timesteps t [B]
        (0 = clean) to features [B, n]."""
        size = self.config.image_size
        if x_t.shape[2:] != (size, size):
            raise GlideError(
                f"an image of {x_t.shape[3]}x{x_t.shape[2]} cannot be compared by this noisy CLIP: "
                f"expected {size}x{size}"
            )
        return self.image.project(self.image(x_t, t)[:, 0])

    def encode_text(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Encode token ids [B, L] of the given lengths [B] to features [B, n]."""
        h = self.text(ids)
        return self.text.project(h[torch.arange(len(h), device=h.device), lengths - 1])

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts to features [B, n], not normalized, on the model's device."""
        length, tokenizer = self.config.context_length, get_tokenizer(self.config.tokenizer)
        rows = [tokenizer.encode(prompt, length) for prompt in prompts]
        for row in {row.text: row for row in rows}.values():
            warn_if_truncated(row, "the text for CLIP")
        ids = torch.stack([row.ids for row in rows])
        lengths = torch.tensor([length_with_end(row, self.config) for row in rows], device="cpu")
        device = next(self.parameters()).device
        return self.encode_text(ids.to(device), lengths.to(device))
