"""`glide sweep`: the same prompts and noise under every combination of settings."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_core.cli import options
from glide_core.errors import GlideError, shorten
from glide_core.names import SAMPLERS

if TYPE_CHECKING:
    from glide_core.request import GenerationRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Generate the same prompts from the same noise under every combination of guidance scales, "
        "steps and samplers, score each, and write a table (sweep.csv), a labelled image grid "
        "(grid.png) and plots with the Pareto front (PNG and SVG). Run the command again to resume "
        "an interrupted sweep or to extend its lists."
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help="list of prompts, as in `glide generate --prompts`: .txt (one per line), .csv or "
        ".jsonl with the columns prompt and, optionally, seed",
    )
    options.add(parser, "-n", help="images per prompt")
    options.add(parser, "--batch", "--seed")
    options.add(parser, "--model", default="base")
    group = parser.add_argument_group("grid", "lists separated by commas: 1,2,3")
    steps = (
        "numbers of steps or respacings: 10,30,fast27. If the list contains a semicolon, "
        "semicolons separate: '30; 10,10,3,2,2'"
    )
    samplers = f"any of {', '.join(SAMPLERS)} (default: ddim; ddpm with CLIP guidance)"
    for name, default, axis, text in (
        ("--cfg", "1,2,3,5", "guidance_scale", "classifier-free guidance scales; 1 is off"),
        ("--clip-scale", "0", "clip_scale", "CLIP guidance scales of a noisy CLIP; 0 is off"),
        ("--steps", "30", "steps", steps),
        ("--sampler", None, "sampler", samplers),
    ):
        kind = partial(_read_list, axis)
        group.add_argument(name, type=kind, default=default, metavar="LIST", help=text)
    group = parser.add_argument_group("settings of every cell")
    options.add(group, "--negative", "--eta", "--clip")
    group.add_argument(
        "--scorer",
        action="append",
        metavar="KIND[:NAME]",
        help="score to measure, can be repeated: clip:bundled or clip:MODEL (cosine by a noisy "
        "CLIP), open_clip:ARCHITECTURE:FILE_OR_TAG, diversity (within a prompt), clipped (share of "
        "saturated values), frechet:FOLDER (8x8 pixels, to the images in the folder). The first is "
        "plotted over the others (default: clip:bundled, diversity if -n is above 1, clipped)",
    )
    group = parser.add_argument_group("output")
    folder = "folder of the sweep, new or to be resumed"
    options.add(group, "--out", default=Path("sweep"), help=folder)
    most = "maximum images per cell in the grid"
    group.add_argument("--shown", type=options.positive, default=4, metavar="N", help=most)
    options.add(group, "--quiet")
    options.add_group(parser, "device")
    parser.set_defaults(roles=("base",))


def run(arguments: argparse.Namespace) -> int:
    from glide_core.cli import common
    from glide_core.devices import pick_device, pick_dtype
    from glide_core.evaluation.sweep import combinations, generate_with, load_scorer, sweep
    from glide_core.evaluation.sweep_output import SweepFolder
    from glide_core.io import check_folder
    from glide_core.sampling import model_schedule
    from glide_core.stages import prepare, step_bars

    guided = any(scale > 0 for scale in arguments.clip_scale)
    samplers = arguments.sampler or (("ddpm",) if guided else ("ddim",))
    grid = combinations([arguments.cfg, arguments.clip_scale, arguments.steps, samplers])
    requests = read_requests(arguments.prompts, arguments.n, arguments.seed, arguments.negative)
    prompts = [request.prompt for request in requests]
    distinct = list(dict.fromkeys(prompts))

    check_folder(arguments.out)
    device = pick_device(arguments.device)
    several = ["diversity"] if arguments.n > 1 else []
    scorers = list(dict.fromkeys(arguments.scorer or ["clip:bundled", *several, "clipped"]))
    identity = {
        "clip": [],
        **common.model_files(arguments, guided),
        "scorers": scorers,
        "prompts": distinct,
        "images per prompt": arguments.n,
        "seeds": [request.seed for request in requests],
        "negative": arguments.negative,
        "eta": arguments.eta,
        "dtype": str(pick_dtype(arguments.dtype, device)),
    }
    loaded = [load_scorer(name, device=device) for name in scorers]
    folder = SweepFolder(arguments.out, loaded, identity)
    if cells := [cell for cell in grid if cell not in folder.results]:
        pipe = common.load_pipeline(arguments, guided)
        requests = prepare(pipe.models, requests)
        with step_bars(disable=arguments.quiet) as bar:
            found = sweep(
                cells,
                generate_with(pipe, requests, arguments.eta),
                prompts,
                loaded,
                schedule=model_schedule(pipe.models.model("base").config),
                batch=arguments.batch,
                callback=partial(bar, "sweep"),
            )
            for result, images in found:
                folder.add(result, images)
    title = distinct[0] if len(distinct) == 1 else f"{len(distinct)} prompts"
    for path in folder.draw(grid, title, arguments.shown):
        print(path)
    return 0


def read_requests(path: Path, count: int, seed: int, negative: str = "") -> list[GenerationRequest]:
    """Read a list as one request per image, `count` images per row.

    Image i has seed + i, or, in rows with a seed of their own, that seed plus 0 to count - 1.
    GlideError for columns that a sweep sets itself, and for rows that are there twice.
    """
    from glide_core.batch.rows import read_rows
    from glide_core.request import GenerationRequest, image_seed, image_seeds

    found: list[GenerationRequest] = []
    for row in read_rows(path):
        if row.settings:
            names = ", ".join(row.settings)
            raise GlideError(f"{path}, row {row.number} sets {names}: expected prompt and seed.")
        if row.seed is None and any(one.prompt == row.prompt for one in found):
            raise GlideError(f"{path} lists {shorten(row.prompt)!r} twice. Use -n for more images.")
        first = image_seed(seed, len(found)) if row.seed is None else row.seed
        for own in image_seeds(first, count):
            found.append(GenerationRequest(row.prompt, negative, own, upsampler=None))
    return found


def _read_list(axis: str, text: str) -> tuple[Any, ...]:
    from glide_core.evaluation.sweep import read_list

    return read_list(axis, text, "the list")
