"""Several processes, one model: `accelerate launch` or `torchrun`, on one machine or many.

Every process computes its own share of each batch; gradients are averaged after the backward pass,
so that all copies take the same step. Process 0 logs, samples and saves.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from glide_core.errors import GlideError


def start(device: str = "cpu") -> tuple[int, int]:
    """Join the group that the launcher announces; gives (rank, processes), (0, 1) alone.

    device: where the tensors lie that will be exchanged, "cpu" or "cuda...".
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return 0, 1
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return distributed.get_rank(), size


def stop() -> None:
    """Leave the group, if there is one."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process among those of its machine; any other device as it is."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def average(tensors: Sequence[Tensor], processes: int) -> None:
    """Replace every tensor by its mean over the processes, in one exchange."""
    if processes == 1:
        return
    flat = torch.cat([tensor.float().reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= processes
    means = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_(mean.view_as(tensor))


def gather(rows: Tensor, processes: int) -> Tensor:
    """All processes' rows [B, n] -> [processes * B, n], in order of rank, without gradient."""
    if processes == 1:
        return rows
    everyone = [torch.empty_like(rows) for _ in range(processes)]
    distributed.all_gather(everyone, rows.contiguous())
    return torch.cat(everyone)


def copy_from_first(tensors: Sequence[Tensor], processes: int) -> None:
    """Give all processes the tensors of the first."""
    for tensor in tensors if processes > 1 else ():
        plain = tensor.detach().contiguous()
        distributed.broadcast(plain, 0)
        tensor.detach().copy_(plain)


def check_same(what: str, value: int, processes: int, device: torch.device) -> None:
    """Raise GlideError in every process unless all of them have the same value."""
    values = gather(torch.tensor([value], device=device), processes).tolist()
    if len(set(values)) > 1:
        raise GlideError(
            f"the processes start from different {what}s ({values}): expected one. Give all "
            "machines the same files and the same --out, in a folder that all of them see."
        )
