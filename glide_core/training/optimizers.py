"""The optimisers that training chooses from."""

from __future__ import annotations

import torch
from torch import nn

from glide_core.errors import GlideError
from glide_core.training.muon import Muon, split_parameters

OPTIMIZERS = ("adamw", "muon")


def make_optimizers(
    model: nn.Module, name: str, lr: float, weight_decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """Make the optimisers of a model's trainable parameters, to be stepped together.

    adamw: one for all. muon: Muon for the matrices and kernels inside, AdamW for the rest, both at
    the same rate (Muon's step is scaled to AdamW's spread). GlideError for another name.
    """
    if name == "adamw":
        trained = [p for p in model.parameters() if p.requires_grad]
        return [torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)]
    if name != "muon":
        raise GlideError(f"unknown optimiser {name!r}: expected {', '.join(OPTIMIZERS)}")
    inside, others = split_parameters(model)
    return [
        Muon(inside, lr=lr, weight_decay=weight_decay),
        torch.optim.AdamW(others, lr=lr, weight_decay=0.0),
    ]
