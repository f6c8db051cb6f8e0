"""Options that mean the same in every command. Imports no torch: `--help` must be quick."""

from __future__ import annotations

import argparse
import math
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from glide_core import text_values
from glide_core.errors import GlideError
from glide_core.names import DTYPES, MAX_SIDE, PRESETS, SAMPLERS

_T = TypeVar("_T")


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


def option_type(read: Callable[[str], _T]) -> Callable[[str], _T]:
    """A type for argparse, which shows the message of an ArgumentTypeError alone."""

    def checked(text: str) -> _T:
        try:
            return read(text)
        except GlideError as error:
            raise ArgumentTypeError(str(error)) from error

    return checked


def integer(low: int, high: int) -> Callable[[str], int]:
    return option_type(text_values.integer(low, high))


def real(low: float = -math.inf, high: float = math.inf) -> Callable[[str], float]:
    return option_type(text_values.real(low, high))


whole, positive = integer(0, 10**9), integer(1, 10**9)
not_negative, process_count = real(0, 1e6), integer(0, 1024)
side_length = integer(0, MAX_SIDE)
number, fraction = option_type(text_values.number), option_type(text_values.fraction)
scale, temperature = option_type(text_values.scale), option_type(text_values.temperature)
seed, step_count = option_type(text_values.seed), option_type(text_values.step_count)
size, sampler = option_type(text_values.size), option_type(text_values.sampler)


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


_Option = dict[str, Any]  # what `add_argument` takes

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
    "--eta": _Option(type=fraction, default=0.0, help="ddim's share of fresh noise, 0 to 1"),
    "--cfg": _Option(
        type=scale,
        metavar="SCALE",
        help="classifier-free guidance; 1 is off (default: the model's)",
    ),
    "--negative": _Option(
        default="", metavar="TEXT", help="negative prompt: what guidance moves away from"
    ),
    "--clip": _Option(
        action="append",
        metavar="MODEL",
        help="noisy CLIP, a name or a file; twice for OpenAI's two files (default: clip)",
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
        parser.add_argument(
            "--lora",
            action="append",
            type=lora,
            metavar="FILE[:STRENGTH]",
            help="a LoRA of `glide train --lora` for the first stage, at a strength (default: 1); "
            "several add up",
        )
    add_sampling(parser, steps=steps, cfg=cfg)
    if upsampler:
        _add_clip_guidance(parser.add_argument_group("CLIP guidance"))
        _add_upsampling(parser.add_argument_group("upsampling"), upsampler)
    add_output(parser, out)
    add_device(parser)


def add_sampling(
    parser: argparse.ArgumentParser, *, steps: int | None = None, cfg: float | None = None
) -> None:
    """--preset, --steps, --respacing, --sampler, --eta, --cfg, --negative.

    steps: what the command uses where neither --steps nor --preset is given.
    """
    group = parser.add_argument_group("sampling")
    presets = ", ".join(
        f"{name} ({p.steps}{'' if p.sampler == 'ddim' else f' of {p.sampler}'})"
        for name, p in PRESETS.items()
    )
    group.add_argument(
        "--preset",
        choices=PRESETS,
        help=f"steps and sampler in one word: {presets}; --steps, --respacing and --sampler take "
        "precedence",
    )
    default = steps or "the model's own, else 30, of an upsampler 27"
    text = f"steps of the schedule (default: {default})"
    group.add_argument("--steps", type=step_count, metavar="N", help=text)
    group.add_argument(
        "--respacing",
        default="",
        metavar="SPEC",
        help="the paper's timestep respacing instead of --steps: 100, ddim50, fast27, 10,10,3,2,2",
    )
    group.add_argument(
        "--sampler",
        type=sampler,
        metavar="NAME",
        help=f"one of {', '.join(SAMPLERS)} (default: the model's own, else ddim; with "
        "--clip-scale ddpm, as in the paper)",
    )
    add(group, "--eta")
    add(group, "--cfg", default=cfg)
    add(group, "--negative")


def _add_clip_guidance(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--clip-scale",
        type=number,
        default=0.0,
        metavar="SCALE",
        help="guidance by the noisy CLIP, beside --cfg; 0 is off, 2 to 8 is usual "
        "(docs/clip_guidance.md)",
    )
    text = "what CLIP guides towards, if not towards the prompt"
    group.add_argument("--clip-prompt", metavar="TEXT", help=text)
    add(group, "--clip")
    group.add_argument(
        "--no-clip-guided",
        action="store_false",
        dest="clip_guided",
        help="do not clip estimates of the image again after CLIP has moved them, as in OpenAI's "
        "code: with samplers other than ddpm this oversaturates",
    )


def _add_upsampling(group: argparse._ActionsContainer, model: str) -> None:
    text = "a name of `glide models` or a file"
    group.add_argument("--upsampler", default=model, metavar="MODEL", help=text)
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
