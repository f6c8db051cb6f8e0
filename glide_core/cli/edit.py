"""`glide edit`: a picture redrawn by a prompt (SDEdit, Meng et al. 2021)."""

from __future__ import annotations

import argparse
from pathlib import Path

from glide_core.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Redraw a picture or a sketch by a prompt: noise is added up to --strength, and the model "
        "takes it away again."
    )
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("prompt", metavar="PROMPT", help="what the picture should show")
    parser.add_argument(
        "--strength",
        type=options.fraction,
        default=0.6,
        metavar="S",
        help="0 keeps the picture, 1 forgets it, 0.5 to 0.8 keeps its layout (default: 0.6)",
    )
    parser.add_argument(
        "--upsample-strength",
        type=options.fraction,
        default=1.0,
        metavar="S",
        help="1 takes no detail from the original at 256x256 (default: 1)",
    )
    options.add_count(parser)
    options.add_seed(parser)
    options.add_model(parser, "base")
    options.add_lora(parser)
    options.add_sampling(parser, steps=50)
    options.add_clip(parser)
    options.add_upsampling(parser, model="upsampler")
    options.add_output(parser)
    options.add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    from glide_core import images, pipeline
    from glide_core.cli import session

    here = session.Session.of(arguments)
    original = images.from_comfy(images.load_image(arguments.image))
    base = here.model(arguments.model, "base", "inpaint", loras=arguments.lora)
    upsampler = None if arguments.no_upsample else here.model(arguments.upsampler, "upsampler")
    session.warn_if_cut(base.config, arguments)
    guide = here.guide(arguments, arguments.prompt)
    small = images.fit(original, base.config.unet.image_size)
    for seeds in session.chunks(arguments.seed, arguments.n, arguments.batch):
        prompts = [arguments.prompt] * len(seeds)
        pictures = images.cycle(small, len(seeds)).to(here.device)
        if arguments.strength > 0:
            with here.progress("base") as step:
                pictures = pipeline.text_to_image(
                    base,
                    prompts,
                    seeds=seeds,
                    negative=arguments.negative,
                    settings=session.settings_of(arguments),
                    size=(small.shape[2], small.shape[3]),
                    init=pictures,
                    strength=arguments.strength,
                    cond_fn=guide,
                    callback=step,
                )
        if upsampler is not None and arguments.upsample_strength > 0:
            init = images.resize(original, pipeline.upsampled_size(pictures))
            with here.progress("upsampler") as step:
                pictures = pipeline.upsample(
                    upsampler,
                    pictures,
                    prompts,
                    seeds=seeds,
                    negative=arguments.negative,
                    settings=session.upsample_settings_of(arguments),
                    init=images.cycle(init, len(seeds)),
                    strength=arguments.upsample_strength,
                    callback=step,
                )
        session.write(pictures, arguments, seeds, session.facts_of(arguments))
    return 0
