"""Muon (Jordan et al. 2024): momentum with orthogonalized updates for matrices and kernels.

torch.optim.Muon takes two-dimensional parameters only; most of a UNet's are convolution kernels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from glide_core.training.config import TrainConfig

# Coefficients of the quintic Newton-Schulz step (Jordan et al. 2024): singular values go near 1
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Optimizer for parameters of two or more dimensions; kernels count as [out, in * kh * kw]."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        iterations: int = 5,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "iterations": iterations,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step; parameters without a gradient are not changed."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                held: Tensor = state["momentum"]
                held.lerp_(p.grad, 1 - group["momentum"])
                ahead = torch.lerp(p.grad, held, group["momentum"])  # Nesterov
                flat = ahead.reshape(len(ahead), -1)
                update = orthogonal(flat, group["iterations"]).view(p.shape)
                # Liu et al. 2025: match the RMS of AdamW's updates to use the same learning rate
                scale = 0.2 * max(flat.shape) ** 0.5
                if group["weight_decay"]:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Move the singular values of a matrix [m, n] close to 1 by Newton-Schulz iterations."""
    x = matrix.float()
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        square = x @ x.T
        x = _A * x + (_B * square + _C * square @ square) @ x
    update: Tensor = (x if wide else x.T).to(matrix.dtype)
    return update


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split the parameters into matrices inside the network, for Muon, and all others.

    The others are embeddings, norms, biases and the first and last convolution of a UNet.
    """
    inside: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    outer = ("input_blocks.0.0", "unet.out.", "embedding", "w_pos", "w_t", "w_voc", "patch_proj")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim >= 2 and not any(part in name for part in outer)
        (inside if plain else others).append(parameter)
    return inside, others


def make_muon(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Make Muon for the matrices inside the network and AdamW for the other parameters.

    An `optimizer_factory` of `glide_core.training.trainer.Trainer`. Both take the same learning
    rate: Muon's update is scaled to the RMS of AdamW's.
    """
    inside, others = split_parameters(model)
    return [
        Muon(inside, lr=config.lr, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, lr=config.lr, weight_decay=0.0),
    ]
