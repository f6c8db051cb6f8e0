"""A record of what a list generates."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glide_core.batch import shards
from glide_core.pipeline import GlidePipeline


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The batches that were generated, in order."""
    batches: list[list[Any]] = []
    generate = GlidePipeline.generate

    def noted(self: GlidePipeline, requests: Any, *more: Any) -> Any:
        batches.append(list(requests))
        return generate(self, requests, *more)

    monkeypatch.setattr(GlidePipeline, "generate", noted)
    return batches


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are grouped as for a pipeline on a GPU, and generated on the CPU."""

    def generate(pipe: GlidePipeline, *rows: Any, **options: Any) -> Any:
        gpu = SimpleNamespace(device=torch.device("cuda"), generate=pipe.generate)
        return shards.generate(gpu, *rows, **options)

    monkeypatch.setattr("glide_core.batch.job.generate", generate)
