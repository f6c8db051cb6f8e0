"""Write docs/cli.md from the parsers: `python docs/make_cli.py`; --check only compares."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).with_name("cli.md")
INTRODUCTION = """# Command line

Written by `python docs/make_cli.py` from the commands' `--help`.

Exit status: 0 success, 1 error, 2 wrong usage, 130 interrupted with Ctrl-C. Messages go to standard
error, paths of written files to standard output. Only `glide models download` downloads anything.
"""


def page() -> str:
    """The whole page."""
    from glide_core.cli import COMMANDS, build_parser

    parts = [INTRODUCTION]
    for name in COMMANDS:
        parser = _subparsers(build_parser(name))[name]
        parts.append("\n".join(_section(parser, "##")))
    return "\n".join(parts)


def _section(parser: argparse.ArgumentParser, heading: str) -> Iterator[str]:
    yield f"{heading} {parser.prog}\n"
    if parser.description:
        yield f"{_plain(parser.description)}\n"
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if _is_shown(a)]
        if not actions:
            continue
        if group.title not in ("positional arguments", "options"):
            yield f"**{_plain(str(group.title))}**" + (
                f": {_plain(group.description)}\n" if group.description else "\n"
            )
        for action in actions:
            text = parser._get_formatter()._expand_help(action) if action.help else ""
            yield f"- {_usage(action)}" + (f": {_plain(text)}" if text else "")
        yield ""
    for sub in _subparsers(parser).values():
        yield from _section(sub, heading + "#")


def _is_shown(action: argparse.Action) -> bool:
    hidden = isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
    return not hidden and action.help != argparse.SUPPRESS


def _usage(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(action.choices) if action.choices else action.dest.upper())
    shown = " ".join(value) if isinstance(value, tuple) else str(value)
    if not action.option_strings:
        return f"`{shown}`"
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    return names if action.nargs == 0 else f"{names} `{shown}`"


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _plain(text: str) -> str:
    return " ".join(text.split())


def main() -> int:
    content = page()
    if "--check" in sys.argv[1:]:
        current = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        if current != content:
            print("docs/cli.md is not current: run `python docs/make_cli.py`", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
