"""Options that mean the same in every command. Imports no torch: `--help` must be quick."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glide_core.errors import shorten
from glide_core.names import DTYPES, PRESETS, SAMPLERS, TRAINED_STEPS, canonical_sampler


def folder_or_url(text: str) -> Path | str:
    """A local folder as a Path; a URL such as s3://bucket/folder stays text."""
    return text if "://" in text else Path(text)


def add_output(parser: argparse.ArgumentParser, kind: Callable[[str], Path | str] = Path) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out",
        type=kind,
        default=Path("out"),
        metavar="DIR",
        help="output folder; existing files are kept (default: out)",
    )
    group.add_argument("--quiet", action="store_true", help="no progress bars, only paths")


def add_input_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-pixels",
        type=max_pixels,
        default=50_000_000,
        metavar="N",
        help="refuse larger input images before decoding them (default: 50000000)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("device")
    group.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)"
    )
    group.add_argument(
        "--dtype",
        default="auto",
        choices=DTYPES,
        help="number format of the heavy layers (default: float16 on CUDA, else float32)",
    )
    add_threads(group)


def add_threads(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--threads",
        type=thread_count,
        metavar="N",
        help="CPU threads (default: PyTorch's, one per core; use fewer on shared cores)",
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="random seed; image i uses seed N + i (default: 0)",
    )


def add_count(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", type=image_count, default=1, metavar="N", help="number of images (default: 1)"
    )
    parser.add_argument(
        "--batch",
        type=batch_size,
        default=4,
        metavar="N",
        help="images computed at once; lower it to save memory, the images stay the same "
        "(default: 4)",
    )


class _Explicit(argparse.Action):
    """Stores an option, and that it was given, so that no preset changes it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, values)
        namespace.explicit = {*getattr(namespace, "explicit", ()), self.dest}


class _Preset(argparse.Action):
    """Sets what the preset stands for, except options that are given before or after it.

    The default sampler is left to `default_sampler`, which depends on CLIP guidance.
    """

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        preset, explicit = PRESETS[values], getattr(namespace, "explicit", ())
        sampler = None if preset.sampler == "ddim" else preset.sampler
        if "steps" not in explicit and "respacing" not in explicit:
            namespace.steps = preset.steps
        if "sampler" not in explicit:
            namespace.sampler = sampler


def add_sampling(parser: argparse.ArgumentParser, *, steps: int, cfg: float = 3.0) -> None:
    """--preset, --steps, --respacing, --sampler, --eta, --cfg, --negative."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--preset",
        action=_Preset,
        choices=PRESETS,
        default=argparse.SUPPRESS,
        help="steps and sampler in one word: "
        + ", ".join(f"{name} ({p.sampler}, {p.steps})" for name, p in PRESETS.items())
        + "; --steps, --respacing and --sampler take precedence",
    )
    group.add_argument(
        "--steps",
        action=_Explicit,
        type=step_count,
        default=steps,
        metavar="N",
        help=f"steps of the schedule (default: {steps})",
    )
    group.add_argument(
        "--respacing",
        action=_Explicit,
        default="",
        metavar="SPEC",
        help="the paper's timestep respacing instead of --steps: 100, ddim50, fast27, 10,10,3,2,2",
    )
    group.add_argument(
        "--sampler",
        action=_Explicit,
        type=canonical_sampler,
        choices=tuple(SAMPLERS),
        metavar="NAME",
        help=f"one of {', '.join(SAMPLERS)} (default: ddim, "
        "and ddpm with --clip-scale, as in the paper)",
    )
    group.add_argument(
        "--eta", type=fraction, default=0.0, help="ddim's share of fresh noise, 0 to 1 (default: 0)"
    )
    group.add_argument(
        "--cfg",
        type=number,
        default=cfg,
        metavar="SCALE",
        help=f"classifier-free guidance; 1 is off (default: {cfg:g})",
    )
    group.add_argument(
        "--negative",
        default="",
        metavar="TEXT",
        help="negative prompt: what guidance moves away from",
    )


def add_clip(parser: argparse.ArgumentParser) -> None:
    """--clip-scale, --clip: the noisy CLIP works at 64x64, so only in the first stage."""
    group = parser.add_argument_group("CLIP guidance")
    group.add_argument(
        "--clip-scale",
        type=number,
        default=0.0,
        metavar="SCALE",
        help="guidance by the noisy CLIP, beside --cfg; 0 is off, 1 to 4 is usual (default: 0)",
    )
    group.add_argument(
        "--clip",
        action="append",
        metavar="MODEL",
        help="noisy CLIP, a name or a file; twice for OpenAI's two files (default: clip)",
    )


def add_upsampling(parser: argparse.ArgumentParser, *, model: str) -> None:
    """--upsampler, --no-upsample, --upsample-steps, --upsample-cfg, --upsample-temperature."""
    group = parser.add_argument_group("upsampling")
    group.add_argument(
        "--upsampler",
        default=model,
        metavar="MODEL",
        help=f"a name of `glide models` or a file (default: {model})",
    )
    group.add_argument("--no-upsample", action="store_true", help="stop after the first stage")
    group.add_argument(
        "--upsample-steps",
        type=step_count,
        default=27,
        metavar="N",
        help="steps of the upsampler; 27 uses the paper's uneven spacing (default: 27)",
    )
    group.add_argument(
        "--upsample-cfg",
        type=number,
        default=1.0,
        metavar="SCALE",
        help="classifier-free guidance of the upsampler; 1 is off (default: 1, as in the paper)",
    )
    add_temperature(group, "--upsample-temperature")


def add_temperature(group: argparse._ActionsContainer, name: str) -> None:
    group.add_argument(
        name,
        type=not_negative,
        default=0.997,
        metavar="T",
        help="scale of the upsampler's starting noise (default: 0.997)",
    )


def add_model(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--model",
        default=default,
        metavar="MODEL",
        help=f"a name of `glide models` or a file (default: {default})",
    )


def add_lora(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lora",
        action="append",
        type=lora,
        metavar="FILE[:STRENGTH]",
        help="a LoRA of `glide train --lora` for the first stage, at a strength (default: 1); "
        "several add up",
    )


def lora(text: str) -> tuple[str, float]:
    """Read FILE[:STRENGTH] as (file, strength)."""
    file, colon, strength = text.rpartition(":")
    try:
        value = float(strength) if colon else math.nan
    except ValueError:
        return text, 1.0  # a colon in the file's name
    return (file, value) if math.isfinite(value) and file else (text, 1.0)


def whole(text: str, low: int = 0, high: float = math.inf) -> int:
    """An integer from low to high."""
    wanted = f"{low} or more" if high == math.inf else f"{low} to {high:,}"
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{shorten(repr(text))} is not an integer: expected {wanted}"
        ) from error
    if not low <= value <= high:
        size = "small" if value < low else "large"
        raise argparse.ArgumentTypeError(f"{shorten(text)} is too {size}: expected {wanted}")
    return value


def positive(text: str) -> int:
    return whole(text, 1)


def image_count(text: str) -> int:
    return whole(text, 1, 1_000_000)


def batch_size(text: str) -> int:
    return whole(text, 1, 4096)


def thread_count(text: str) -> int:
    return whole(text, 1, 1024)


def max_pixels(text: str) -> int:
    return whole(text, 1, 178_000_000)  # above it PIL refuses images


def side_length(text: str) -> int:
    return whole(text, 0, 4096)


def step_count(text: str) -> int:
    return whole(text, 1, TRAINED_STEPS)


def number(text: str) -> float:
    """Any number but NaN and infinity."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(
            f"{shorten(repr(text))} is not a number: expected one such as 3 or 2.5"
        )
    return value


def not_negative(text: str) -> float:
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{shorten(text)} is too small: expected 0 or more")
    return value


def seed(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is not a seed: expected an integer from 0 to 2^64 - 1"
        )
    return value


def fraction(text: str) -> float:
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{shorten(text)} is out of range: expected 0 to 1")
    return value


def size(text: str) -> tuple[int, int]:
    """Read WxH, or one number for a square, as (height, width)."""
    width, _, height = text.lower().partition("x")
    try:
        found = int(height or width), int(width)
    except ValueError:
        found = 0, 0
    if min(found) < 8 or max(found) > 4096 or found[0] % 8 or found[1] % 8:
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is not a possible size: expected multiples of 8 from 8 to 4096, such "
            "as 64 or 96x64"
        )
    return found
