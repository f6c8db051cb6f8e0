"""A run's files: checkpoint.pt to resume from, and the averaged weights to use."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glide_core.checkpoints.loading import save_clip, save_model
from glide_core.checkpoints.lora import LoraInfo, fingerprint, save_lora
from glide_core.errors import GlideError
from glide_core.io import atomic_write
from glide_core.training.config import TrainConfig
from glide_core.training.jobs import ClipJob, DiffusionJob
from glide_core.training.lora import LoraLayer, pairs

_FIXED = (
    *("lora", "lora_alpha", "lora_layers", "lora_text"),
    *("prediction", "size"),
)


@dataclass(frozen=True)
class About:
    """What stands in the metadata of an exported file."""

    config: TrainConfig
    step: int
    start: list[str]  # names of the files that the run started from

    def metadata(self) -> dict[str, str]:
        facts = {**asdict(self.config), "trained_steps": self.step, "start_from": self.start}
        return {"glide_training": json.dumps(facts, sort_keys=True)}


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a run's state, whole or not at all."""
    with atomic_write(path) as temporary:
        torch.save(dict(state), temporary)


def read(path: Path, config: TrainConfig) -> dict[str, Any]:
    """Read a run's state; GlideError when it is damaged, or of a run that `config` cannot go on."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["config"]
        job, step = saved["job"], state["step"]
    except (
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ) as error:
        raise GlideError(
            f"{path} cannot be read as the checkpoint of a run ({str(error).splitlines()[0]}). "
            "Expected one that `glide train` wrote: delete it to start anew, or choose another "
            "--out."
        ) from error
    if job != config.job:
        raise GlideError(f"{path} holds a {job} run, not {config.job}: choose another --out")
    for name in _FIXED:
        before, now = saved.get(name, getattr(TrainConfig("base"), name)), getattr(config, name)
        if before != now:
            option = "--" + name.replace("_", "-")
            raise GlideError(
                f"{path} holds step {step} of a run with {option} {before or 'left out'}, and this "
                f"one has {now or 'none'}. Expected the same to go on: choose another --out."
            )
    return state


def restore(
    state: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    ema: dict[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    job: DiffusionJob | ClipJob,
) -> int:
    """Put a run's state into what is trained; gives its step.

    GlideError when a LoRA's base is another model than it was.
    """
    base = base_fingerprint(job)
    if state.get("fingerprint", base) != base and state["config"]["lora"]:
        raise GlideError(
            "this LoRA run began from another model: expected the same --start-from to go on. "
            "Name that model, or choose another --out."
        )
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(state["model"][name])
            ema[name].copy_(state["ema"][name])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])


def base_fingerprint(job: DiffusionJob | ClipJob) -> str:
    """The fingerprint of a diffusion model; a noisy CLIP takes no LoRA and has none."""
    return fingerprint(job.model) if isinstance(job, DiffusionJob) else ""


def export(job: DiffusionJob | ClipJob, path: Path, about: About) -> Path:
    """Write a whole model as float16 safetensors, with its config and how it was trained."""
    if isinstance(job, ClipJob):
        return save_clip(job.model, path, metadata=about.metadata())
    return save_model(job.model, path, metadata=about.metadata())


def export_lora(
    job: DiffusionJob | ClipJob, layers: dict[str, LoraLayer], path: Path, about: About
) -> Path:
    """Write a LoRA as float32 safetensors."""
    assert isinstance(job, DiffusionJob)
    config = about.config
    alpha = config.lora_alpha or config.lora
    info = LoraInfo.of(job.model, config.lora, float(alpha), about.start[0])
    return save_lora(pairs(layers), path, info, metadata=about.metadata())
