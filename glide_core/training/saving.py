"""A run's files: checkpoint.pt to resume from, the averaged weights, and log.csv."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glide_core.errors import GlideError, as_glide_error
from glide_core.io import atomic_write, write_errors
from glide_core.training.config import TrainConfig

_FIXED = ("job", "lora", "lora_alpha", "lora_layers", "lora_text", "prediction", "size")


def read(path: Path, config: TrainConfig) -> dict[str, Any]:
    """Read a run's state; GlideError when it is damaged or does not fit the config."""
    # a damaged pickle raises almost anything
    with as_glide_error(
        f"{path} cannot be read: delete it, or choose another folder", setting="out"
    ):
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved = {**asdict(TrainConfig("base")), **state["config"]}
        step = state["step"]
    for name in _FIXED:
        before, now = saved[name], getattr(config, name)
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
    """Load a run's state into the model, its average and the optimizers; returns its step.

    base: fingerprint of the model that a LoRA is of. GlideError when that model or the optimizers
    are not those of the state.
    """
    if base and state.get("fingerprint", base) != base:
        raise GlideError(
            "this LoRA run started from another model. Use the same initial weights to resume, or "
            "choose another folder.",
            "out",
        )
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(state["model"][name])
            ema[name] = state["ema"][name].to(weight)
    wrong = "the checkpoint is of a run with other optimizers, choose another folder"
    with as_glide_error(wrong, (ValueError, KeyError), "out"):
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    return int(state["step"])


class Log:
    """log.csv: rows of figures by step, and TensorBoard's events where they are asked for.

    A resumed run removes the rows after its checkpoint, and adds the columns that it has more.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False) -> None:
        self.path = folder / "log.csv"
        self._events: Any = None
        if tensorboard:
            with as_glide_error("TensorBoard is missing (pip install tensorboard)", ImportError):
                from torch.utils.tensorboard import SummaryWriter
            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._columns: list[str] = []  # known with the first row
        self._before: list[dict[str, Any]] = []
        if self.path.is_file():
            wrong = f"{self.path} cannot be read: delete it, or choose another folder"
            with as_glide_error(wrong, setting="out"), self.path.open(newline="") as file:
                self._before = [row for row in csv.DictReader(file) if int(row["step"]) <= step]

    def row(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a row of figures to both logs."""
        row = {"step": step, **figures}
        if self._columns:
            with write_errors(self.path), self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        else:
            rows = [*self._before, row]
            self._columns = [name for name in dict.fromkeys(chain(*rows)) if name]
            with atomic_write(self.path) as temporary, temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(rows)
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
