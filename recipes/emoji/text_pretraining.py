"""Train a fresh text encoder to predict thumbnails from captions, before the UNet is trained.

From scratch a UNet is slow to use the captions: the encoder's features separate captions only once
the UNet uses them, and it uses them only once they do. So the encoder is first trained alone to
predict an image of GRID x GRID pixels, from the pooled vector by one linear layer, and from the
hidden states by one attention layer. Both heads are discarded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glide_core.data.source import Source
from glide_core.models.glide import GlideModel
from glide_core.models.text_encoder import TextFeatures
from glide_core.tokenizer import get_tokenizer
from glide_core.training.config import TrainConfig
from glide_core.training.examples import generator
from recipes.emoji.muon import make_muon

if TYPE_CHECKING:
    from accelerate import Accelerator

GRID = 8
_HEADS = 4
_BATCH = 64
_LR = 2e-3
_OFFSET = 1_000_000  # separates its random numbers from those of training steps


class Stopped(Exception):
    """Pretraining was interrupted; there is nothing to save."""


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set in any process; all must call it."""
    value = torch.tensor(float(flag), device=accelerator.device)
    return bool(accelerator.reduce(value, reduction="sum") > 0)


class Thumbnail(nn.Module):
    """Map text features to two predictions of the image, each [B, C, GRID, GRID]."""

    def __init__(self, states_width: int, pooled_width: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.pooled = nn.Linear(pooled_width, channels * GRID**2)
        self.query = nn.Parameter(torch.randn(GRID**2, states_width))
        self.key = nn.Linear(states_width, states_width)
        self.value = nn.Linear(states_width, states_width)
        self.colour = nn.Linear(states_width, channels)

    def forward(self, features: TextFeatures) -> tuple[Tensor, Tensor]:
        count = len(features.pooled)
        flat = self.pooled(features.pooled.float()).view(count, self.channels, GRID, GRID)
        hidden = features.last_hidden_state.float()
        query = self.query[None].expand(count, -1, -1)
        q, k, v = (self._split(x) for x in (query, self.key(hidden), self.value(hidden)))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [B, G*G, W]
        colours = self.colour(F.silu(seen)).transpose(1, 2)
        return flat, colours.reshape(count, self.channels, GRID, GRID)

    @staticmethod
    def _split(x: Tensor) -> Tensor:
        b, length, width = x.shape
        return x.view(b, length, _HEADS, width // _HEADS).transpose(1, 2)  # [B, heads, L, d]


def pretrain_text(
    model: GlideModel,
    source: Source,
    steps: int,
    *,
    seed: int = 0,
    bf16: bool = True,
    report: Callable[[int, float], None] = lambda step, loss: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train the text encoder of a fresh model in place; `report(step, loss)` after every step.

    The loss is the sum of both predictions' mean square errors, of images in [-1, 1]. Raises
    Stopped when `stop()` is true.
    """
    config, side = model.config, model.config.unet.image_size
    tokenizer = get_tokenizer(config.tokenizer)
    torch.manual_seed(seed)
    head = Thumbnail(config.text.width, config.unet.embedding_width, config.unet.channels)
    head.to(model.device)
    trained = nn.ModuleDict({"text": model.text, "head": head})
    optimizers = make_muon(trained, TrainConfig("base", lr=_LR))
    for step in range(steps):
        if stop():
            raise Stopped
        rate = min(1.0, (step + 1) / 50, (steps - step) / (0.4 * steps))
        batch = source.batch(generator(seed, step, -_OFFSET), _BATCH, side=side)
        wanted = F.adaptive_avg_pool2d(batch.images, GRID).to(model.device)
        rows = [tokenizer.encode(c, config.text.context_length) for c in batch.captions]
        ids, mask = torch.stack([r.ids for r in rows]), torch.stack([r.mask for r in rows])
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            features = model.encode(ids.to(model.device), mask.to(model.device))
        flat, seen = head(features)
        loss = F.mse_loss(flat, wanted) + F.mse_loss(seen, wanted)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = _LR * rate
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.text.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        report(step + 1, float(loss.detach()))
