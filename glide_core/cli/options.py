"""Options that mean the same in every command. Imports no torch: `--help` must be quick."""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path
from typing import Any

from glide_core import text_values as values
from glide_core.names import DTYPES, MAX_SIDE, PRESETS, SAMPLERS


class HelpFormatter(argparse.HelpFormatter):
    """Ends the help of an option with its default, unless the help says it itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        unset = default in (None, "", [], argparse.SUPPRESS) or isinstance(default, bool)
        if unset or "(default" in text:
            return text
        return f"{text} (default: {f'{default:g}' if isinstance(default, float) else default})"


# --- types of values; their GlideError is shown as it is ---


integer, real, fraction, seed = values.integer, values.real, values.fraction, values.seed
whole, positive = integer(0, 10**9), integer(1, 10**9)
not_negative, side_length = real(0, 1e6), integer(0, MAX_SIDE)


def lora(text: str) -> tuple[str, float]:
    """Read FILE[:STRENGTH] as (file, strength)."""
    file, _, strength = text.rpartition(":")
    is_number = re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", strength, re.IGNORECASE)
    return (file, values.scale(strength)) if file and is_number else (text, 1.0)


def folder_or_url(text: str) -> Path | str:
    """A local folder as a Path; a URL such as s3://bucket/folder stays text."""
    return text if "://" in text else Path(text)


# --- options ---


_Option = dict[str, Any]  # what `add_argument` takes
_steps = partial(_Option, type=values.step_count, metavar="N")
_scale = partial(_Option, type=values.scale, metavar="SCALE")

_PRESETS = ", ".join(
    f"{name} ({p.steps}{'' if p.sampler == 'ddim' else f' of {p.sampler}'})"
    for name, p in PRESETS.items()
)

# As most commands have them, by the titles of their groups in a command's help.
GROUPS: dict[str, dict[str, _Option]] = {
    "options": {
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
        "--lora": _Option(
            action="append",
            type=lora,
            metavar="FILE[:STRENGTH]",
            help="a LoRA of `glide train --lora` for the first stage, at a strength (default: 1); "
            "several add up",
        ),
    },
    "sampling": {
        "--preset": _Option(
            choices=PRESETS,
            help=f"steps and sampler in one word: {_PRESETS}; --steps, --respacing and --sampler "
            "take precedence",
        ),
        "--steps": _steps(
            help="steps of the schedule (default: the model's own, else 30, of an upsampler 27)"
        ),
        "--respacing": _Option(
            default="",
            metavar="SPEC",
            help="the paper's timestep respacing instead of --steps: 100, ddim50, fast27, "
            "10,10,3,2,2",
        ),
        "--sampler": _Option(
            type=values.sampler,
            metavar="NAME",
            help=f"one of {', '.join(SAMPLERS)} (default: the model's own, else ddim; with "
            "--clip-scale ddpm, as in the paper)",
        ),
        "--eta": _Option(type=fraction, default=0.0, help="ddim's share of fresh noise, 0 to 1"),
        "--cfg": _scale(help="classifier-free guidance; 1 is off (default: the model's)"),
        "--negative": _Option(
            default="", metavar="TEXT", help="negative prompt: what guidance moves away from"
        ),
    },
    "CLIP guidance": {
        "--clip-scale": _scale(
            type=values.number,
            default=0.0,
            help="guidance by the noisy CLIP, beside --cfg; 0 is off, 2 to 8 is usual "
            "(docs/clip_guidance.md)",
        ),
        "--clip-prompt": _Option(
            metavar="TEXT", help="what CLIP guides towards, if not towards the prompt"
        ),
        "--clip": _Option(
            action="append",
            metavar="MODEL",
            help="noisy CLIP, a name or a file; twice for OpenAI's two files (default: clip)",
        ),
        "--no-clip-guided": _Option(
            action="store_false",
            dest="clip_guided",
            help="do not clip estimates of the image again after CLIP has moved them, as in "
            "OpenAI's code: with samplers other than ddpm this oversaturates",
        ),
    },
    "upsampling": {
        "--upsampler": _Option(metavar="MODEL", help="a name of `glide models` or a file"),
        "--no-upsample": _Option(action="store_true", help="stop after the first stage"),
        "--upsample-steps": _steps(
            help="steps of the upsampler; 27 have the paper's uneven spacing (default: the "
            "model's own, else 27)"
        ),
        "--upsample-cfg": _scale(
            default=1.0,
            help="classifier-free guidance of the upsampler; 1 is off, as in the paper",
        ),
        "--upsample-temperature": _Option(
            type=values.temperature,
            default=0.997,
            metavar="T",
            help="scale of the upsampler's initial noise; the bundled one starts without noise at "
            "any value",
        ),
    },
    "output": {
        "--out": _Option(
            type=Path,
            default=Path("out"),
            metavar="DIR",
            help="output folder; existing files are kept",
        ),
        "--quiet": _Option(action="store_true", help="no progress bars, only paths"),
    },
    "device": {
        "--device": _Option(
            default="auto", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)"
        ),
        "--dtype": _Option(
            default="auto",
            choices=DTYPES,
            help="number format of the heavy layers (default: float16 on CUDA, else float32); "
            "fast: the quickest of those that a CPU runs, found by timing; int8: 8-bit, on a CPU",
        ),
        "--threads": _Option(
            type=integer(1, 1024),
            metavar="N",
            help="CPU threads (default: the cores that other programs leave free)",
        ),
        "--compile": _Option(
            action="store_true",
            help="torch.compile the models (not int8): takes minutes, and needs a compiler",
        ),
    },
}
OPTIONS = {name: option for group in GROUPS.values() for name, option in group.items()}


def add(group: argparse._ActionsContainer, *names: str, **changes: Any) -> None:
    """Add options of `OPTIONS`; `changes` replace what is there for this command."""
    for name in names:
        group.add_argument(name, **{**OPTIONS[name], **changes})


def add_group(parser: argparse.ArgumentParser, title: str, **changes: _Option) -> None:
    """Add a group of `GROUPS`. changes: of options, by their names without dashes."""
    group = parser.add_argument_group(title)
    for name in GROUPS[title]:
        add(group, name, **changes.get(name.removeprefix("--"), {}))


def add_generation(parser: argparse.ArgumentParser, *roles: str, **changes: _Option) -> None:
    """Add what the image commands share, without CLIP guidance for an upsampler alone.

    roles: of the stages' models, see `glide_core.components.Role`. changes: as in `add_group`.
    """
    first, *others = GROUPS
    left_out = ("--lora", "CLIP guidance", "upsampling") if len(roles) == 1 else ()
    add(parser, *(name for name in GROUPS[first] if name not in left_out))
    for title in others:
        if title not in left_out:
            add_group(parser, title, **changes)
    models = (role.replace("_", "-") for role in roles)  # the bundled ones
    parser.set_defaults(roles=roles, **dict(zip(("model", "upsampler"), models, strict=False)))
