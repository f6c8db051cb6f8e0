"""What is measured, and with which CLIP."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation.captioned import fill


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "images", 6)


@pytest.fixture
def clip(model_folder: Path) -> str:
    return f"clip:{model_folder / 'tiny_clip.safetensors'}"
