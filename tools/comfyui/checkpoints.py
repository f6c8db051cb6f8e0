"""A ComfyUI base directory with tiny checkpoints, small enough to sample in a second."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from glide_core.checkpoints.loading import save_model
from glide_core.config import KINDS, GlideConfig, ModelKind, ScheduleConfig
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from tools.tiny_models import TINY_CLIP, tiny_variant


def config(kind: ModelKind, prediction_type: str = "epsilon") -> GlideConfig:
    """A GLIDE of two levels; the upsamplers' image is 128 pixels wide, to save time."""
    up = "upsampler" in kind
    return tiny_variant(
        kind=kind,
        text={"context_length": 24, "width": 64, "heads": 1},
        unet={
            "image_size": 128 if up else 64,
            "channel_mult": (1, 1) if up else (1, 2),
            "attention_factors": () if up else (2,),
            "num_head_channels": 32,
        },
        schedule=ScheduleConfig(
            noise_schedule="linear" if up else "squaredcos_cap_v2",
            prediction_type=prediction_type,  # type: ignore[arg-type]
        ),
    )


CLIP = replace(
    TINY_CLIP,
    image_size=64,
    patch_size=16,
    embedding=32,
    image_width=64,
    context_length=24,
    text_width=64,
)


@dataclass(frozen=True)
class Checkpoints:
    """A ComfyUI base directory; the names are those that the loaders list."""

    base_directory: Path

    @property
    def folder(self) -> Path:
        return self.base_directory / "models" / "glide"

    def path(self, name: str) -> Path:
        return self.folder / name


def model(kind: ModelKind, prediction_type: str = "epsilon", seed: int = 0) -> GlideModel:
    """Random weights; none is zero, so that every input shows in the output."""
    torch.manual_seed(seed)
    made = GlideModel(config(kind, prediction_type))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return made.eval()


def write_checkpoints(base_directory: Path) -> Checkpoints:
    """Write <kind>.safetensors for all kinds, base_v.safetensors (v prediction) and the CLIP."""
    found = Checkpoints(base_directory)
    for folder in (found.folder, *(base_directory / n for n in ("input", "output", "temp"))):
        folder.mkdir(parents=True, exist_ok=True)
    for number, kind in enumerate(KINDS):
        save_model(model(kind, seed=number), found.path(f"{kind}.safetensors"), dtype=torch.float32)
    v = model("base", "v_prediction", seed=9)
    save_model(v, found.path("base_v.safetensors"), dtype=torch.float32)
    torch.manual_seed(7)
    save_model(NoisyClip(CLIP), found.path("clip.safetensors"), dtype=torch.float32)
    return found


@contextmanager
def temporary_checkpoints() -> Iterator[Checkpoints]:
    """`write_checkpoints` into a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield write_checkpoints(Path(folder))
