"""The arguments of `glide train`. Imports nothing heavy: --help must be quick."""

from __future__ import annotations

import argparse
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
    group.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="a folder of images with .txt captions, a JSONL or CSV list, or webdataset shards "
        "(.tar)",
    )
    group.add_argument(
        "--skip-bad", action="store_true", help="ignore unusable files (default: an error)"
    )
    group.add_argument(
        "--caption-key",
        default="txt",
        metavar="KEY",
        help="ending or column of the captions (default: txt)",
    )
    group.add_argument(
        "--center-crop", action="store_true", help="crop squares from the center, not at random"
    )
    group.add_argument("--flip", action="store_true", help="mirror half of the images")
    group.add_argument(
        "--size", type=options.positive, metavar="N", help="image size (default: the model's)"
    )
    group.add_argument(
        "--crop",
        type=options.positive,
        metavar="N",
        help="size of the crops upsamplers are trained on (default: 128)",
    )
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
    group.add_argument(
        "--prior-weight",
        type=options.not_negative,
        metavar="W",
        help="weight of the loss on images of --prior-prompts (default: 1)",
    )
    group.add_argument(
        "--no-prior", action="store_true", help="disable prior preservation when fine-tuning"
    )


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
    group.add_argument(
        "--lora", type=options.positive, metavar="RANK", help="train a LoRA of this rank"
    )
    group.add_argument(
        "--lora-alpha", type=options.not_negative, metavar="A", help="LoRA alpha (default: RANK)"
    )
    group.add_argument(
        "--lora-layers", choices=LORA_LAYERS, help="layers the LoRA adapts (default: all)"
    )
    group.add_argument(
        "--lora-text", action="store_true", default=None, help="adapt the text encoder, too"
    )


def _add_optimization(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimization")
    group.add_argument("--steps", type=options.positive, metavar="N", help="optimizer steps")
    group.add_argument("--batch", type=options.positive, metavar="N", help="images per step")
    group.add_argument(
        "--grad-accum",
        dest="grad_accum_steps",
        type=options.positive,
        metavar="N",
        help="gradient accumulation steps: the same result in less memory (default: 1)",
    )
    group.add_argument("--lr", type=options.not_negative, help="peak learning rate")
    group.add_argument(
        "--seed", type=int, metavar="N", help="random seed of weights, data and noise (default: 0)"
    )
    group.add_argument(
        "--weighting", choices=WEIGHTINGS, help="loss weighting of noise levels (default: uniform)"
    )
    group.add_argument(
        "--timesteps",
        choices=TIMESTEPS,
        help="timestep sampling distribution (default: uniform; upsamplers from scratch: lowest)",
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running")
    group.add_argument(
        "--device", default="auto", help="cpu, cuda, mps (default: a GPU if there is one)"
    )
    group.add_argument(
        "--threads",
        type=options.positive,
        metavar="N",
        help="CPU threads (default: the cores that other programs leave free)",
    )
    group.add_argument(
        "--workers",
        type=options.whole,
        metavar="N",
        help="processes that decode images ahead (default: up to 4; none for few images)",
    )
    group.add_argument("--fp32", action="store_true", help="train in float32 instead of bfloat16")
    group.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        default=None,
        help="recompute activations in the backward pass: less memory, slower, same gradients",
    )
    for name, default, help_text in (
        ("--log-every", 10, "steps between rows of log.csv"),
        ("--save-every", 100, "steps between checkpoints"),
    ):
        group.add_argument(
            name,
            type=options.positive,
            default=default,
            metavar="N",
            help=f"{help_text} (default: {default})",
        )
    group.add_argument(
        "--sample-every",
        type=options.whole,
        default=200,
        metavar="N",
        help="steps between sample grids; 0: none (default: 200)",
    )
    group.add_argument("--tensorboard", action="store_true", help="also log to DIR/tensorboard")
