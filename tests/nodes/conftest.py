"""Without ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from glide_pack.nodes import host
from glide_pack.nodes.host.standalone import StandaloneHost


@pytest.fixture
def standalone(model_folder: Path) -> Iterator[None]:
    """Run nodes in the standalone host on the tiny models, under inference mode as ComfyUI does."""
    here = StandaloneHost(device="cpu", show_progress=False)
    with host.using(here), torch.inference_mode():
        yield
