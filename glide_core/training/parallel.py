"""Several processes, one model: `torchrun --nproc-per-node N -m glide_core.training.command ...`.

Every process draws its own share of each batch; gradients are averaged after the backward pass, so
that all copies take the same step. Process 0 logs and saves.
"""

from __future__ import annotations

import os

import torch
from torch import distributed, nn


def start() -> tuple[int, int]:
    """Join the group that torchrun announces; gives (rank, number of processes), (0, 1) alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return 0, 1
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    return distributed.get_rank(), size


def average_gradients(model: nn.Module, processes: int) -> None:
    """Replace every gradient by its mean over the processes, in one exchange."""
    if processes == 1:
        return
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in grads])
    distributed.all_reduce(flat)
    flat /= processes
    sizes = [grad.numel() for grad in grads]
    for grad, mean in zip(grads, torch.split(flat, sizes), strict=True):
        grad.copy_(mean.view_as(grad))
