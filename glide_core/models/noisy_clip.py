"""CLIP trained on noised images (paper, section 2.4), with OpenAI's parameter names.

The image encoder is a ViT with a timestep token, the text encoder a causal transformer.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glide_core.config import ClipConfig
from glide_core.errors import GlideError
from glide_core.models.layers import merge_heads
from glide_core.tokenizer import Tokens, get_tokenizer, warn_if_truncated

log = logging.getLogger("glide")

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
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device="cpu")[None, :, None, None].to(
                x.device, non_blocking=True
            )
            for values in (_CHANNEL_MEANS, _CHANNEL_STDS)
        )
        x = ((x.float() + 1) * 127.5 - mean) / std
        patches = F.conv2d(
            x.to(self.patch_proj.dtype), self.patch_proj, stride=self.patch_proj.shape[-1]
        )
        class_token = F.embedding(t, self.w_t)[:, None]  # a learned class token per timestep
        tokens = torch.cat([class_token, patches.flatten(2).transpose(1, 2)], dim=1)
        return self.ln(tokens + self.w_pos[None])  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """An embedding of the input, transformer blocks, and the projection of one token."""

    def __init__(
        self, embed: nn.Module, width: int, heads: int, layers: int, n_out: int, causal: bool
    ) -> None:
        super().__init__()
        self.layers = layers
        blocks = {f"block_{i}": Block(width, heads, causal) for i in range(layers)}
        output = OrderedDict(ln=LayerNorm(width), f=Affine(width, n_out, bias=False))
        self.blocks = nn.ModuleDict({"input": embed, **blocks, "output": nn.Sequential(output)})

    def hidden_states(self, *inputs: Tensor) -> Tensor:
        """Every token after the last block, [B, L, width]."""
        h = self.blocks["input"](*inputs)
        for i in range(self.layers):
            h = self.blocks[f"block_{i}"](h)
        return h  # type: ignore[no-any-return]


class NoisyClipImage(Encoder):
    """Image encoder: noised images x_t [B, 3, S, S] in about [-1, 1], timesteps [B] -> [B, n]."""

    def __init__(self, c: ClipConfig) -> None:
        embed = ImageEmbedding(c)
        super().__init__(embed, c.image_width, c.image_heads, c.image_layers, c.embedding, False)
        self.size = c.image_size

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if x.shape[2:] != (self.size, self.size):
            raise GlideError(
                f"an image of {x.shape[3]}x{x.shape[2]} cannot be compared by this noisy CLIP: "
                f"expected {self.size}x{self.size}"
            )
        return self.blocks["output"](self.hidden_states(x, t)[:, 0])  # type: ignore[no-any-return]


class NoisyClipText(Encoder):
    """Text encoder: token ids [B, L] and their lengths [B] -> features [B, n]."""

    def __init__(self, c: ClipConfig) -> None:
        embed = TextEmbedding(c)
        super().__init__(embed, c.text_width, c.text_heads, c.text_layers, c.embedding, True)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        h = self.hidden_states(ids)
        last = h[torch.arange(len(h), device=h.device), lengths - 1]  # the end token
        return self.blocks["output"](last)  # type: ignore[no-any-return]


def length_with_end(tokens: Tokens, config: ClipConfig) -> int:
    """Tokens of a prompt up to its end token, whose features stand for the text.

    CLIP's own tokenizer counts the end token as text; GLIDE's pads with it.
    """
    pads = get_tokenizer(config.tokenizer).pads_with_end
    return min(tokens.length + pads, config.context_length)


class NoisyClip(nn.Module):
    """Image and text encoder. Features are not normalized; guidance and scores normalize them."""

    def __init__(self, config: ClipConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.config = config
        with nullcontext() if device is None else torch.device(device):
            self.image = NoisyClipImage(config)
            self.text = NoisyClipText(config)

    def forward(
        self, x_t: Tensor, t: Tensor, ids: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Image and text features, each [B, n], in one call, for training."""
        return self.encode_image(x_t, t), self.encode_text(ids, lengths)

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return token ids [B, L] and lengths [B] including the end token."""
        length = self.config.context_length
        rows = [get_tokenizer(self.config.tokenizer).encode(p, length) for p in prompts]
        for row in {row.text: row for row in rows}.values():
            warn_if_truncated(row, "the text for CLIP")
        lengths = torch.tensor([length_with_end(row, self.config) for row in rows], device="cpu")
        return torch.stack([row.ids for row in rows]), lengths

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts to features [B, n], not normalized, on the model's device."""
        ids, lengths = self.tokenize(prompts)
        device: torch.device = self.image.blocks["input"].w_t.device  # type: ignore[assignment]
        return self.encode_text(ids.to(device), lengths.to(device))

    def encode_image(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Encode noised images at original timesteps t [B] (0 = clean) to features [B, n]."""
        return self.image(x_t, t)  # type: ignore[no-any-return]

    def encode_text(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Encode token ids [B, L] of the given lengths [B] to features [B, n]."""
        return self.text(ids, lengths)  # type: ignore[no-any-return]
