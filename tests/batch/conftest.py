"""A record of what a list generates."""

from __future__ import annotations

from typing import Any

import pytest

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
