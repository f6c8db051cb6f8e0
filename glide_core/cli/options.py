"""Options that mean the same in every command. Imports no torch: `--help` must be quick."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from glide_core.errors import shorten
from glide_core.names import (
    DTYPES,
    MAX_SIDE,
    PRESETS,
    SAMPLERS,
    TRAINED_STEPS,
    canonical_sampler,
)


class HelpFormatter(argparse.HelpFormatter):
    """Ends the help of an option with its default, unless the help says it itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        unset = (
            default is None or isinstance(default, bool) or default in ("", [], argparse.SUPPRESS)
        )
        if unset or "(default" in text:
            return text
        return f"{text} (default: {f'{default:g}' if isinstance(default, float) else default})"


# --- types of values ---


def integer(low: int = 0, high: float = math.inf) -> Callable[[str], int]:
    """A type of option: an integer from low to high."""

    def read(text: str) -> int:
        wanted = f"{low} or more" if high == math.inf else f"{low} to {high:,}"
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"{shorten(repr(text))} is not an integer: expected {wanted}"
            ) from error
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{shorten(text)} is out of range: expected {wanted}")
        return value

    return read


def real(low: float = -math.inf, high: float = math.inf) -> Callable[[str], float]:
    """A type of option: a finite number from low to high."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(
                f"{shorten(repr(text))} is not a number: expected one such as 3 or 2.5"
            )
        if not low <= value <= high:
            wanted = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"{shorten(text)} is out of range: expected {wanted}")
        return value

    return read


whole, positive = integer(0, 10**9), integer(1, 10**9)
number, not_negative, fraction = real(-1e6, 1e6), real(0, 1e6), real(0, 1)
scale, temperature = real(-1000, 1000), real(0, 10)
seed, side_length = integer(0, 2**64 - 1), integer(0, MAX_SIDE)
step_count, process_count = integer(1, TRAINED_STEPS), integer(0, 1024)


def size(text: str) -> tuple[int, int]:
    """Read WxH, or one number for a square, as (height, width)."""
    width, _, height = text.lower().partition("x")
    try:
        found = int(height or width), int(width)
    except ValueError:
        found = 0, 0
    if any(side % 8 or not 8 <= side <= MAX_SIDE for side in found):
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is not a possible size: expected multiples of 8 from 8 to "
            f"{MAX_SIDE}, such as 64 or 96x64"
        )
    return found


def lora(text: str) -> tuple[str, float]:
    """Read FILE[:STRENGTH] as (file, strength)."""
    file, _, strength = text.rpartition(":")
    try:
        value = float(strength)
    except ValueError:
        value = math.nan  # no strength, or a colon in the file's name
    return (file, scale(strength)) if file and math.isfinite(value) else (text, 1.0)


def folder_or_url(text: str) -> Path | str:
    """A local folder as a Path; a URL such as s3://bucket/folder stays text."""
    return text if "://" in text else Path(text)


# --- options ---


class _Option(TypedDict, total=False):
    type: Callable[[str], Any]
    default: Any
    metavar: str
    help: str
    action: str
    choices: Sequence[str]
    const: Any
    dest: str


SHARED: dict[str, _Option] = {  # as most commands have them; see `add`
    "-n": _Option(type=integer(1, 1_000_000), default=1, metavar="N", help="number of images"),
    "--batch": _Option(
        type=integer(1, 4096),
        default=4,
        metavar="N",
        help="images computed at once; lower it to save memory, the images stay the same",
    ),
    "--seed": _Option(
        type=seed, default=0, metavar="N", help="random seed; image i uses seed N + i"
    ),
    "--model": _Option(metavar="MODEL", help="a name of `glide models` or a file"),
    "--upsampler": _Option(metavar="MODEL", help="a name of `glide models` or a file"),
    "--lora": _Option(
        action="append",
        type=lora,
        metavar="FILE[:STRENGTH]",
        help="a LoRA of `glide train --lora` for the first stage, at a strength (default: 1); "
        "several add up",
    ),
    "--max-pixels": _Option(
        type=integer(1, 178_000_000),  # above it PIL refuses images
        default=50_000_000,
        metavar="N",
        help="refuse larger input images before decoding them",
    ),
    "--eta": _Option(type=fraction, default=0.0, help="ddim's share of fresh noise, 0 to 1"),
    "--cfg": _Option(
        type=scale,
        metavar="SCALE",
        help="classifier-free guidance; 1 is off (default: the model's)",
    ),
    "--negative": _Option(
        default="", metavar="TEXT", help="negative prompt: what guidance moves away from"
    ),
    "--clip-scale": _Option(
        type=number,
        default=0.0,
        metavar="SCALE",
        help="guidance by the noisy CLIP, beside --cfg; 0 is off, 2 to 8 is usual "
        "(docs/clip_guidance.md)",
    ),
    "--clip": _Option(
        action="append",
        metavar="MODEL",
        help="noisy CLIP, a name or a file; twice for OpenAI's two files (default: clip)",
    ),
    "--clip-prompt": _Option(
        metavar="TEXT", help="what CLIP guides towards, if not towards the prompt"
    ),
    "--no-clip-guided": _Option(
        action="store_const",
        const=False,
        dest="clip_guided",
        default=True,
        help="do not clip estimates of the image again after CLIP has moved them, as in OpenAI's "
        "code: with samplers other than ddpm this oversaturates",
    ),
    "--temperature": _Option(
        type=temperature,
        default=0.997,
        metavar="T",
        help="scale of the upsampler's initial noise; the bundled one starts without noise at any "
        "value",
    ),
    "--out": _Option(
        type=Path,
        default=Path("out"),
        metavar="DIR",
        help="output folder; existing files are kept",
    ),
    "--quiet": _Option(action="store_true", help="no progress bars, only paths"),
    "--device": _Option(
        default="auto", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)"
    ),
    "--dtype": _Option(
        default="auto",
        choices=DTYPES,
        help="number format of the heavy layers (default: float16 on CUDA, else float32); fast: "
        "the quickest of those that a CPU runs, found by timing; int8: 8-bit, on a CPU",
    ),
    "--compile": _Option(
        action="store_true",
        help="torch.compile the models (not int8): takes minutes, and needs a compiler",
    ),
    "--threads": _Option(
        type=integer(1, 1024),
        metavar="N",
        help="CPU threads (default: the cores that other programs leave free)",
    ),
    "--workers": _Option(
        type=process_count,
        default=0,
        metavar="N",
        help="processes that decode images; 0: the main process decodes",
    ),
}


def add(group: argparse._ActionsContainer, *names: str, **changes: Any) -> None:
    """Add options of `SHARED`; `changes` replace what is there for this command."""
    for name in names:
        group.add_argument(name, **{**SHARED[name], **changes})


def add_generation(
    parser: argparse.ArgumentParser,
    model: str,
    *,
    steps: int | None = None,
    upsampler: str = "",
    cfg: float | None = None,
    out: Callable[[str], Path | str] = Path,
) -> None:
    """What the image commands share. upsampler: "" for `glide upscale`, which has one stage."""
    add(parser, "-n", "--batch", "--seed")
    add(parser, "--model", default=model)
    if upsampler:
        add(parser, "--lora")
    add_sampling(parser, steps=steps, cfg=cfg)
    if upsampler:
        guidance = parser.add_argument_group("CLIP guidance")
        add(guidance, "--clip-scale", "--clip-prompt", "--clip", "--no-clip-guided")
        _add_upsampling(parser.add_argument_group("upsampling"), upsampler)
    add_output(parser, out)
    add_device(parser)


def add_sampling(
    parser: argparse.ArgumentParser, *, steps: int | None = None, cfg: float | None = None
) -> None:
    """--preset, --steps, --respacing, --sampler, --eta, --cfg, --negative."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--preset",
        action=_Preset,
        choices=PRESETS,
        default=argparse.SUPPRESS,
        help="steps and sampler in one word: "
        + ", ".join(f"{name} ({p.steps}{_other(p.sampler)})" for name, p in PRESETS.items())
        + "; --steps, --respacing and --sampler take precedence",
    )
    explicit = partial(group.add_argument, action=_Explicit)
    default = "the model's own, else 30, of an upsampler 27" if steps is None else f"{steps}"
    text = f"steps of the schedule (default: {default})"
    explicit("--steps", type=step_count, default=steps, metavar="N", help=text)
    explicit(
        "--respacing",
        default="",
        metavar="SPEC",
        help="the paper's timestep respacing instead of --steps: 100, ddim50, fast27, 10,10,3,2,2",
    )
    explicit(
        "--sampler",
        type=canonical_sampler,
        choices=tuple(SAMPLERS),
        metavar="NAME",
        help=f"one of {', '.join(SAMPLERS)} (default: the model's "
        "own, else ddim; with --clip-scale ddpm, as in the paper)",
    )
    add(group, "--eta")
    add(group, "--cfg", default=cfg)
    add(group, "--negative")


def _add_upsampling(group: argparse._ActionsContainer, model: str) -> None:
    add(group, "--upsampler", default=model)
    group.add_argument("--no-upsample", action="store_true", help="stop after the first stage")
    group.add_argument(
        "--upsample-steps",
        type=step_count,
        metavar="N",
        help="steps of the upsampler; 27 have the paper's uneven spacing (default: the model's "
        "own, else 27)",
    )
    text = "classifier-free guidance of the upsampler; 1 is off (default: 1, as in the paper)"
    group.add_argument("--upsample-cfg", type=scale, default=1.0, metavar="SCALE", help=text)
    group.add_argument("--upsample-temperature", **SHARED["--temperature"])


def add_output(parser: argparse.ArgumentParser, kind: Callable[[str], Path | str] = Path) -> None:
    group = parser.add_argument_group("output")
    add(group, "--out", type=kind)
    add(group, "--quiet")


def add_device(parser: argparse.ArgumentParser, *, compiled: bool = True) -> None:
    """compiled: with --compile, for commands whose models are in a pipeline."""
    names = ("--device", "--dtype", "--threads") + (("--compile",) if compiled else ())
    add(parser.add_argument_group("device"), *names)


def _other(sampler: str) -> str:
    return "" if sampler == "ddim" else f" of {sampler}"


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
