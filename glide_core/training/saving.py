"""A run's files: checkpoint.pt to resume from, the averaged weights, and log.csv."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glide_core.checkpoints.lora import fingerprint
from glide_core.errors import GlideError, is_out_of_memory, shorten
from glide_core.io import atomic_write, write_errors
from glide_core.models.glide import GlideModel
from glide_core.training.config import TrainConfig

_FIXED = ("lora", "lora_alpha", "lora_layers", "lora_text", "prediction", "size")


def read(path: Path, config: TrainConfig) -> dict[str, Any]:
    """Read a run's state; GlideError when it is damaged or does not fit the config."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["config"]
        job, step = saved["job"], state["step"]
    except Exception as error:  # a damaged pickle raises almost anything
        if is_out_of_memory(error):
            raise
        reason = shorten(error) or type(error).__name__
        raise GlideError(
            f"{path} cannot be read as the checkpoint of a run ({reason}). Delete it to start "
            "again, or choose another folder.",
            "out",
        ) from error
    if job != config.job:
        raise GlideError(
            f"{path} holds a {job} run, not {config.job}: choose another folder", "out"
        )
    for name in _FIXED:
        before, now = saved.get(name, getattr(TrainConfig("base"), name)), getattr(config, name)
        if before != now:
            raise GlideError(
                f"{path} holds step {step} of a run with {name} {before or 'left out'}, and this "
                f"one has {now or 'none'}. Use the same to resume, or choose another folder.",
                "out",
            )
    return state


def restore(
    state: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    ema: dict[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    base: str,
) -> int:
    """Load a run's state into the model and optimizers; returns its step.

    base: `base_fingerprint` of the model. GlideError when a LoRA's base model or the optimizers are
    not those of the state.
    """
    if state.get("fingerprint", base) != base and state["config"]["lora"]:
        raise GlideError(
            "this LoRA run started from another model. Use the same initial weights to resume, or "
            "choose another folder.",
            "out",
        )
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(state["model"][name])
            ema[name].copy_(state["ema"][name])
    try:
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    except (ValueError, KeyError) as error:
        raise GlideError(
            f"the checkpoint is of a run with other optimizers ({shorten(error)}): choose another "
            "folder",
            "out",
        ) from error
    return int(state["step"])


def base_fingerprint(model: nn.Module) -> str:
    """The fingerprint of a diffusion model; a noisy CLIP takes no LoRA and has none."""
    return fingerprint(model) if isinstance(model, GlideModel) else ""


class Log:
    """log.csv: rows of figures by step, and TensorBoard's events where they are asked for.

    A resumed run first removes the rows after its checkpoint.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False) -> None:
        self.path = folder / "log.csv"
        self._events: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise GlideError(
                    "logging to TensorBoard needs its package: `pip install tensorboard`, or log "
                    "to log.csv alone, which holds the same figures"
                ) from error
            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._columns = self._cut(step)

    def row(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a row of figures to both logs."""
        row = {"step": step, **figures}
        new = self._columns != list(row)
        with write_errors(self.path):
            if new and self._columns:  # other columns: keep the old file beside the new one
                self.path.rename(self.path.with_name(f"log_before_{step}.csv"))
            self._columns = list(row)
            with self.path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self._columns)
                if new:
                    writer.writeheader()
                writer.writerow(row)
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(name, value, step)

    def image(self, step: int, grid: Tensor) -> None:
        """Add a sample grid, uint8 [C, H, W], to TensorBoard."""
        if self._events is not None:
            self._events.add_image("samples", grid, step)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()

    def _cut(self, step: int) -> list[str]:
        """Remove rows after `step`; returns the columns of the file."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        if not rows:
            return []
        kept = [row for row in rows[1:] if row and row[0].isdigit() and int(row[0]) <= step]
        with atomic_write(self.path) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows([rows[0], *kept])
        return rows[0]
