"""`glide edit`: change an image by a prompt (SDEdit, Meng et al. 2021)."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from glide_core.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Change an image or a sketch by a prompt: noise is added up to --strength, and the model "
        "removes it again."
    )
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("prompt", metavar="PROMPT", help="what the image should show")
    fraction = partial(parser.add_argument, type=options.fraction, metavar="S")
    layout = "0 keeps the image, 1 ignores it, 0.5 to 0.8 keeps its layout"
    fraction("--strength", default=0.6, help=layout)
    detail = "1 takes no detail from the original at 256x256"
    fraction("--upsample-strength", default=1.0, help=detail)
    options.add(parser, "--max-pixels")
    options.add_generation(parser, "base", steps=50, upsampler="upsampler")


def run(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from glide_core.cli import common
    from glide_core.images import read_image
    from glide_core.stages import edit_inputs

    original = read_image(arguments.image, arguments.max_pixels)
    pipe = common.load_pipeline(arguments, "base", "upsampler")
    request = replace(
        common.request_of(arguments),
        strength=arguments.strength,
        upsample_strength=arguments.upsample_strength,
    )
    inputs = edit_inputs(pipe, original, not arguments.no_upsample)
    return common.generate_and_write(pipe, request, arguments, inputs)
