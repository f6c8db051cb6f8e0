"""The `glide` command. A subcommand's module is imported when it is used."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from glide_core import __version__
from glide_core.cli.options import HelpFormatter
from glide_core.errors import GlideError, UsageError, is_out_of_memory, shorten

COMMANDS = {  # name: (module or module:function, what it does)
    "generate": ("glide_core.cli.images:generate", "generate images from a prompt"),
    "upscale": ("glide_core.cli.images:upscale", "enlarge an image four times, with a prompt"),
    "inpaint": ("glide_core.cli.images:inpaint", "replace the masked part of an image"),
    "edit": ("glide_core.cli.images:edit", "change an image by a prompt (SDEdit)"),
    "run": ("glide_pack.nodes.host.standalone.command", "run a ComfyUI workflow, also on a server"),
    "models": ("glide_core.cli.models", "list, download, convert and merge models"),
    "evaluate": ("glide_core.cli.evaluate", "measure images: frechet, kid, CLIP score..."),
    "sweep": ("glide_core.cli.sweep", "compare guidance scales, steps and samplers"),
    "train": ("glide_core.cli.train", "train a model"),
}


class _Parser(argparse.ArgumentParser):
    """Reports an error in two lines instead of the usage of all options."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=HelpFormatter, **settings)

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        try:
            return super()._get_value(action, text)
        except argparse.ArgumentError as error:
            if isinstance(error.__context__, GlideError):  # argparse says only "invalid value"
                raise argparse.ArgumentError(action, str(error.__context__)) from error
            raise

    def error(self, message: str) -> NoReturn:
        quoted = re.sub(r"'([^']{81,})'", lambda m: repr(shorten(m.group(1))), message)
        self.exit(2, f"{self.prog}: {shorten(quoted, 600)}\nSee `{self.prog} --help`.\n")


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Build the parser; only `command` gets its options (None: no subcommand does)."""
    parser = _Parser(
        prog="glide",
        description="GLIDE (Nichol et al. 2021): text to image, upsampling, inpainting, editing.",
        epilog="See `glide COMMAND --help`. Example: glide generate 'a fox on a blue background'",
    )
    parser.add_argument("--version", action="version", version=f"glide {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (place, line) in COMMANDS.items():
        sub = commands.add_parser(name, help=line)
        if name == command:
            path, _, function = place.partition(":")
            module = importlib.import_module(path)
            getattr(module, f"add_{function or 'arguments'}")(sub)
            sub.set_defaults(run=getattr(module, function or "run"))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `glide`. Returns 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # paths that are not Unicode
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = next((word for word in given if word in COMMANDS), None)
    parser = build_parser(asked)
    if wrong := [word[:-3] for word in given if re.fullmatch(r"--[a-z-]+=--", word)]:
        parser.error(f"argument {wrong[0]}: expected a value, not '--'")  # argparse gives []
    options = parser.parse_args(given)
    if options.command is None:
        parser.print_help()
        return 2
    try:
        with _warnings_shown():
            if hasattr(options, "threads") and not getattr(options, "server", None):
                import torch

                from glide_core.devices import free_cores

                torch.set_num_threads(options.threads or free_cores())
            return int(options.run(options) or 0)
    except BrokenPipeError:  # `glide models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        message, status = _explain(error, options)
        print(f"glide: {message}", file=sys.stderr)
        return status


def _explain(error: BaseException, options: argparse.Namespace) -> tuple[str, int]:
    """The message and the exit status of an error; raises one that is a bug."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped.", 130
    if isinstance(error, UsageError):
        return f"{error}\nSee `glide {options.command} --help`.", 2
    if isinstance(error, GlideError):
        end = "." if str(error).endswith(".") else ""
        named = hasattr(options, error.setting)  # the parameter to change is an option
        option = f" (--{error.setting.replace('_', '-')})" if named else ""
        return f"{str(error).removesuffix('.')}{option}{end}", 1
    if is_out_of_memory(error):
        detail = f" ({shorten(error, 200)})" if str(error) else ""
        advice = "Use a smaller --batch or --size, or another --dtype or --device."
        return f"out of memory{detail}. {advice}", 1
    if isinstance(error, OSError):  # a full disk, a file removed meanwhile
        where = f": {shorten(error.filename, 200)}" if error.filename else ""
        return f"{error.strerror or error}{where}", 1
    raise error


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Show the library's warnings (a truncated prompt, a soft mask) as `glide: ...`.

    Those of Pillow are hidden: a damaged TIFF gives one per tag.
    """
    glide, pillow = logging.getLogger("glide"), logging.getLogger("PIL")
    propagate, level = glide.propagate, pillow.level
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("glide: %(message)s"))
    glide.addHandler(handler)
    glide.propagate = False  # a library may have given the root logger a handler
    pillow.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        glide.removeHandler(handler)
        glide.propagate = propagate
        pillow.setLevel(level)
