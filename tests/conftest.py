"""Tiny models with random weights: the same classes and files as the real ones, in milliseconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from glide_core import GlidePipeline
from glide_core.checkpoints.loading import load_model, save_model
from glide_core.checkpoints.lora import LoraInfo, save_lora
from glide_core.config import ClipConfig, GlideConfig, ModelKind, TextConfig, UNetConfig
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip

# Each of pytest-xdist's processes uses its share of the cores.
processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
torch.set_num_threads(max(1, torch.get_num_threads() // processes))

TINY_FILES: dict[ModelKind, str] = {
    "base": "tiny_base.safetensors",
    "upsampler": "tiny_upsampler.safetensors",
    "inpaint": "tiny_inpaint.safetensors",
    "upsampler-inpaint": "tiny_upsampler_inpaint.safetensors",
}

# Options of a pipeline's call: both stages, and the base model's image alone.
FAST = {"num_inference_steps": 2, "upsample_steps": 2}
ONE = {"num_inference_steps": 2, "upsample": False, "output_type": "np"}


def tiny_config(kind: ModelKind) -> GlideConfig:
    upsampler = kind in ("upsampler", "upsampler-inpaint")
    return GlideConfig(
        kind=kind,
        text=TextConfig(n_vocab=2048, context_length=24, width=32, layers=1, heads=2),
        unet=UNetConfig(
            image_size=256 if upsampler else 64,
            model_channels=32,
            num_res_blocks=1,
            channel_mult=(1, 1, 1, 1) if upsampler else (1, 1),
            attention_factors=(8,) if upsampler else (2,),
            num_head_channels=16,
        ),
        tokenizer="glide-small",
    )


def tiny_model(kind: ModelKind, seed: int = 0) -> GlideModel:
    torch.manual_seed(seed)
    model = GlideModel(tiny_config(kind))
    for weight in model.parameters():  # the output layers start at zero otherwise
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.05)
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny checkpoint of every kind: `TINY_FILES`, and tiny_clip.safetensors."""
    folder = tmp_path_factory.mktemp("models")
    for kind, name in TINY_FILES.items():
        save_model(tiny_model(kind), folder / name)
    torch.manual_seed(0)
    clip = ClipConfig(
        patch_size=16,
        embedding=16,
        image_width=32,
        image_heads=2,
        image_layers=1,
        n_vocab=2048,
        context_length=24,
        text_width=32,
        text_heads=2,
        text_layers=1,
        tokenizer="glide-small",
    )
    save_model(NoisyClip(clip), folder / "tiny_clip.safetensors")
    return folder


@pytest.fixture
def model_folder(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make the tiny models the only files in the user's model folder."""
    monkeypatch.setenv("GLIDE_MODELS", str(tiny_models))
    yield tiny_models


@pytest.fixture
def pipe(tiny_models: Path) -> GlidePipeline:
    found = GlidePipeline.from_pretrained(tiny_models, device="cpu")
    found.set_progress_bar_config(disable=True)
    return found


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


@pytest.fixture
def out(tmp_path: Path, model_folder: Path) -> Path:
    """Where a command writes: not there yet, its parent a place for its inputs."""
    return tmp_path / "out"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A file with an image of noise, 90x60."""
    path = tmp_path / "photo.png"
    Image.effect_noise((90, 60), 80).convert("RGB").save(path)
    return path
