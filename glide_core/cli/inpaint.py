"""`glide inpaint`: replace the masked part of an image of any size by a prompt."""

from __future__ import annotations

import argparse
from pathlib import Path

from glide_core.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Replace the image where the mask is white (or, in a mask with transparency, where it is "
        "transparent). The image may have any size: a square around the mask is inpainted and "
        "stitched back, and nothing outside the mask changes."
    )
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument(
        "mask", type=Path, metavar="MASK", help="of the image's size; white is inpainted"
    )
    parser.add_argument("prompt", metavar="PROMPT", help="what the whole image should show")
    parser.add_argument(
        "--context",
        type=options.not_negative,
        default=0.5,
        metavar="PART",
        help="surroundings that the model sees, as a part of the mask's extent",
    )
    parser.add_argument(
        "--feather",
        type=options.side_length,
        default=8,
        metavar="PIXELS",
        help="pixels inside the mask over which the old image fades into the new one",
    )
    options.add(parser, "--max-pixels")
    options.add_generation(parser, "inpaint", upsampler="upsampler-inpaint")


def run(arguments: argparse.Namespace) -> int:
    from glide_core.cli import common
    from glide_core.images import read_image, read_mask
    from glide_core.stages import inpaint_inputs

    image = read_image(arguments.image, arguments.max_pixels)
    mask = read_mask(arguments.mask, arguments.max_pixels)
    pipe = common.load_pipeline(arguments, "inpaint", "upsampler_inpaint")
    request = common.request_of(arguments, inpaint=True)
    upsample, context = not arguments.no_upsample, arguments.context
    inputs, stitched = inpaint_inputs(pipe, image, mask, upsample, context)
    return common.generate_and_write(
        pipe, request, arguments, inputs, lambda new: stitched(new, arguments.feather)
    )
