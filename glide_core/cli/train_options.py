"""The arguments of `glide train`. Imports nothing heavy: --help must be quick."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from glide_core.cli import options
from glide_core.names import LORA_LAYERS, TIMESTEPS, WEIGHTINGS
from glide_core.training.config import JOBS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a model on images with captions: from scratch, or starting from a bundled model, a "
        "released checkpoint or a run's own file. A run found in --out is resumed. Ctrl-C saves "
        "and stops."
    )
    parser.add_argument("job", choices=JOBS, help="model to train")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for checkpoints, log and samples (default: runs/JOB)",
    )
    _add_data(parser)
    _add_model(parser)
    _add_optimization(parser)
    _add_running(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    flag = partial(group.add_argument, action="store_true")
    size = partial(group.add_argument, type=options.positive, metavar="N")
    group.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="a folder of images with .txt captions, a JSONL, CSV or Parquet list, or webdataset "
        "shards (.tar)",
    )
    flag("--skip-bad", help="ignore unusable files (default: an error)")
    key = "ending or column of the captions"
    group.add_argument("--caption-key", default="txt", metavar="KEY", help=key)
    flag("--center-crop", help="crop squares from the center, not at random")
    flag("--flip", help="mirror half of the images")
    size("--size", help="image size (default: the model's)")
    size("--crop", help="size of the crops upsamplers are trained on (default: 128)")
    group.add_argument(
        "--caption-dropout",
        type=options.fraction,
        metavar="P",
        help="caption dropout probability, for classifier-free guidance (default: 0.2)",
    )
    group.add_argument(
        "--prior-prompts",
        type=Path,
        metavar="FILE",
        help="captions, one per line, whose images must not change (default: from the vocabulary "
        "of a bundled model)",
    )
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
    group.add_argument(
        "--prediction",
        choices=("epsilon", "v_prediction"),
        help="prediction type, from scratch only (default: v_prediction)",
    )
    rank, alpha = "train a LoRA of this rank", "LoRA alpha (default: RANK)"
    group.add_argument("--lora", type=options.positive, metavar="RANK", help=rank)
    group.add_argument("--lora-alpha", type=options.not_negative, metavar="A", help=alpha)
    layers = "layers the LoRA adapts (default: all)"
    group.add_argument("--lora-layers", choices=LORA_LAYERS, help=layers)
    text = "adapt the text encoder, too"
    group.add_argument("--lora-text", action="store_true", default=None, help=text)


def _add_optimization(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimization")
    count = partial(group.add_argument, type=options.positive, metavar="N")
    count("--steps", help="optimizer steps")
    count("--batch", help="images per step")
    accumulation = "gradient accumulation steps: the same result in less memory (default: 1)"
    count("--grad-accum", dest="grad_accum_steps", help=accumulation)
    group.add_argument("--lr", type=options.not_negative, help="peak learning rate")
    seed = "random seed of weights, data and noise (default: 0)"
    group.add_argument("--seed", type=int, metavar="N", help=seed)
    weighting = "loss weighting of noise levels (default: uniform)"
    group.add_argument("--weighting", choices=WEIGHTINGS, help=weighting)
    group.add_argument(
        "--timesteps",
        choices=TIMESTEPS,
        help="timestep sampling distribution (default: uniform; upsamplers from scratch: lowest)",
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running")
    options.add(group, "--device")
    options.add(group, "--threads")
    ahead = "processes that decode images ahead (default: up to 4; none for few images)"
    options.add(group, "--workers", default=None, help=ahead)
    group.add_argument("--fp32", action="store_true", help="train in float32 instead of bfloat16")
    group.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        default=None,
        help="recompute activations in the backward pass: less memory, slower, same gradients",
    )
    every = partial(group.add_argument, metavar="N")
    every("--log-every", type=options.positive, default=10, help="steps between rows of log.csv")
    every("--save-every", type=options.positive, default=100, help="steps between checkpoints")
    samples = "steps between sample grids; 0: none"
    every("--sample-every", type=options.whole, default=200, help=samples)
    group.add_argument("--tensorboard", action="store_true", help="also log to DIR/tensorboard")
