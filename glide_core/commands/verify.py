"""`glide verify`: this code against recorded outputs of another."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare with a folder of recorded outputs (in the format of tests/golden): one line a "
        "case with its largest error and what is allowed, a count at the end."
    )
    parser.add_argument("directory", type=Path, metavar="DIR")


def run(arguments: argparse.Namespace) -> int:
    from glide_core.evaluation import verify

    return int(verify.main(arguments.directory))
