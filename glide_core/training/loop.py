"""The training loop: EMA, schedule, log, checkpoints, resume. A stop saves."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glide_core.errors import GlideError
from glide_core.training import fast_norm, parallel
from glide_core.training.jobs import ClipJob, DiffusionJob, make_job, start_from
from glide_core.training.presets import TrainConfig
from glide_core.training.sprites import Sprites


@dataclass(frozen=True)
class RunConfig:
    """Where and how often; nothing here changes what is learned."""

    folder: Path
    log_every: int = 10
    save_every: int = 100
    sample_every: int = 200
    start_from: Path | None = None  # a trained checkpoint of another kind (base for inpaint, ...)


class Trainer:
    def __init__(self, config: TrainConfig, run: RunConfig, sprites: Sprites) -> None:
        self.config, self.run = config, run
        self.rank, self.processes = parallel.start()
        share = replace(config, batch=max(1, config.batch // self.processes))
        self.job: DiffusionJob | ClipJob = make_job(share, sprites)
        self.model: nn.Module = self.job.model
        self.rng = torch.Generator().manual_seed(config.seed + self.rank)
        self.step = 0
        if run.start_from is not None and isinstance(self.job, DiffusionJob):
            from glide_core.checkpoints.loading import load_model

            start_from(self.job.model, load_model(run.start_from).openai_state_dict())
        self.model.to(memory_format=torch.channels_last)
        fast_norm.install(self.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.ema = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        run.folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.run.folder / "checkpoint.pt"

    def train(self, report: Callable[[int, dict[str, float], float], None]) -> None:
        """Train to the last step; `report(step, losses, seconds left)` every `log_every` steps."""
        started, first = time.monotonic(), self.step
        sums: dict[str, float] = {}
        try:
            while self.step < self.config.steps:
                losses = self._one_step()
                for key, value in losses.items():
                    sums[key] = sums.get(key, 0.0) + float(value)
                if self.step % self.run.log_every == 0:
                    means = {k: v / self.run.log_every for k, v in sums.items()}
                    sums = {}
                    pace = (time.monotonic() - started) / (self.step - first)
                    if not self.rank:
                        self._log(means, pace)
                        report(self.step, means, pace * (self.config.steps - self.step))
                if self.step % self.run.save_every == 0:
                    self.save()
                if self._wants_samples():
                    self._sample()
        except KeyboardInterrupt:
            self.save()
            raise
        self.save()
        if not self.rank:
            self.export()

    def _wants_samples(self) -> bool:
        every = self.run.sample_every
        return bool(every) and self.step % every == 0 and not self.rank

    def _one_step(self) -> dict[str, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * lr_share(self.step, self.config)
        losses = self.job.loss(self.rng)
        if not torch.isfinite(losses["loss"]):
            raise GlideError(
                f"the loss at step {self.step} is {float(losses['loss'])}: lower the learning rate "
                "(--lr), or resume from an earlier checkpoint"
            )
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        parallel.average_gradients(self.model, self.processes)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.optimizer.step()
        self.step += 1
        # a young average forgets faster, or it would hold the first random weights for long
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.model.state_dict().items():
                self.ema[key].lerp_(value, 1 - decay)
        return {k: v.detach() for k, v in losses.items()}

    def save(self) -> None:
        """Write the checkpoint atomically: model, average, optimiser, step and random state."""
        if self.rank:
            return
        state = {
            "config": asdict(self.config),
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.get_state(),
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        if state["config"]["job"] != self.config.job:
            raise GlideError(
                f"{self.checkpoint} holds a {state['config']['job']} run, not {self.config.job}: "
                "choose another --out"
            )
        self.model.load_state_dict(state["model"])
        self.ema = state["ema"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        if self.processes == 1:
            self.rng.set_state(state["rng"])
        else:  # one state was saved: every process needs pictures of its own
            self.rng.manual_seed((self.config.seed + self.rank) * 1_000_003 + self.step)

    def export(self) -> Path:
        """Write the averaged weights as float16 safetensors; returns the path."""
        from glide_core.checkpoints.loading import save_clip, save_model

        path = self.run.folder / f"{self.config.job.replace('-', '_')}.safetensors"
        path.unlink(missing_ok=True)
        live = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.ema)
        if isinstance(self.job, ClipJob):
            save_clip(self.job.model, path)
        else:
            save_model(self.job.model, path)
        self.model.load_state_dict(live)
        return path

    def _log(self, means: dict[str, float], pace: float) -> None:
        path = self.run.folder / "log.csv"
        row = {"step": self.step, "seconds_per_step": round(pace, 4), **means}
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if fresh:
                writer.writeheader()
            writer.writerow(row)

    def _sample(self) -> None:
        from glide_core.training.grids import save_grid

        live = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.ema)
        save_grid(self.job, self.run.folder / f"samples_{self.step:06d}.png")
        self.model.load_state_dict(live)


def lr_share(step: int, config: TrainConfig) -> float:
    """Share of the learning rate at a step: linear warm-up, flat, then linear to `final_lr`."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = step / config.steps
    if done <= config.decay_from:
        return 1.0
    return 1 - (1 - config.final_lr) * (done - config.decay_from) / (1 - config.decay_from)
