"""Two processes take the step that one would take on both their batches."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import torch
from torch import multiprocessing, nn

from glide_core.training import parallel


def _worker(rank: int, port: int, folder: str) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    assert parallel.start() == (rank, 2)
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    x = torch.arange(12.0).view(4, 3)[rank::2]
    model(x).square().mean().backward()
    parallel.average_gradients(model, 2)
    assert model.weight.grad is not None
    torch.save(model.weight.grad, Path(folder) / f"{rank}.pt")


def test_two_processes_share_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_worker, (port, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    model(torch.arange(12.0).view(4, 3)).square().mean().backward()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, model.weight.grad)


def test_one_process_is_left_alone() -> None:
    assert parallel.start() == (0, 1)
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    assert model.weight.grad is not None
    before = model.weight.grad.clone()
    parallel.average_gradients(model, 1)
    assert torch.equal(model.weight.grad, before)
