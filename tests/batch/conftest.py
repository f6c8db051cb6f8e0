"""A small LoRA for the tests of lists."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glide_core.checkpoints.loading import load_model
from glide_core.checkpoints.lora import LoraInfo, save_lora


@pytest.fixture
def tiny_lora(tmp_path: Path, model_folder: Path) -> Path:
    """A LoRA of rank 2 with random weights for one layer of the tiny base model."""
    model = load_model(model_folder / "tiny_base.safetensors")
    name = "unet.middle_block.1.qkv"
    weight = model.get_submodule(name).get_parameter("weight")
    torch.manual_seed(0)
    down = torch.randn(2, *weight.shape[1:])
    up = torch.randn(weight.shape[0], 2, 1)
    return save_lora(
        {name: (down, up)}, tmp_path / "lora.safetensors", LoraInfo.of(model, 2, 2.0, "tiny_base")
    )
