"""The training loop: EMA, learning rate, log, checkpoints, resume."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from tqdm import tqdm

from glide_core.checkpoints.loading import save_model
from glide_core.checkpoints.lora import fingerprint, save_lora
from glide_core.config import ClipConfig, GlideConfig
from glide_core.data.source import Source
from glide_core.errors import GlideError
from glide_core.io import atomic_write, make_folder
from glide_core.models.glide import GlideModel
from glide_core.training import lora, saving
from glide_core.training.config import TrainConfig
from glide_core.training.distributed import check_same_step, make_accelerator, on_main
from glide_core.training.examples import Examples, Steps, load_steps, split_batch
from glide_core.training.jobs import checkpoint_gradients, make_job
from glide_core.training.samples import make_prior, save_grid

if TYPE_CHECKING:
    from accelerate import Accelerator

OptimizerFactory = Callable[[nn.Module, TrainConfig], list[torch.optim.Optimizer]]


@dataclass(frozen=True)
class RunConfig:
    """Paths, logging and devices; nothing here changes what is learned."""

    folder: Path
    log_every: int = 10
    save_every: int = 100
    sample_every: int = 200  # 0: no sample grids
    init_from: Sequence[Path] = ()  # checkpoints to train on from; none: random weights
    workers: int = 0  # processes that prepare examples ahead
    tensorboard: bool = False


def make_adamw(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Make the default optimizer: AdamW for all trainable parameters."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)]


class Trainer:
    """One run: model, optimizers, average and step. Resumes the run found in its folder."""

    def __init__(
        self,
        config: TrainConfig,
        run: RunConfig,
        source: Source,
        *,
        optimizer_factory: OptimizerFactory = make_adamw,
        architecture: GlideConfig | ClipConfig | None = None,
        on_start: Callable[[Trainer], None] | None = None,
        prior_captions: Sequence[str] = (),
        accelerator: Accelerator | None = None,
    ) -> None:
        """Prepare a run, or resume the one found in `run.folder`.

        optimizer_factory: makes the optimizers of the trainable parameters; they are stepped
            together, at the learning rate of `config`.
        architecture: of a model with random weights; None: the job's default.
        on_start: called once, in every process, before the first step of a model with random
            weights; the first process's weights are then copied to the others.
        prior_captions: of the images of prior preservation; none: without it.
        accelerator: one that `make_accelerator` made for the same config; None: on the CPU.
        """
        self.config, self.run, self.source = config, run, source
        self.accelerator = accelerator or make_accelerator(config, "cpu")
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        share = split_batch(config.batch, rank, processes, config.grad_accum_steps)
        saved = saving.read(self.checkpoint, config) if self.checkpoint.exists() else None
        start = run.init_from
        if saved is not None and not config.lora:
            start = [self.checkpoint]  # it holds the whole model
        self.job = make_job(config, start, architecture)
        self.model = self.job.model
        # refuses settings that do not fit the model
        self.steps = Steps(config, self.model.config, source, share)
        self._base = ""  # fingerprint of the model that a LoRA is of
        if isinstance(self.model, GlideModel) and config.lora:
            if not run.init_from:
                raise GlideError("a LoRA changes a model: give initial weights", "init_from")
            self._base = fingerprint(self.model)
            lora.install(self.model, config)
        self.model.to(self.accelerator.device).to(memory_format=torch.channels_last)
        if config.gradient_checkpointing:
            checkpoint_gradients(self.model)
        self.weights = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if saved is None and not run.init_from and on_start is not None:
            on_start(self)
        self.optimizers = optimizer_factory(self.model, config)
        self.ema: dict[str, Tensor] = {}
        self.step = 0
        if saved is not None:
            self.step = saving.restore(saved, self.weights, self.ema, self.optimizers, self._base)
        check_same_step(self.accelerator, self.step)
        on_main(self.accelerator, lambda: make_folder(run.folder))
        if prior_captions and isinstance(self.model, GlideModel):
            folder = run.folder / "prior"
            self.steps.prior = make_prior(self.model, prior_captions, folder, self.accelerator)
        # DDP copies the first process's weights to the others, so nothing may change them after
        self.network = self.accelerator.prepare(self.model)
        if saved is None:
            self.ema = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.log = None
        if self.accelerator.is_main_process:
            self.log = saving.Log(run.folder, self.step, tensorboard=run.tensorboard)
        self._next: Iterator[list[Examples] | GlideError] | None = None
        self._prepared = -1  # the step that `_next` gives next

    @property
    def checkpoint(self) -> Path:
        return self.run.folder / "checkpoint.pt"

    def train(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Train to the last step, or to the step in which `stop()` is true; then save and export.

        All processes stop with the first whose `stop()` is true. Returns whether the last step was
        reached.
        """
        started, first = time.monotonic(), self.step
        recent: list[dict[str, float]] = []  # since the last row of the log
        total, stopped = self.config.steps, False
        with tqdm(total=total, initial=first, unit="step", disable=self.log is None) as bar:
            while self.step < total and not stopped:
                figures = self.one_step(stop())
                stopped = figures.pop("stop") > 0
                recent.append(figures)
                bar.update()
                if self.step % self.run.log_every == 0:
                    means = {key: fmean(each[key] for each in recent) for key in figures}
                    recent = []
                    bar.set_postfix(means)
                    pace = (time.monotonic() - started) / (self.step - first)
                    if self.log is not None:
                        self.log.row(self.step, {**means, "seconds_per_step": round(pace, 4)})
                if self.step % self.run.save_every == 0 and not stopped:
                    self.save()
                every = self.run.sample_every
                if every and self.step % every == 0 and not stopped:
                    self._sample()
        self._next = None  # ends the workers
        self.save()
        self.export()
        if self.log is not None:
            self.log.close()
        return self.step >= self.config.steps

    def one_step(self, stop: bool = False) -> dict[str, float]:
        """Take one step. Returns the losses of the whole batch, the rate, the gradient's norm, and
        "stop": above 0 when `stop` was given in any process."""
        rate = self.config.lr * lr_factor(self.step, self.config)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate
        losses = self.job.backward(self.accelerator, self.network, self._examples())
        losses["stop"] = torch.tensor(float(stop), device=self.accelerator.device)
        means = self.accelerator.reduce(torch.stack(list(losses.values())), reduction="mean")
        figures = dict(zip(losses, means.tolist(), strict=True))
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights.values(), self.config.clip_grad))
        if not abs(figures["loss"]) + norm < float("inf"):
            raise GlideError(
                f"training diverged at step {self.step}: the loss is {figures['loss']}, its "
                f"gradient's norm {norm}. Lower the learning rate.",
                "lr",
            )
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        # a smaller decay at first, so that the average does not keep the initial weights
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, weight in self.weights.items():
                self.ema[name].lerp_(weight, 1 - decay)
        return {**figures, "lr": rate, "grad_norm": norm}

    def save(self) -> None:
        """Write checkpoint.pt atomically: weights, average, optimizers and step."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "config": asdict(self.config),
            "model_config": self.model.config.to_json(),
            "fingerprint": self._base,
            "step": self.step,
            "model": {name: weight.detach() for name, weight in self.weights.items()},
            "ema": self.ema,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        with atomic_write(self.checkpoint) as temporary:
            torch.save(state, temporary)

    @property
    def exported(self) -> Path:
        name = self.config.job.replace("-", "_") + ("_lora" if self.config.lora else "")
        return self.run.folder / f"{name}.safetensors"

    def export(self) -> None:
        """Write the averaged weights as safetensors; only the LoRA's in a LoRA run."""
        if not self.accelerator.is_main_process:
            return
        c, start = self.config, [file.name for file in self.run.init_from]
        training = {**asdict(c), "trained_steps": self.step, "init_from": start}
        metadata = {"glide_training": json.dumps(training, sort_keys=True)}
        with self.averaged():
            if isinstance(self.model, GlideModel) and c.lora:
                alpha, pairs = float(c.lora_alpha or c.lora), lora.pairs(self.model)
                save_lora(pairs, self.exported, self.model, alpha, start[0], metadata=metadata)
            else:
                save_model(self.model, self.exported, metadata=metadata)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the model for a while; nothing is copied."""

        def swap() -> None:
            for name, weight in self.weights.items():
                weight.data, self.ema[name] = self.ema[name], weight.data

        swap()
        try:
            yield
        finally:
            swap()

    def _examples(self) -> list[Examples]:
        """This process's examples of the current step."""
        if self._next is None or self._prepared != self.step:
            self._next = iter(load_steps(self.steps, self.step, self.run.workers))
        self._prepared = self.step + 1
        from accelerate.utils import send_to_device

        found = next(self._next)
        if isinstance(found, GlideError):
            raise found
        moved: list[Examples] = send_to_device(found, self.accelerator.device, non_blocking=True)
        return moved

    def _sample(self) -> None:
        """Save a sample grid of the averaged weights."""
        if isinstance(self.model, GlideModel) and self.log is not None:
            with self.averaged():
                path = self.run.folder / f"samples_{self.step:06d}.png"
                self.log.image(self.step, save_grid(self.model, self.source, path))


def lr_factor(step: int, config: TrainConfig) -> float:
    """Factor on the learning rate at a step: linear warm-up, flat, then linear to `final_lr`."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = step / config.steps
    if done <= config.decay_from:
        return 1.0
    return 1 - (1 - config.final_lr) * (done - config.decay_from) / (1 - config.decay_from)
