"""`glide generate`: pictures of a prompt."""

from __future__ import annotations

import argparse

from glide_core.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw pictures of a prompt: 64x64 first, then 256x256. The models that come with the "
        "package know a few dozen emoji subjects on named backgrounds: 'a fox on a blue "
        "background'."
    )
    parser.add_argument("prompt", metavar="PROMPT", help="what to draw; '' draws anything")
    options.add_count(parser)
    options.add_seed(parser)
    options.add_model(parser, "base")
    parser.add_argument(
        "--size",
        dest="base_size",
        type=options.size,
        metavar="WxH",
        help="of the first stage, in multiples of 8 (default: the model's own, 64x64)",
    )
    options.add_sampling(parser, steps=30)
    options.add_clip(parser)
    options.add_upsampling(parser, model="upsampler")
    options.add_output(parser)
    options.add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    from glide_core import pipeline
    from glide_core.commands import session

    here = session.Session.of(arguments)
    base = here.model(arguments.model, "base", "inpaint")
    upsampler = None if arguments.no_upsample else here.model(arguments.upsampler, "upsampler")
    session.warn_if_cut(base.config, arguments)
    guide = here.guide(arguments, arguments.prompt)
    facts = session.facts_of(arguments)
    for seeds in session.chunks(arguments.seed, arguments.n, arguments.batch):
        prompts = [arguments.prompt] * len(seeds)
        with here.progress("base") as step:
            pictures = pipeline.text_to_image(
                base,
                prompts,
                seeds=seeds,
                negative=arguments.negative,
                settings=session.settings_of(arguments),
                size=arguments.base_size,
                cond_fn=guide,
                callback=step,
            )
        if upsampler is not None:
            with here.progress("upsampler") as step:
                pictures = pipeline.upsample(
                    upsampler,
                    pictures,
                    prompts,
                    seeds=seeds,
                    negative=arguments.negative,
                    settings=session.upsample_settings_of(arguments),
                    callback=step,
                )
        session.write(pictures, arguments, seeds, facts)
    return 0
