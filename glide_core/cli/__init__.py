"""The `glide` command. Each subcommand is a module, imported when it is used."""

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

COMMANDS = {  # name: (module, what it does)
    "generate": ("glide_core.cli.generate", "generate images from a prompt"),
    "upscale": ("glide_core.cli.upscale", "enlarge an image four times, with a prompt"),
    "inpaint": ("glide_core.cli.inpaint", "replace the masked part of an image"),
    "edit": ("glide_core.cli.edit", "change an image by a prompt (SDEdit)"),
    "run": (
        "glide_pack.nodes.host.standalone.command",
        "run a ComfyUI workflow, here or on a server",
    ),
    "models": ("glide_core.cli.models", "list, download, convert and merge models"),
    "evaluate": ("glide_core.cli.evaluate", "measure images: frechet, kid, CLIP score..."),
    "sweep": ("glide_core.cli.sweep", "compare guidance scales, steps and samplers"),
    "train": ("glide_core.cli.train", "train a model"),
}


class _Parser(argparse.ArgumentParser):
    """Reports an error in two lines instead of the usage of all options."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=HelpFormatter, **settings)

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
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (module, line) in COMMANDS.items():
        sub = commands.add_parser(name, help=line, description=f"{line[0].upper()}{line[1:]}.")
        if name == command:
            importlib.import_module(module).add_arguments(sub)
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
    if options.version:
        print(f"glide {__version__}")
        return 0
    if options.command is None:
        parser.print_help()
        return 2
    module = importlib.import_module(COMMANDS[options.command][0])
    try:
        with _warnings_shown():
            if hasattr(options, "threads") and not getattr(options, "server", None):
                import torch

                from glide_core.devices import free_cores

                torch.set_num_threads(options.threads or free_cores())
            return int(module.run(options))
    except UsageError as error:
        print(f"glide: {error}\nSee `glide {options.command} --help`.", file=sys.stderr)
        return 2
    except GlideError as error:
        print(f"glide: {with_option(error, options)}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `glide models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("glide: stopped.", file=sys.stderr)
        return 130
    except (OSError, RuntimeError, MemoryError, ImportError) as error:
        if not is_out_of_memory(error):
            if not isinstance(error, OSError):
                raise
            # a full disk, a file removed meanwhile
            where = f": {shorten(error.filename, 200)}" if error.filename else ""
            print(f"glide: {error.strerror or error}{where}", file=sys.stderr)
            return 1
        detail = f" ({shorten(error, 200)})" if str(error) else ""
        print(
            f"glide: out of memory{detail}. Use a smaller --batch or --size, or another --dtype or "
            "--device.",
            file=sys.stderr,
        )
        return 1


def with_option(error: GlideError, options: argparse.Namespace) -> str:
    """The message, with the option of the parameter to change where the command has one."""
    message = str(error)
    if not error.setting or not hasattr(options, error.setting):
        return message
    text = message.removesuffix(".")
    end = message[len(text) :]
    return f"{text} (--{error.setting.replace('_', '-')}){end}"


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Show the library's warnings (a truncated prompt, a soft mask) as `glide: ...`.

    Those of Pillow are hidden: a damaged TIFF gives one per tag.
    """
    logger, pillow = logging.getLogger("glide"), logging.getLogger("PIL")
    nothing = logging.NullHandler()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("glide: %(message)s"))
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    pillow.addHandler(nothing)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        pillow.removeHandler(nothing)
        logger.removeHandler(handler)
        logger.propagate = propagate
