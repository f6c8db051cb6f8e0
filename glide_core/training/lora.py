"""Low-rank adaptation (Hu et al. 2021): frozen layers with a trained low-rank path each."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from glide_core.checkpoints.lora import LAYERS
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel
from glide_core.names import LORA_LAYERS
from glide_core.training.config import TrainConfig

_ATTENTION = r"(.*\.(qkv|encoder_kv|proj_out|c_qkv))|(text\..*\.attn\.c_proj)"
# the first convolution and the head depend on the data, the time embedding on the schedule
_NEVER = r"unet\.(input_blocks\.0\.0|out\.2|time_embed\.\d)|text\.transformer_proj"


class LoraLayer(nn.Module):
    """A frozen linear or convolution layer plus (alpha / rank) * up(down(x))."""

    def __init__(self, base: nn.Linear | nn.Conv1d | nn.Conv2d, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        kind: Any = type(base)
        if isinstance(base, nn.Linear):
            self.down = kind(base.in_features, rank, bias=False)
            self.up = kind(rank, base.out_features, bias=False)
        else:
            size, padding = base.kernel_size[0], base.padding[0]
            self.down = kind(base.in_channels, rank, size, padding=padding, bias=False)
            self.up = kind(rank, base.out_channels, 1, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)  # no change before training

    @property
    def weight(self) -> Tensor:
        """The frozen weight; the networks use its dtype and layout."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.up(self.down(x))
        out: Tensor = self.base(x)
        return out + self.scale * change


def targets(model: GlideModel, layers: str, text: bool) -> list[str]:
    """Names of the layers to adapt: of attention alone, or all linear and convolution layers.

    text: the text encoder's, too.
    """
    if layers not in LORA_LAYERS:
        raise GlideError(f"unknown LoRA layers {layers!r}: expected {' or '.join(LORA_LAYERS)}")
    names = [name for name, module in model.named_modules() if isinstance(module, LAYERS)]
    names = [n for n in names if not re.fullmatch(_NEVER, n) and (text or n.startswith("unet."))]
    if layers == "attention":
        names = [n for n in names if re.fullmatch(_ATTENTION, n)]
    return names


def install(model: GlideModel, config: TrainConfig) -> None:
    """Freeze the model and replace each target with a `LoraLayer`."""
    model.requires_grad_(False)
    alpha = config.lora_alpha or config.lora
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for name in targets(model, config.lora_layers, config.lora_text):
            parent, _, last = name.rpartition(".")
            owner = model.get_submodule(parent)
            base = owner.get_submodule(last)
            assert isinstance(base, LAYERS)
            setattr(owner, last, LoraLayer(base, config.lora, alpha).to(base.weight.device))


def pairs(model: GlideModel) -> dict[str, tuple[Tensor, Tensor]]:
    """Return (down, up) weights by layer, as `save_lora` takes them."""
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, LoraLayer)]
    return {name: (layer.down.weight, layer.up.weight) for name, layer in layers}
