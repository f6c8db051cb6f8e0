"""`glide inpaint`: the masked part of a picture of any size, by a prompt."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from glide_core.cli import options

log = logging.getLogger("glide")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Repaint where the mask is white (or, in a mask with transparency, where it is "
        "transparent). The picture may have any size: a square around the mask is repainted and "
        "stitched back, and nothing outside the mask changes."
    )
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("mask", type=Path, metavar="MASK", help="white is repainted")
    parser.add_argument("prompt", metavar="PROMPT", help="what the picture should show")
    options.add_count(parser)
    options.add_seed(parser)
    options.add_model(parser, "inpaint")
    options.add_lora(parser)
    parser.add_argument(
        "--context",
        type=options.not_negative,
        default=0.5,
        metavar="PART",
        help="surroundings the model sees, as a part of the mask's extent (default: 0.5)",
    )
    parser.add_argument(
        "--feather",
        type=options.whole,
        default=8,
        metavar="PIXELS",
        help="over how many pixels inside the mask old fades into new (default: 8)",
    )
    options.add_sampling(parser, steps=30)
    options.add_clip(parser)
    options.add_upsampling(parser, model="upsampler-inpaint")
    options.add_output(parser)
    options.add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    from glide_core import crop, images, pipeline
    from glide_core.cli import session

    here = session.Session.of(arguments)
    image, mask = images.load_image(arguments.image), images.load_mask(arguments.mask)
    models = [here.model(arguments.model, "inpaint", loras=arguments.lora)]
    if not arguments.no_upsample:
        models.append(here.model(arguments.upsampler, "upsampler-inpaint"))
    session.warn_if_cut(models[0].config, arguments)
    sides = tuple(model.config.unet.image_size for model in models)
    cut = crop.crop_for_inpainting(image, mask, sides, arguments.context)
    if cut.soft:
        log.warning(images.SOFT_EDGES)
    guide = here.guide(arguments, arguments.prompt)
    settings = [session.settings_of(arguments)]
    settings.append(session.upsample_settings_of(arguments, sampler="ancestral"))
    for seeds in session.chunks(arguments.seed, arguments.n, arguments.batch):
        pictures = None
        for stage, model in enumerate(models):
            with here.progress(("inpaint", "upsampler")[stage]) as step:
                pictures = pipeline.inpaint(
                    model,
                    cut.images[stage],
                    cut.keep_masks[stage],
                    [arguments.prompt] * len(seeds),
                    seeds=seeds,
                    negative=arguments.negative,
                    low_res=pictures,
                    settings=settings[stage],
                    cond_fn=guide if stage == 0 else None,
                    callback=step,
                )
        assert pictures is not None
        stitched = crop.stitch(image, pictures.cpu(), cut.region, mask, arguments.feather)
        whole = images.from_comfy(stitched)
        session.write(whole, arguments, seeds, session.facts_of(arguments))
    return 0
