"""`glide upscale`: a picture four times as large."""

from __future__ import annotations

import argparse
from pathlib import Path

from glide_core.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Enlarge a picture four times with GLIDE's upsampler, which reads the prompt too. It was "
        "made for pictures of 64x64: any other is first resized so that its shorter side is 64."
    )
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("prompt", metavar="PROMPT", help="what the picture shows")
    options.add_count(parser)
    options.add_seed(parser)
    options.add_model(parser, "upsampler")
    parser.add_argument(
        "--low-size",
        type=options.whole,
        default=64,
        metavar="N",
        help="pixels of the shorter side before enlarging; 0 leaves it as it is (default: 64)",
    )
    options.add_sampling(parser, steps=27, cfg=1.0)
    options.add_temperature(parser, "--temperature")
    options.add_output(parser)
    options.add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from glide_core import images, pipeline
    from glide_core.cli import session

    here = session.Session.of(arguments)
    picture = images.from_comfy(images.load_image(arguments.image))
    low_res = images.fit(picture, arguments.low_size)
    model = here.model(arguments.model, "upsampler")
    session.warn_if_cut(model.config, arguments)
    settings = replace(
        session.settings_of(arguments),
        respacing=arguments.respacing or pipeline.upsample_respacing(arguments.steps),
        temperature=arguments.temperature,
    )
    for seeds in session.chunks(arguments.seed, arguments.n, arguments.batch):
        with here.progress("upsampler") as step:
            pictures = pipeline.upsample(
                model,
                images.cycle(low_res, len(seeds)),
                [arguments.prompt] * len(seeds),
                seeds=seeds,
                negative=arguments.negative,
                settings=settings,
                callback=step,
            )
        session.write(pictures, arguments, seeds, session.facts_of(arguments))
    return 0
