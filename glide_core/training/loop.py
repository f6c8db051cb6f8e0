"""The training loop: EMA, schedule, log, checkpoints, resume. A stop saves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from glide_core.data.types import Source
from glide_core.devices import pick_device
from glide_core.errors import GlideError
from glide_core.training import checkpointing, lora, parallel, saving
from glide_core.training.config import TrainConfig
from glide_core.training.jobs import ClipJob, DiffusionJob, make_job
from glide_core.training.logs import Log
from glide_core.training.samples import Share

Report = Callable[[int, dict[str, float], float], None]
OptimizerFactory = Callable[[nn.Module, TrainConfig], list[torch.optim.Optimizer]]


def make_adamw(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Make the default optimizer: AdamW for all trainable parameters."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)]


@dataclass(frozen=True)
class RunConfig:
    """Where and how often; nothing here changes what is learned."""

    folder: Path
    log_every: int = 10
    save_every: int = 100
    sample_every: int = 200  # 0: no sample grids
    start_from: Sequence[Path] = ()  # what to go on from; none: fresh weights
    device: str = "cpu"
    tensorboard: bool = False


class Trainer:
    """One run: its job, optimiser, average and step. Finds its own checkpoint in the folder."""

    def __init__(
        self,
        config: TrainConfig,
        run: RunConfig,
        source: Source,
        *,
        optimizer_factory: OptimizerFactory = make_adamw,
        on_start: Callable[[Trainer], None] | None = None,
    ) -> None:
        """Prepare a run, or resume the one found in `run.folder`.

        optimizer_factory: makes the optimizers of the trainable parameters; they are stepped
            together, at the learning rate of `config`.
        on_start: called once, in every process, before the first step of a model with fresh
            weights; the first process's weights are then copied to the others.
        """
        self.config, self.run = config, run
        self.rank, self.processes = parallel.start(run.device)
        self.device = parallel.own_device(pick_device(run.device))
        self.share = Share.of(config.batch, self.rank, self.processes, config.grad_accum_steps)
        saved = saving.read(self.checkpoint, config) if self.checkpoint.exists() else None
        start = run.start_from
        if saved is not None and not config.lora:
            start = [self.checkpoint]  # it holds the whole model, whatever it once started from
        self.job: DiffusionJob | ClipJob = make_job(config, source, start, str(self.device))
        self.model = self.job.model
        self.lora_layers: dict[str, lora.LoraLayer] = {}
        if isinstance(self.job, DiffusionJob) and config.lora:
            self._freeze(self.job)
        self.model.to(memory_format=torch.channels_last)
        if config.gradient_checkpointing:
            checkpointing.install(self.model)
        self.weights = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        fresh = saved is None and not run.start_from
        if fresh and on_start is not None:
            on_start(self)
        self.optimizers = optimizer_factory(self.model, config)
        self.ema = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.step = 0
        if saved is not None:
            self.step = saving.restore(saved, self.weights, self.ema, self.optimizers, self.job)
        parallel.check_same("step", self.step, self.processes, self.device)
        parallel.copy_from_first(list(self.model.parameters()), self.processes)
        run.folder.mkdir(parents=True, exist_ok=True)
        self.log = None
        if not self.rank:
            self.log = Log(run.folder, self.step, tensorboard=run.tensorboard)

    @property
    def checkpoint(self) -> Path:
        return self.run.folder / "checkpoint.pt"

    def train(self, report: Report, stop: Callable[[], bool] = lambda: False) -> bool:
        """Train to the last step, or to the step in which `stop()` is true; then save and export.

        `report(step, losses, seconds left)` is called every `log_every` steps. All processes stop
        with the first that is told to. Gives whether the last step was reached.
        """
        started, first, counted = time.monotonic(), self.step, 0
        sums: dict[str, float] = {}
        stopped = False
        while self.step < self.config.steps and not stopped:
            figures = self.one_step(stop())
            stopped = figures.pop("stop") > 0
            counted += 1
            for key, value in figures.items():
                sums[key] = sums.get(key, 0.0) + value
            if self.step % self.run.log_every == 0:
                means = {key: value / counted for key, value in sums.items()}
                sums, counted = {}, 0
                pace = (time.monotonic() - started) / (self.step - first)
                if self.log is not None:
                    self.log.row(self.step, {**means, "seconds_per_step": round(pace, 4)})
                    report(self.step, means, pace * (self.config.steps - self.step))
            if self.step % self.run.save_every == 0 and not stopped:
                self.save()
            if self._wants_samples() and not stopped:
                self._sample()
        self.save()
        self.export()
        if self.log is not None:
            self.log.close()
        return self.step >= self.config.steps

    def one_step(self, stop: bool = False) -> dict[str, float]:
        """Take one step. Gives the losses of the whole batch, the rate, the gradient's norm, and
        "stop": above 0 when `stop` was given in any process."""
        rate = self.config.lr * lr_share(self.step, self.config)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate
        losses = self.job.backward(self.step, self.share)
        losses["stop"] = torch.tensor(float(stop), device=self.device)
        grads = [w.grad for w in self.weights.values() if w.grad is not None]
        parallel.average([*grads, *losses.values()], self.processes)
        figures = {key: float(value) for key, value in losses.items()}
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights.values(), self.config.clip_grad))
        if not (torch.isfinite(losses["loss"]) and norm < float("inf")):
            raise GlideError(
                f"at step {self.step} the loss is {figures['loss']} and its gradient's norm {norm}"
                ": the training diverges. Expected finite figures. Lower the learning rate (--lr); "
                f"{self.checkpoint} keeps the last saved step."
            )
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        # a young average forgets faster, or it would hold the first random weights for long
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, weight in self.weights.items():
                self.ema[name].lerp_(weight, 1 - decay)
        return {**figures, "lr": rate, "grad_norm": norm}

    def save(self) -> None:
        """Write checkpoint.pt, whole or not at all: weights, average, optimiser and step."""
        if self.rank:
            return
        saving.write(
            self.checkpoint,
            {
                "config": asdict(self.config),
                "model_config": self.job.model.config.to_json(),
                "fingerprint": saving.base_fingerprint(self.job),
                "step": self.step,
                "model": {name: weight.detach() for name, weight in self.weights.items()},
                "ema": self.ema,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            },
        )

    @property
    def exported(self) -> Path:
        name = self.config.job.replace("-", "_") + ("_lora" if self.config.lora else "")
        return self.run.folder / f"{name}.safetensors"

    def export(self) -> Path:
        """Write the averaged weights as safetensors, the LoRA's alone in a LoRA run."""
        path = self.exported
        if self.rank:
            return path
        with self.averaged():
            if self.lora_layers:
                saving.export_lora(self.job, self.lora_layers, path, self._about())
            else:
                saving.export(self.job, path, self._about())
        return path

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

    def _freeze(self, job: DiffusionJob) -> None:
        if not self.run.start_from:
            raise GlideError(
                "a LoRA changes a model that there is: expected --start-from (a bundled model's "
                "name, a released checkpoint, or a run's file) with --lora"
            )
        c = self.config
        self.lora_layers = lora.install(
            job.model,
            c.lora,
            c.lora_alpha or c.lora,
            layers=c.lora_layers,
            text=c.lora_text,
            seed=c.seed,
        )

    def _about(self) -> saving.About:
        return saving.About(self.config, self.step, [path.name for path in self.run.start_from])

    def _wants_samples(self) -> bool:
        every = self.run.sample_every
        return bool(every) and self.step % every == 0 and not self.rank

    def _sample(self) -> None:
        from glide_core.training.grids import save_grid

        with self.averaged():
            grid = save_grid(self.job, self.run.folder / f"samples_{self.step:06d}.png")
        if grid is not None and self.log is not None:
            self.log.picture(self.step, grid)


def lr_share(step: int, config: TrainConfig) -> float:
    """Share of the learning rate at a step: linear warm-up, flat, then linear to `final_lr`."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = step / config.steps
    if done <= config.decay_from:
        return 1.0
    return 1 - (1 - config.final_lr) * (done - config.decay_from) / (1 - config.decay_from)
