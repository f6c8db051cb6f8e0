"""`glide generate`, `upscale`, `inpaint` and `edit`: the commands that generate images."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from glide_core import text_values
from glide_core.cli import common, options
from glide_core.errors import UsageError, shorten

if TYPE_CHECKING:
    from glide_core.batch.rows import Row
    from glide_core.request import GenerationRequest

EDIT_STEPS = 50


def add_generate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Generate images of a prompt: 64x64 first, then 256x256. The models that come with the "
        "package know 260 emoji subjects on named backgrounds: 'a fox on a blue "
        "background'. With --prompts, generate a whole list of prompts, on one machine or with Ray "
        "on many; the same command resumes after an interruption (docs/batch.md)."
    )
    prompt = "what the image shows; '' for any image"
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help=prompt)
    size = "of the first stage, in multiples of 8 (default: the model's own, 64x64)"
    parser.add_argument("--size", dest="base_size", type=text_values.size, metavar="WxH", help=size)
    group = parser.add_argument_group("a list of prompts (docs/batch.md)")
    group.add_argument(
        "--prompts",
        metavar="LIST",
        help="a .csv, .jsonl, .parquet or .txt file or URL with one image per row: prompt, seed, "
        "and any of the settings below; what a row leaves out is as the options say. Writes shards "
        "into --out, a folder or a URL such as s3://bucket/folder",
    )
    count = partial(group.add_argument, type=options.positive, metavar="N")
    count("--shard-size", help="rows per shard (default: 64)")
    shard = "a shard is a tar in webdataset's layout, or a Parquet file (default: tar)"
    group.add_argument("--format", choices=("tar", "parquet"), help=shard)
    group.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="generate on a Ray cluster: auto, ray://HOST:10001; without an address on the GPUs of "
        "this machine",
    )
    workers = "with --ray: how many pipelines (default: one per GPU; without GPUs one per machine)"
    count("--workers", help=workers)
    options.add_generation(parser, "base", "upsampler", out={"type": options.folder_or_url})


def generate(arguments: argparse.Namespace) -> int:
    """Generate images of a prompt, or of a list of prompts."""
    _check(arguments)
    if arguments.prompts is not None:
        return _generate_list(arguments)
    from glide_core.stages import TEXT_ONLY

    pipe = common.load_pipeline(arguments, guided=arguments.clip_scale != 0)
    return common.generate_and_write(pipe, common.request_of(arguments), arguments, TEXT_ONLY)


def _generate_list(arguments: argparse.Namespace) -> int:
    from glide_core.batch.job import Job, run_job
    from glide_core.devices import pick_device, pick_dtype

    dtype = str(pick_dtype(arguments.dtype, pick_device(arguments.device))).removeprefix("torch.")
    job = Job(
        source=arguments.prompts,
        out=str(arguments.out),
        make_request=partial(request_of_row, arguments),
        load=partial(common.load_pipeline, arguments),
        model_files=partial(common.model_files, arguments),
        about={**common.model_metadata(arguments), "dtype": dtype},
        kind=arguments.format or "tar",
        shard_size=arguments.shard_size or 64,
        batch_size=arguments.batch,
        ray=arguments.ray,
        workers=arguments.workers or 0,
    )
    failed = 0
    for shard in run_job(job, quiet=arguments.quiet):
        print(shard.path, flush=True)
        failed += shard.failed
    return 1 if failed else 0


def request_of_row(arguments: argparse.Namespace, row: Row) -> GenerationRequest:
    """What a row asks for, with the command's options where it says nothing."""
    from glide_core.request import image_seed

    own = {**vars(arguments), **row.settings, "prompt": row.prompt}
    seed = row.seed
    if seed is None:  # the command's seed plus the rows before this one, as -n counts
        seed = image_seed(arguments.seed, row.number - 1)
    return replace(common.request_of(argparse.Namespace(**own)), seed=seed)


def _check(arguments: argparse.Namespace) -> None:
    prompt, lists = arguments.prompt, ("shard_size", "format", "ray", "workers")
    given = [name.replace("_", "-") for name in lists if getattr(arguments, name) is not None]
    if arguments.prompts is None:
        if prompt is None:
            raise UsageError("the prompt is missing. Expected PROMPT, or --prompts LIST.")
        if given:
            raise UsageError(f"--{given[0]} is for a list of prompts. Expected --prompts LIST.")
        if isinstance(arguments.out, str):
            raise UsageError(f"--out {shorten(arguments.out)} is a URL. Expected a folder.")
    elif prompt is not None:
        raise UsageError(f"prompts were given twice: {shorten(prompt)!r} and --prompts.")
    elif arguments.n != 1:
        raise UsageError(f"-n {arguments.n} is for a single prompt. Repeat rows of the list.")
    elif "workers" in given and "ray" not in given:
        raise UsageError("--workers is for Ray. Expected --ray.")


def add_upscale(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Enlarge an image four times with GLIDE's upsampler, which reads the prompt too. It was "
        "trained on 64x64 images: any other is first resized so that its shorter side is 64."
    )
    _add_inputs(parser, "what the image shows")
    shorter = "pixels of the shorter side before enlarging; 0 keeps the image's size"
    parser.add_argument(
        "--low-size", type=options.side_length, default=64, metavar="N", help=shorter
    )
    parser.add_argument("--temperature", **options.OPTIONS["--upsample-temperature"])
    options.add_generation(parser, "upsampler", cfg=options.OPTIONS["--upsample-cfg"])


def upscale(arguments: argparse.Namespace) -> int:
    """Enlarge an image four times."""
    from glide_core.images import fit, read_image
    from glide_core.stages import PipelineInputs, StageInputs

    low_res = fit(read_image(arguments.image, arguments.max_pixels), arguments.low_size)
    pipe = common.load_pipeline(arguments, guided=False)
    inputs = PipelineInputs(second=StageInputs(low_res=low_res))
    return common.generate_and_write(pipe, common.request_of(arguments), arguments, inputs)


def add_inpaint(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Replace the image where the mask is white (or, in a mask with transparency, where it "
        "is transparent). The image may have any size: a square around the mask is inpainted "
        "and stitched back, and nothing outside the mask changes."
    )
    mask = "of the image's size; white is inpainted"
    _add_inputs(parser, "what the whole image should show", mask)
    option = parser.add_argument
    context = "surroundings that the model sees, as a part of the mask's extent"
    feather = "pixels inside the mask over which the old image fades into the new one"
    option("--context", type=options.not_negative, default=0.5, metavar="PART", help=context)
    option("--feather", type=options.side_length, default=8, metavar="PIXELS", help=feather)
    options.add_generation(parser, "inpaint", "upsampler_inpaint")


def inpaint(arguments: argparse.Namespace) -> int:
    """Replace the masked part of an image of any size by a prompt."""
    from glide_core.images import read_image, read_mask
    from glide_core.stages import inpaint_inputs

    image = read_image(arguments.image, arguments.max_pixels)
    mask = read_mask(arguments.mask, arguments.max_pixels)
    pipe = common.load_pipeline(arguments, guided=arguments.clip_scale != 0)
    request = common.request_of(arguments)
    upsample, context = not arguments.no_upsample, arguments.context
    inputs = inpaint_inputs(pipe.models, image, mask, upsample, context, arguments.feather)
    return common.generate_and_write(pipe, request, arguments, inputs)


def add_edit(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Change an image or a sketch by a prompt: noise is added up to --strength, and the "
        "model removes it again."
    )
    _add_inputs(parser, "what the image should show")
    share = partial(parser.add_argument, type=options.fraction, metavar="S")
    layout = "0 keeps the image, 1 ignores it, 0.5 to 0.8 keeps its layout"
    share("--strength", default=0.6, help=layout)
    detail = "1 takes no detail from the original at 256x256"
    share("--upsample-strength", default=1.0, help=detail)
    steps = {"help": f"steps of the schedule (default: {EDIT_STEPS})"}
    options.add_generation(parser, "base", "upsampler", steps=steps)


def edit(arguments: argparse.Namespace) -> int:
    """Change an image by a prompt (SDEdit, Meng et al. 2021)."""
    from glide_core.images import read_image
    from glide_core.stages import edit_inputs

    original = read_image(arguments.image, arguments.max_pixels)
    pipe = common.load_pipeline(arguments, guided=arguments.clip_scale != 0)
    strengths = (arguments.strength, arguments.upsample_strength)
    request = common.request_of(arguments, EDIT_STEPS)
    request = replace(request, strength=strengths[0], upsample_strength=strengths[1])
    inputs = edit_inputs(pipe.models, original, *strengths)
    return common.generate_and_write(pipe, request, arguments, inputs)


def _add_inputs(parser: argparse.ArgumentParser, prompt: str, mask: str = "") -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE")
    if mask:
        parser.add_argument("mask", type=Path, metavar="MASK", help=mask)
    parser.add_argument("prompt", metavar="PROMPT", help=prompt)
    parser.add_argument(
        "--max-pixels",
        type=options.integer(1, 178_000_000),  # above it PIL refuses images
        default=50_000_000,
        metavar="N",
        help="refuse larger input images before decoding them",
    )
