"""`glide train`: arguments and the run. `docs/training.md` describes its use.

With several processes: `accelerate launch -m glide_core.cli.train JOB ...`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_core.cli.train_options import add_arguments
from glide_core.errors import GlideError
from glide_core.training.config import TrainConfig, fine_tuning, from_scratch

__all__ = ["add_arguments", "run"]

if TYPE_CHECKING:
    from glide_core.data.source import ImageSource
    from glide_core.data.types import Source
    from glide_core.training.trainer import Trainer

_LORA = ("lora", "lora_alpha", "lora_layers", "lora_text")
_FIELDS = (  # options that replace a field of TrainConfig
    *("steps", "batch", "lr", "seed", "grad_accum_steps", "weighting", "timesteps", "prediction"),
    *("size", "crop", "gradient_checkpointing", "caption_dropout", "prior_weight", *_LORA),
)
_WITH_PRIOR = ("base", "inpaint")  # the jobs that prior preservation is for
_FEW = 256  # images: fewer are decoded quickly, without workers


def run(arguments: argparse.Namespace) -> int:
    """Train, or resume the run found in the folder. SIGINT and SIGTERM save and stop."""

    from glide_core.checkpoints.catalog import find_model
    from glide_core.data.check import save_check
    from glide_core.io import check_folder
    from glide_core.training import distributed
    from glide_core.training.trainer import RunConfig, Trainer

    folder = arguments.out or Path("runs") / arguments.job
    check_folder(folder)
    start = [find_model(name) for name in arguments.init_from]
    config = make_config(arguments, start)
    captions = prior_captions(arguments, start)
    accelerator = distributed.make_accelerator(config, arguments.device)
    main = accelerator.is_main_process
    try:
        once: Callable[[Callable[[], Any]], Any] = partial(distributed.on_main, accelerator)
        source = open_data(arguments, config, folder / "data.json", show=main, once=once)
        where = RunConfig(
            folder=folder,
            log_every=arguments.log_every,
            save_every=arguments.save_every,
            sample_every=arguments.sample_every,
            init_from=start,
            device=arguments.device,
            workers=worker_count(len(source)) if arguments.workers is None else arguments.workers,
            tensorboard=arguments.tensorboard,
        )
        prior = partial(make_prior, captions=captions, once=once)
        trainer = Trainer(config, where, source, prior=prior, accelerator=accelerator)
        if main:
            save_check(source.checked, folder / "data.json")
        with graceful_stop() as signals:
            finished = train(trainer, lambda: bool(signals), show=main)
    finally:
        distributed.leave()
    if main:
        if not finished:
            print(f"stopped at step {trainer.step}; the same command resumes")
        if trainer.exported.exists():
            print(trainer.exported)
    return 128 + signals[0] if signals else 0


def train(trainer: Trainer, stop: Callable[[], bool], *, show: bool) -> bool:
    """Train with a progress bar; returns whether the last step was reached."""
    from tqdm import tqdm

    steps = trainer.config.steps
    with tqdm(total=steps, initial=trainer.step, unit="step", disable=not show) as bar:

        def report(step: int, losses: dict[str, float], seconds_left: float) -> None:
            bar.update(step - bar.n)
            shown = {k: f"{v:.4f}" for k, v in losses.items() if k not in ("lr", "grad_norm")}
            bar.set_postfix(shown)

        finished = trainer.train(report, stop)
        bar.update(trainer.step - bar.n)
        return finished


def make_config(arguments: argparse.Namespace, start: Sequence[Path]) -> TrainConfig:
    """The job's defaults, or those of fine-tuning, with the given options applied."""
    config = replace(from_scratch(arguments.job), lora=arguments.lora or 0)
    if start:
        from glide_core.checkpoints.files import read_shapes
        from glide_core.checkpoints.loading import config_of
        from glide_core.config import GlideConfig

        files = [read_shapes(path) for path in start]
        found = [config_of(file) for file in files]
        kinds = {one.kind if isinstance(one, GlideConfig) else "clip" for one in found}
        if arguments.job in kinds:
            sizes = [tensor.numel() for file in files for tensor in file.tensors.values()]
            config = fine_tuning(config, sum(sizes))
    given = {name: getattr(arguments, name) for name in _FIELDS}
    config = replace(config, **{name: v for name, v in given.items() if v is not None})
    if not config.lora and (config.lora_alpha or config.lora_text or arguments.lora_layers):
        raise GlideError("--lora-alpha, --lora-layers and --lora-text need --lora RANK beside them")
    return replace(config, bf16=not arguments.fp32)


def prior_captions(arguments: argparse.Namespace, start: Sequence[Path]) -> list[str]:
    """Captions of prior preservation: of --prior-prompts, or of the initial model's vocabulary."""
    if arguments.no_prior or arguments.job not in _WITH_PRIOR or not start:
        if arguments.prior_prompts:
            raise GlideError("--prior-prompts is for base and inpaint with --init-from")
        return []
    if arguments.prior_prompts:
        try:
            lines = arguments.prior_prompts.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise GlideError(f"{arguments.prior_prompts} cannot be read: {error}") from error
        captions = [line.strip() for line in lines if line.strip()]
        if not captions:
            raise GlideError(f"{arguments.prior_prompts} is empty: expected one caption per line")
        return captions
    from glide_core.checkpoints.files import read_shapes
    from glide_core.prompt_check import VOCABULARY_KEY
    from glide_core.training import samples

    vocabulary = read_shapes(start[0]).metadata.get(VOCABULARY_KEY)
    return samples.prior_captions(vocabulary) if vocabulary else []


def make_prior(
    trainer: Trainer, captions: Sequence[str], once: Callable[[Callable[[], None]], None]
) -> Source | None:
    """Generate the images of prior preservation with the initial model, and open them."""
    if not captions:
        return None
    from glide_core.models.glide import GlideModel
    from glide_core.progress import counting_bar
    from glide_core.training import samples

    model, folder = trainer.model, trainer.run.folder / "prior"
    assert isinstance(model, GlideModel)
    hidden = not trainer.accelerator.is_main_process
    with counting_bar(unit="image", desc="prior", disable=hidden, leave=False) as progress:
        once(lambda: samples.make_prior(model, captions, folder, progress))
    return samples.open_prior(folder, model.config.unet.image_size)


def open_data(
    arguments: argparse.Namespace,
    config: TrainConfig,
    known: Path,
    *,
    show: bool,
    once: Callable[[Callable[[], Any]], Any],
) -> ImageSource:
    """Open --data and check it, unless an earlier run has; show: progress, and what was found."""
    from glide_core.data import open_source
    from glide_core.progress import counting_bar

    with counting_bar(unit="image", desc="checking", disable=not show, leave=False) as progress:
        source = open_source(
            arguments.data,
            on_bad="skip" if arguments.skip_bad else "refuse",
            caption_key=arguments.caption_key,
            center_crop=arguments.center_crop,
            flip=arguments.flip,
            side=config.size or (256 if config.job.startswith("upsampler") else 64),
            progress=progress,
            known=known,
            run_once=once,
        )
    for line in source.report.lines() if show else ():
        print(line, file=sys.stderr)
    return source


def worker_count(images: int) -> int:
    """Decoding processes to use by default."""
    from glide_core.devices import free_cores

    return 0 if images < _FEW else min(4, max(1, free_cores() - 1))


@contextmanager
def graceful_stop() -> Iterator[list[int]]:
    """Record SIGINT and SIGTERM in a list instead of acting on them; the second one acts."""
    received: list[int] = []
    before: dict[signal.Signals, Callable[..., object] | int | None] = {}

    def record(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for each in (signal.SIGINT, signal.SIGTERM):
        before[each] = signal.signal(each, record)
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


if __name__ == "__main__":
    from glide_core.cli import main

    raise SystemExit(main(["train", *sys.argv[1:]]))
