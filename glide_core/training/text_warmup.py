"""Teaching a fresh text tower what its captions look like, before the UNet is trained with it.

From scratch a UNet learns late what the words say: the tower's features tell captions apart only
once the UNet uses them, and it uses them only once they do. So the tower first learns to tell a
coarse picture of its caption: GRID x GRID colours, by the pooled vector through one linear layer,
and by the states through one attention layer. Both heads are thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glide_core.data.types import Source
from glide_core.models.glide import GlideModel
from glide_core.models.text_encoder import TextFeatures
from glide_core.tokenizer import get_tokenizer
from glide_core.training.optimizers import make_optimizers
from glide_core.training.precision import autocast
from glide_core.training.samples import generator

GRID = 8
_HEADS = 4
_BATCH = 64
_LR = 2e-3
_SAME = 1_000_000  # keeps its examples apart from those of the steps that follow


class Thumbnail(nn.Module):
    """Text features to two guesses of the picture, each [B, C, GRID, GRID]."""

    def __init__(
        self, states_width: int, pooled_width: int, channels: int, operations: Any = nn
    ) -> None:
        super().__init__()
        self.channels = channels
        self.pooled = operations.Linear(pooled_width, channels * GRID**2)
        self.query = nn.Parameter(torch.randn(GRID**2, states_width))
        self.key = operations.Linear(states_width, states_width)
        self.value = operations.Linear(states_width, states_width)
        self.colour = operations.Linear(states_width, channels)

    def forward(self, features: TextFeatures) -> tuple[Tensor, Tensor]:
        count = len(features.pooled)
        flat = self.pooled(features.pooled.float()).view(count, self.channels, GRID, GRID)
        states = features.last_hidden_state.float()
        query = self.query[None].expand(count, -1, -1)
        q, k, v = (self._split(x) for x in (query, self.key(states), self.value(states)))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [B, G*G, W]
        colours = self.colour(F.silu(seen)).transpose(1, 2)
        return flat, colours.reshape(count, self.channels, GRID, GRID)

    @staticmethod
    def _split(x: Tensor) -> Tensor:
        b, length, width = x.shape
        return x.view(b, length, _HEADS, width // _HEADS).transpose(1, 2)  # [B, heads, L, d]


def warm_up_text(
    model: GlideModel,
    source: Source,
    steps: int,
    *,
    seed: int = 0,
    optimizer: str = "muon",
    report: Callable[[int, float], None] = lambda step, loss: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train the text tower of a fresh model in place; `report(step, loss)` after every step.

    The loss is the sum of both guesses' mean square errors, of pictures in [-1, 1]. False when
    `stop()` ended it.
    """
    config, side = model.config, model.config.unet.image_size
    tokenizer = get_tokenizer(config.tokenizer)
    torch.manual_seed(seed)
    head = Thumbnail(config.text.width, config.unet.embedding_width, config.unet.channels)
    head.to(model.device)
    whole = nn.ModuleDict({"text": model.text, "head": head})
    optimizers = make_optimizers(whole, optimizer, _LR)
    for step in range(steps):
        if stop():
            return False
        rate = min(1.0, (step + 1) / 50, (steps - step) / (0.4 * steps))
        batch = source.batch(generator(seed, step, -_SAME), _BATCH, side=side)
        wanted = F.adaptive_avg_pool2d(batch.pictures, GRID).to(model.device)
        rows = [tokenizer.encode(c, config.text.context_length) for c in batch.captions]
        ids, mask = torch.stack([r.ids for r in rows]), torch.stack([r.mask for r in rows])
        with autocast(model.device):
            features = model.encode(ids.to(model.device), mask.to(model.device))
        flat, seen = head(features)
        loss = F.mse_loss(flat, wanted) + F.mse_loss(seen, wanted)
        for each in optimizers:
            for group in each.param_groups:
                group["lr"] = _LR * rate
            each.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.text.parameters(), 1.0)
        for each in optimizers:
            each.step()
        report(step + 1, float(loss.detach()))
    return True
