"""Two processes take the step that one would take on both their batches."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from glide_core.training import parallel

WORKER = """
import sys
import torch
from glide_core.training import parallel

torch.set_num_threads(1)
rank, processes = parallel.start()
assert processes == 2
torch.manual_seed(0)
model = torch.nn.Linear(3, 2)
x = torch.arange(12.0).view(4, 3)[rank::2]
model(x).square().mean().backward()
parallel.average([p.grad for p in model.parameters()], processes)
torch.save(model.weight.grad, f"{sys.argv[1]}/{rank}.pt")
"""


def test_two_processes_share_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path)],
            env={**os.environ, **group, "RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
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
    parallel.average([p.grad for p in model.parameters() if p.grad is not None], 1)
    assert torch.equal(model.weight.grad, before)
