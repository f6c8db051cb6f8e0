"""`glide generate`: pictures of a prompt, or of a list of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from glide_core.cli import options
from glide_core.errors import GlideError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw pictures of a prompt: 64x64 first, then 256x256. The models that come with the "
        "package know 260 emoji subjects on named backgrounds: 'a fox on a blue "
        "background'. With --prompts, draw a whole list of prompts, on as many processes as you "
        "like, and go on after a stop: docs/bulk.md tells how."
    )
    parser.add_argument(
        "prompt", metavar="PROMPT", nargs="?", help="what to draw; '' draws anything"
    )
    options.add_count(parser)
    options.add_seed(parser)
    options.add_model(parser, "base")
    options.add_lora(parser)
    parser.add_argument(
        "--size",
        dest="base_size",
        type=options.size,
        metavar="WxH",
        help="of the first stage, in multiples of 8 (default: the model's own, 64x64)",
    )
    _add_bulk(parser)
    options.add_sampling(parser, steps=30)
    options.add_clip(parser)
    options.add_upsampling(parser, model="upsampler")
    options.add_output(parser)
    options.add_device(parser)


def _add_bulk(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a list of prompts (docs/bulk.md)")
    group.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="a .csv or .jsonl with a picture a row: prompt, seed, and any of the settings below; "
        "what a row leaves out is as the options say. Writes shards, manifest.json and index.csv "
        "into --out; the same command goes on where a stopped one ended",
    )
    group.add_argument(
        "--shard-size", type=options.positive, metavar="N", help="rows in a shard (default: 64)"
    )
    group.add_argument(
        "--format",
        choices=("tar", "folder"),
        help="a shard is a tar in webdataset's layout, or a folder (default: tar)",
    )


def run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    if arguments.prompts is not None:
        from glide_core.batch import job

        return job.run(arguments)
    return _one_prompt(arguments)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.prompts is None:
        if arguments.prompt is None:
            raise UsageError("there is no prompt: expected PROMPT, or --prompts LIST")
        given = {"--shard-size": arguments.shard_size, "--format": arguments.format}
        if unused := [name for name, value in given.items() if value is not None]:
            raise GlideError(
                f"{' and '.join(unused)} is for a list of prompts. Expected --prompts FILE with it."
            )
        return
    if arguments.prompt is not None:
        raise GlideError(
            f"prompts were given twice: {arguments.prompt!r} and the list {arguments.prompts}. "
            "Expected one of them."
        )
    if arguments.lora:
        raise GlideError(
            "--lora is for a single prompt. Expected --prompts without it: merge the LoRA into a "
            "model first, as docs/training.md says, and give that with --model."
        )
    if arguments.n != 1:
        raise GlideError(
            f"-n {arguments.n} is for a single prompt. Expected a row in {arguments.prompts} for "
            "every picture: repeat a row to draw it with another seed."
        )


def _one_prompt(arguments: argparse.Namespace) -> int:
    from glide_core.cli import common

    upsampler = None if arguments.no_upsample else arguments.upsampler
    pipe = common.load_pipeline(arguments, base=arguments.model, upsampler=upsampler)
    return common.generate_and_write(pipe, common.request_of(arguments), arguments)
