"""`glide train`: arguments and the run. `docs/training.md` says how to use it.

On several processes: `accelerate launch -m glide_core.cli.train JOB ...`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from glide_core.cli import options
from glide_core.errors import GlideError
from glide_core.training.config import JOBS, TrainConfig, fine_tuning, from_scratch

if TYPE_CHECKING:
    from glide_core.data.types import Source
    from glide_core.training.loop import Trainer

# As weighting.WEIGHTINGS, samples.TIMESTEPS and lora.CHOICES have them: --help need not import
# torch. A test keeps them equal.
WEIGHTINGS = ("uniform", "snr", "truncated-snr", "min-snr", "v")
TIMESTEPS = ("uniform", "logit-normal", "low", "lowest", "high", "zero")
LORA_LAYERS = ("attention", "all")
_LORA = ("lora", "lora_alpha", "lora_layers", "lora_text")
_CHANGES = (  # options that replace a field of TrainConfig
    *("steps", "batch", "lr", "seed", "grad_accum_steps", "weighting", "timesteps", "prediction"),
    *("size", "crop", "gradient_checkpointing", "caption_dropout", *_LORA),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a model on pictures with captions: from scratch, or on from a bundled model, a "
        "released checkpoint or a run's own file. A run found in --out goes on where it was. "
        "Ctrl-C saves and stops."
    )
    parser.add_argument("job", choices=JOBS, help="which model to train")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for checkpoints, log and samples (default: runs/JOB)",
    )
    _add_data(parser)
    _add_start(parser)
    _add_learning(parser)
    _add_running(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="a folder of pictures with .txt captions, a JSONL or CSV list, or webdataset "
        "shards (.tar)",
    )
    group.add_argument(
        "--skip-bad", action="store_true", help="leave bad files out (default: refuse to start)"
    )
    group.add_argument(
        "--caption-key", default="txt", metavar="KEY", help="ending or column of captions (txt)"
    )
    group.add_argument("--centre", action="store_true", help="cut squares from the middle")
    group.add_argument("--flip", action="store_true", help="mirror every other picture")
    group.add_argument(
        "--size", type=options.positive, metavar="N", help="side of the pictures (the model's own)"
    )
    group.add_argument(
        "--crop", type=options.positive, metavar="N", help="of an upsampler's pictures (128)"
    )
    group.add_argument(
        "--caption-dropout",
        type=options.fraction,
        metavar="SHARE",
        help="of captions that are dropped, so that guidance can be had (default: 0.2)",
    )


def _add_start(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to start from")
    group.add_argument(
        "--start-from",
        action="append",
        default=[],
        metavar="MODEL",
        help="a name of `glide models` or a file, of the same kind, or the base for inpaint and "
        "the upsampler for upsampler-inpaint; twice for OpenAI's two CLIP files (default: fresh)",
    )
    group.add_argument(
        "--prediction",
        choices=("epsilon", "v_prediction"),
        help="what a fresh model predicts (default: v_prediction)",
    )
    group.add_argument(
        "--lora", type=options.positive, metavar="RANK", help="train a LoRA of this rank alone"
    )
    group.add_argument(
        "--lora-alpha",
        type=options.not_negative,
        metavar="A",
        help="its scale times the rank (default: the rank)",
    )
    group.add_argument(
        "--lora-layers", choices=LORA_LAYERS, help="which layers it changes (default: all)"
    )
    group.add_argument(
        "--lora-text", action="store_true", default=None, help="the text tower's layers too"
    )


def _add_learning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("learning")
    group.add_argument("--steps", type=options.positive, metavar="N", help="optimiser steps in all")
    group.add_argument("--batch", type=options.positive, metavar="N", help="pictures of a step")
    group.add_argument(
        "--grad-accum",
        dest="grad_accum_steps",
        type=options.positive,
        metavar="N",
        help="compute each batch in N parts: the same result in less memory (default: 1)",
    )
    group.add_argument("--lr", type=options.not_negative, help="peak learning rate")
    group.add_argument("--seed", type=int, metavar="N", help="of weights, data and noise (0)")
    group.add_argument(
        "--weighting", choices=WEIGHTINGS, help="of the noise levels' losses (default: uniform)"
    )
    group.add_argument(
        "--timesteps", choices=TIMESTEPS, help="which are drawn how often (default: uniform)"
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running")
    group.add_argument("--device", default="auto", help="cpu, cuda, mps (a GPU if there is one)")
    group.add_argument("--threads", type=options.positive, metavar="N", help="of the processor")
    group.add_argument("--fp32", action="store_true", help="train in float32 instead of bfloat16")
    group.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        default=None,
        help="compute activations twice: less memory, slower, the same gradients",
    )
    group.add_argument("--log-every", type=options.positive, default=10, metavar="N", help="(10)")
    group.add_argument(
        "--save-every", type=options.positive, default=100, metavar="N", help="(100)"
    )
    group.add_argument(
        "--sample-every",
        type=options.whole,
        default=200,
        metavar="N",
        help="0 draws no sample grids (200)",
    )
    group.add_argument("--tensorboard", action="store_true", help="log to DIR/tensorboard too")


def run(arguments: argparse.Namespace) -> int:
    """Train; a run found in the folder is resumed. SIGINT and SIGTERM save and stop."""
    import torch

    from glide_core.devices import pick_device
    from glide_core.training import parallel
    from glide_core.training.loop import RunConfig, Trainer

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    start = find_start(arguments.start_from)
    config = config_of(arguments, start)
    where = RunConfig(
        folder=arguments.out or Path("runs") / arguments.job,
        log_every=arguments.log_every,
        save_every=arguments.save_every,
        sample_every=arguments.sample_every,
        start_from=start,
        device=str(pick_device(arguments.device)),
        tensorboard=arguments.tensorboard,
    )
    try:
        first = parallel.start(where.device)[0] == 0
        trainer = Trainer(config, where, open_data(arguments, config, say=first))
        with told_to_stop() as told:
            finished = _train(trainer, told, show=first)
    finally:
        parallel.stop()
    if first:
        if not finished:
            print(f"stopped at step {trainer.step}; the same command goes on from there")
        if trainer.exported.exists():
            print(trainer.exported)
    return 128 + told[0] if told else 0


def _train(trainer: Trainer, told: list[int], *, show: bool) -> bool:
    from tqdm import tqdm

    steps = trainer.config.steps
    with tqdm(total=steps, initial=trainer.step, unit="step", disable=not show) as bar:

        def report(step: int, losses: dict[str, float], seconds_left: float) -> None:
            bar.update(step - bar.n)
            shown = {k: f"{v:.4f}" for k, v in losses.items() if k not in ("lr", "grad_norm")}
            bar.set_postfix(shown)

        finished = trainer.train(report, lambda: bool(told))
        bar.update(trainer.step - bar.n)
        return finished


def find_start(names: list[str]) -> list[Path]:
    """Resolve --start-from: names of `glide models`, or files."""
    from glide_core.checkpoints.catalog import find_model

    return [find_model(name) for name in names]


def config_of(arguments: argparse.Namespace, start: list[Path]) -> TrainConfig:
    """The job's defaults, or those of fine-tuning, with what was asked for put in."""
    config = replace(from_scratch(arguments.job), lora=arguments.lora or 0)
    if start and arguments.job in _kinds(start):
        config = fine_tuning(config, _parameters(start))
    asked = {name: getattr(arguments, name) for name in _CHANGES}
    config = replace(config, **{name: v for name, v in asked.items() if v is not None})
    if not config.lora and (config.lora_alpha or config.lora_text or arguments.lora_layers):
        raise GlideError("--lora-alpha, --lora-layers and --lora-text need --lora RANK beside them")
    return replace(config, bf16=not arguments.fp32)


def open_data(arguments: argparse.Namespace, config: TrainConfig, *, say: bool) -> Source:
    """Open --data and check it; say: show how far, and print what was found."""
    from tqdm import tqdm

    from glide_core.data import open_source

    side = config.size or (256 if config.job.startswith("upsampler") else 64)
    with tqdm(unit="picture", desc="checking", disable=not say, leave=False) as bar:

        def progress(done: int, every: int) -> None:
            bar.total = every
            bar.update(done - bar.n)

        return open_source(
            arguments.data,
            on_bad="skip" if arguments.skip_bad else "refuse",
            caption_key=arguments.caption_key,
            centre=arguments.centre,
            flip=arguments.flip,
            side_min=side,
            report=(lambda line: bar.write(line, file=sys.stderr)) if say else None,
            progress=progress,
        )


@contextmanager
def told_to_stop() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM in a list instead of obeying at once; the second one is obeyed."""
    told: list[int] = []
    before: dict[signal.Signals, Callable[..., object] | int | None] = {}

    def note(number: int, frame: object) -> None:
        told.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for each in (signal.SIGINT, signal.SIGTERM):
        before[each] = signal.signal(each, note)
    try:
        yield told
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _kinds(start: list[Path]) -> set[str]:
    from glide_core.training.start import kind_of

    return {kind_of(path) for path in start}


def _parameters(start: list[Path]) -> int:
    from glide_core.training.start import parameters_of

    return sum(parameters_of(path) for path in start)


if __name__ == "__main__":
    from glide_core.cli import main

    raise SystemExit(main(["train", *sys.argv[1:]]))
