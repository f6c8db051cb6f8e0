"""`glide upscale`: enlarge an image four times."""

from __future__ import annotations

import argparse
from pathlib import Path

from glide_core.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Enlarge an image four times with GLIDE's upsampler, which reads the prompt too. It was "
        "trained on 64x64 images: any other is first resized so that its shorter side is 64."
    )
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("prompt", metavar="PROMPT", help="what the image shows")
    parser.add_argument(
        "--low-size",
        type=options.side_length,
        default=64,
        metavar="N",
        help="pixels of the shorter side before enlarging; 0 keeps the image's size",
    )
    options.add(parser, "--temperature", "--max-pixels")
    options.add_generation(parser, "upsampler", cfg=1.0)


def run(arguments: argparse.Namespace) -> int:
    from glide_core.cli import common
    from glide_core.images import fit, read_image
    from glide_core.request import GenerationRequest, upsample_settings
    from glide_core.stages import StageInputs

    low_res = fit(read_image(arguments.image, arguments.max_pixels), arguments.low_size)
    pipe = common.load_pipeline(arguments, "upsampler")
    request = GenerationRequest(
        prompt=arguments.prompt,
        negative_prompt=arguments.negative,
        base=None,
        upsampler=upsample_settings(
            arguments.steps,
            arguments.cfg,
            temperature=arguments.temperature,
            sampler=arguments.sampler,
            eta=arguments.eta,
            respacing=arguments.respacing,
        ),
    )
    inputs = (StageInputs(), StageInputs(low_res=low_res))
    return common.generate_and_write(pipe, request, arguments, inputs)
