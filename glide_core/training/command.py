"""`glide train`: arguments and the run."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from glide_core.training.presets import DEFAULTS, JOBS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", choices=JOBS, help="which model to train")
    parser.add_argument(
        "--data", type=Path, required=True, help="the store of training drawings (.npz)"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for checkpoints, log and samples (runs/JOB)"
    )
    parser.add_argument("--steps", type=int, help="optimiser steps in all")
    parser.add_argument("--batch", type=int, help="pictures a step")
    parser.add_argument("--lr", type=float, help="peak learning rate")
    parser.add_argument("--seed", type=int, help="seed of weights, data and noise")
    parser.add_argument("--threads", type=int, help="processor threads (all cores)")
    parser.add_argument("--fp32", action="store_true", help="train in float32 instead of bfloat16")
    parser.add_argument(
        "--start-from", type=Path, help="trained checkpoint to start from (base for inpaint, ...)"
    )
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--sample-every", type=int, default=200, help="0 draws no sample grids")


def run(arguments: argparse.Namespace) -> int:
    """Train; a run found in the folder is resumed. Ctrl-C saves and stops."""
    import torch
    from tqdm import tqdm

    from glide_core.training.loop import RunConfig, Trainer
    from glide_core.training.sprites import Sprites

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    changes = {k: getattr(arguments, k) for k in ("steps", "batch", "lr", "seed")}
    config = replace(DEFAULTS[arguments.job], **{k: v for k, v in changes.items() if v is not None})
    config = replace(config, bf16=not arguments.fp32)
    where = RunConfig(
        folder=arguments.out or Path("runs") / arguments.job,
        log_every=arguments.log_every,
        save_every=arguments.save_every,
        sample_every=arguments.sample_every,
        start_from=arguments.start_from,
    )
    trainer = Trainer(config, where, Sprites(arguments.data))
    quiet = bool(trainer.rank)
    with tqdm(total=config.steps, initial=trainer.step, unit="step", disable=quiet) as bar:

        def report(step: int, losses: dict[str, float], seconds_left: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix({k: f"{v:.4f}" for k, v in losses.items()})

        try:
            trainer.train(report)
        except KeyboardInterrupt:
            print(f"stopped at step {trainer.step}; saved in {trainer.checkpoint}")
            return 130
    if not trainer.rank:
        print(trainer.export())
    return 0


if __name__ == "__main__":
    main_parser = argparse.ArgumentParser(prog="glide train")
    add_arguments(main_parser)
    raise SystemExit(run(main_parser.parse_args()))
