"""`glide train`: arguments and the run. `docs/training.md` describes its use.

With several processes: `accelerate launch -m glide_core.cli.train JOB ...`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from glide_core.cli import options
from glide_core.errors import GlideError, UsageError
from glide_core.names import LORA_LAYERS, MAX_SIDE, TIMESTEPS, WEIGHTINGS
from glide_core.training.config import JOBS, TrainConfig, fine_tuning, from_scratch

if TYPE_CHECKING:
    from accelerate import Accelerator

    from glide_core.data.entries import Listing
    from glide_core.data.source import ImageSource

_WITH_PRIOR = ("base", "inpaint")  # the jobs that prior preservation is for
_FEW = 256  # images: fewer are decoded quickly, without workers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a model on images with captions: from scratch, or starting from a bundled model, a "
        "released checkpoint or a run's own file. A run found in --out is resumed. Ctrl-C saves "
        "and stops."
    )
    parser.add_argument("job", choices=JOBS, help="model to train")
    out = "folder for checkpoints, log and samples (default: runs/JOB)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=out)
    _add_data(parser)
    _add_model(parser)
    _add_optimization(parser)
    _add_running(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    flag = partial(group.add_argument, action="store_true")
    size = partial(group.add_argument, type=options.integer(1, MAX_SIDE), metavar="N")
    images = (
        "a folder of images with .txt captions, a JSONL, CSV or Parquet list, or webdataset shards "
        "(.tar)"
    )
    group.add_argument("--data", type=Path, required=True, metavar="PATH", help=images)
    flag("--skip-bad", help="ignore unusable files (default: an error)")
    key = "ending or column of the captions"
    group.add_argument("--caption-key", default="txt", metavar="KEY", help=key)
    flag("--center-crop", help="crop squares from the center, not at random")
    flag("--flip", help="mirror half of the images")
    size("--size", help="image size (default: the model's)")
    size("--crop", help="size of the crops upsamplers are trained on (default: 128)")
    dropout = "caption dropout probability, for classifier-free guidance (default: 0.2)"
    group.add_argument("--caption-dropout", type=options.fraction, metavar="P", help=dropout)
    prior = (
        "captions, one per line, whose images must not change (default: from the vocabulary of a "
        "bundled model)"
    )
    group.add_argument("--prior-prompts", type=Path, metavar="FILE", help=prior)
    weight = "weight of the loss on images of --prior-prompts (default: 1)"
    group.add_argument("--prior-weight", type=options.not_negative, metavar="W", help=weight)
    flag("--no-prior", help="disable prior preservation when fine-tuning")


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--init-from",
        action="append",
        default=[],
        metavar="MODEL",
        help="initial weights: a name of `glide models` or a file, of the same kind, or base for "
        "inpaint and upsampler for upsampler-inpaint; twice for OpenAI's two CLIP files (default: "
        "random weights)",
    )
    prediction = "prediction type, from scratch only (default: v_prediction)"
    group.add_argument("--prediction", choices=("epsilon", "v_prediction"), help=prediction)
    rank, alpha = "train a LoRA of this rank", "LoRA alpha (default: RANK)"
    group.add_argument("--lora", type=options.integer(1, 4096), metavar="RANK", help=rank)
    group.add_argument("--lora-alpha", type=options.not_negative, metavar="A", help=alpha)
    layers = "layers the LoRA adapts (default: all)"
    group.add_argument("--lora-layers", choices=LORA_LAYERS, help=layers)
    text = "adapt the text encoder, too"
    group.add_argument("--lora-text", action="store_true", default=None, help=text)


def _add_optimization(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimization")
    count = partial(group.add_argument, type=options.positive, metavar="N")
    count("--steps", help="optimizer steps")
    count("--batch", type=options.integer(1, 65_536), help="images per step")
    accumulation = "gradient accumulation steps: the same result in less memory (default: 1)"
    count("--grad-accum", dest="grad_accum_steps", help=accumulation)
    group.add_argument("--lr", type=options.real(0, 1000), help="peak learning rate")
    seed = "random seed of weights, data and noise (default: 0)"
    group.add_argument("--seed", type=options.seed, metavar="N", help=seed)
    weighting = "loss weighting of noise levels (default: uniform)"
    group.add_argument("--weighting", choices=WEIGHTINGS, help=weighting)
    chosen = "timestep sampling distribution (default: uniform; upsamplers from scratch: lowest)"
    group.add_argument("--timesteps", choices=TIMESTEPS, help=chosen)


def _add_running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running")
    options.add(group, "--device")
    options.add(group, "--threads")
    ahead = "processes that decode images ahead (default: up to 4; none for few images)"
    group.add_argument("--workers", type=options.integer(0, 1024), metavar="N", help=ahead)
    flag = partial(group.add_argument, action="store_true")
    flag("--fp32", help="train in float32 instead of bfloat16")
    recompute = "recompute activations in the backward pass: less memory, slower, same gradients"
    flag("--gradient-checkpointing", default=None, help=recompute)
    every = partial(group.add_argument, metavar="N")
    every("--log-every", type=options.positive, default=10, help="steps between rows of log.csv")
    every("--save-every", type=options.positive, default=100, help="steps between checkpoints")
    samples = "steps between sample grids; 0: none"
    every("--sample-every", type=options.whole, default=200, help=samples)
    flag("--tensorboard", help="also log to DIR/tensorboard")


def run(arguments: argparse.Namespace) -> int:
    """Train, or resume the run found in the folder. SIGINT and SIGTERM save and stop."""
    from glide_core.checkpoints.catalog import find_model
    from glide_core.data.source import save_report
    from glide_core.devices import free_cores
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
        source = open_data(arguments, config, folder / "data.json", accelerator)
        workers = arguments.workers
        if workers is None:
            workers = 0 if len(source) < _FEW else min(4, max(1, free_cores() - 1))
        where = RunConfig(
            folder=folder,
            log_every=arguments.log_every,
            save_every=arguments.save_every,
            sample_every=arguments.sample_every,
            init_from=start,
            workers=workers,
            tensorboard=arguments.tensorboard,
        )
        trainer = Trainer(config, where, source, prior_captions=captions, accelerator=accelerator)
        if main:
            save_report(source.report, folder / "data.json")
        with graceful_stop() as signals:
            finished = trainer.train(lambda: bool(signals))
    finally:
        accelerator.end_training()
    if main:
        if not finished:
            print(f"stopped at step {trainer.step}; the same command resumes")
        print(trainer.exported)
    return 128 + signals[0] if signals else 0


def make_config(arguments: argparse.Namespace, start: Sequence[Path]) -> TrainConfig:
    """The job's defaults, or those of fine-tuning, with the given options applied."""
    config = replace(from_scratch(arguments.job), lora=arguments.lora or 0)
    if start:
        from glide_core.checkpoints.files import read_tensors
        from glide_core.checkpoints.loading import inspect

        if arguments.job in {getattr(inspect(path), "kind", "clip") for path in start}:
            files = [read_tensors(path, meta=True) for path in start]
            sizes = [weight.numel() for file in files for weight in file.tensors.values()]
            config = fine_tuning(config, sum(sizes))
    given = {each.name: getattr(arguments, each.name, None) for each in fields(config)}
    config = replace(config, **{name: v for name, v in given.items() if v is not None})
    if not config.lora and (config.lora_alpha or config.lora_text or arguments.lora_layers):
        raise UsageError("--lora-alpha, --lora-layers and --lora-text need --lora RANK beside them")
    return replace(config, bf16=not arguments.fp32)


def prior_captions(arguments: argparse.Namespace, start: Sequence[Path]) -> list[str]:
    """Captions of prior preservation: of --prior-prompts, or of the initial model's vocabulary."""
    from glide_core.data.tables import read_lines
    from glide_core.training import samples

    wanted = start and arguments.job in _WITH_PRIOR and not arguments.no_prior
    if not arguments.prior_prompts:
        return samples.prior_captions(start[0]) if wanted else []
    if not wanted:
        raise UsageError("--prior-prompts is for base and inpaint with --init-from")
    if not (captions := read_lines(arguments.prior_prompts)):
        raise GlideError(f"{arguments.prior_prompts} is empty: expected one caption per line")
    return captions


def open_data(
    arguments: argparse.Namespace, config: TrainConfig, known: Path, accelerator: Accelerator
) -> ImageSource:
    """Open --data and check it in the first process, unless an earlier run has; report on it."""
    from glide_core.cli.common import counting_bar
    from glide_core.data.source import DataReport, PixelCache, check, open_source
    from glide_core.training.distributed import on_main

    def run_check(listing: Listing, cache: PixelCache) -> DataReport:
        with counting_bar(unit="image", desc="checking", leave=False) as progress:
            return check(listing, cache, progress, known)

    source = open_source(
        arguments.data,
        skip_bad=arguments.skip_bad,
        caption_key=arguments.caption_key,
        center_crop=arguments.center_crop,
        flip=arguments.flip,
        side=config.size or (256 if config.job.startswith("upsampler") else 64),
        run_check=lambda *given: on_main(accelerator, lambda: run_check(*given)),
    )
    for line in source.report.lines() if accelerator.is_main_process else ():
        print(line, file=sys.stderr)
    return source


@contextmanager
def graceful_stop() -> Iterator[list[int]]:
    """Record SIGINT and SIGTERM in a list instead of acting on them; the second one acts."""
    received: list[int] = []

    def record(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, before[number])

    stops: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, record) for number in stops}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    from glide_core.cli import main

    raise SystemExit(main(["train", *sys.argv[1:]]))
