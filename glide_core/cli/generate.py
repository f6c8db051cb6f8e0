"""`glide generate`: images of a prompt, or of a list of prompts."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from glide_core.cli import options
from glide_core.errors import GlideError, UsageError, shorten
from glide_core.names import SHARD_FORMATS

if TYPE_CHECKING:
    from glide_core.batch.rows import Row
    from glide_core.pipeline import GlidePipeline
    from glide_core.request import GenerationRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Generate images of a prompt: 64x64 first, then 256x256. The models that come with the "
        "package know 260 emoji subjects on named backgrounds: 'a fox on a blue "
        "background'. With --prompts, generate a whole list of prompts, on one machine or with Ray "
        "on many; the same command resumes after an interruption (docs/batch.md)."
    )
    parser.add_argument(
        "prompt", metavar="PROMPT", nargs="?", help="what the image shows; '' for any image"
    )
    parser.add_argument(
        "--size",
        dest="base_size",
        type=options.size,
        metavar="WxH",
        help="of the first stage, in multiples of 8 (default: the model's own, 64x64)",
    )
    group = parser.add_argument_group("a list of prompts (docs/batch.md)")
    group.add_argument(
        "--prompts",
        metavar="LIST",
        help="a .csv, .jsonl, .parquet or .txt file or URL with one image per row: prompt, seed, "
        "and any of the settings below; what a row leaves out is as the options say. Writes shards "
        "into --out, a folder or a URL such as s3://bucket/folder",
    )
    group.add_argument(
        "--shard-size", type=options.positive, metavar="N", help="rows per shard (default: 64)"
    )
    group.add_argument(
        "--format",
        choices=SHARD_FORMATS,
        help="a shard is a tar in webdataset's layout, or a Parquet file (default: tar)",
    )
    group.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="generate on a Ray cluster: auto, ray://HOST:10001; without an address on the GPUs of "
        "this machine",
    )
    group.add_argument(
        "--workers",
        type=options.positive,
        metavar="N",
        help="with --ray: how many pipelines (default: one per GPU; without GPUs one per machine)",
    )
    kind = options.folder_or_url
    options.add_generation(parser, "base", upsampler="upsampler", out=kind)


def run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    return _one_prompt(arguments) if arguments.prompts is None else _list(arguments)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.prompts is None:
        if arguments.prompt is None:
            raise UsageError("the prompt is missing. Expected PROMPT, or --prompts LIST.")
        for name in ("shard_size", "format", "ray", "workers"):
            if getattr(arguments, name) is not None:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option} is for a list of prompts. Expected --prompts LIST.")
        if isinstance(arguments.out, str):
            raise UsageError(
                f"--out {shorten(arguments.out)} is a URL, which is for a list of prompts. "
                "Expected a folder."
            )
    elif arguments.prompt is not None:
        raise UsageError(
            f"prompts were given twice: {shorten(arguments.prompt)!r} and the list "
            f"{shorten(arguments.prompts)}. Expected one of them."
        )
    elif arguments.n != 1:
        raise UsageError(
            f"-n {arguments.n} is for a single prompt. Expected one row per image in "
            f"{shorten(arguments.prompts)}: repeat a row to generate it with another seed."
        )
    elif arguments.workers is not None and arguments.ray is None:
        raise UsageError("--workers is for Ray. Expected --ray.")


def _one_prompt(arguments: argparse.Namespace) -> int:
    from glide_core.cli import common

    pipe = common.load_pipeline(arguments, "base", "upsampler")
    return common.generate_and_write(pipe, common.request_of(arguments), arguments)


def _list(arguments: argparse.Namespace) -> int:
    from glide_core.batch.job import Job, check_list, on_ray, on_this_machine, run_job
    from glide_core.cli import common
    from glide_core.devices import pick_device, pick_dtype

    out, requests = str(arguments.out), _Requests(arguments)
    checked = check_list(arguments.prompts, out, requests)
    files = common.model_files(arguments, checked.guided)
    shared = common.request_of(arguments).metadata()
    del shared["prompt"]
    dtype = str(pick_dtype(arguments.dtype, pick_device(arguments.device))).removeprefix("torch.")
    job = Job(
        source=arguments.prompts,
        out=out,
        load=partial(_load_checked, arguments, checked.guided, files),
        make_request=requests,
        settings={**shared, "seed": arguments.seed, "dtype": dtype, "models": files},
        about={**common.model_metadata(arguments), "dtype": dtype, "models": files},
        kind=arguments.format or "tar",
        shard_size=arguments.shard_size or 64,
        batch_size=arguments.batch,
    )
    driver = on_this_machine
    if arguments.ray is not None:
        driver = partial(on_ray, address=arguments.ray, workers=arguments.workers or 0)
    failed = 0
    for path, count in run_job(job, checked, driver, quiet=arguments.quiet):
        print(path, flush=True)
        failed += count
    return 1 if failed else 0


class _Requests:
    """Makes the request of a row; rows with equal settings share the work."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.known: dict[tuple[tuple[str, object], ...], GenerationRequest] = {}

    def __call__(self, row: Row) -> GenerationRequest:
        from glide_core.cli.common import request_of
        from glide_core.request import image_seed

        if row.settings not in self.known:
            if len(self.known) > 1000:  # a list in which every row has settings of its own
                self.known.clear()
            own = {**vars(self.arguments), **dict(row.settings)}
            self.known[row.settings] = request_of(argparse.Namespace(**own))
        seed = row.seed
        if seed is None:  # the command's seed plus the rows before this one, as -n counts
            seed = image_seed(self.arguments.seed, row.number - 1)
        return replace(self.known[row.settings], prompt=row.prompt, seed=seed)


def _load_checked(
    arguments: argparse.Namespace, guided: bool, files: dict[str, list[dict[str, str]]]
) -> GlidePipeline:
    """Load the pipeline of a list, on this machine or on a worker that must have the same files."""
    from glide_core.cli import common

    if common.model_files(arguments, guided) != files:
        raise GlideError("the model files on this machine are not those that the job began with")
    own = argparse.Namespace(**{**vars(arguments), "out": None})
    return common.load_pipeline(own, "base", "upsampler", guided=guided)
