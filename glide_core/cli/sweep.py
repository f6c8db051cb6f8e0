"""`glide sweep`: the same prompts and noise under every combination of settings."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_core.cli import options
from glide_core.errors import GlideError, UsageError, shorten
from glide_core.names import SAMPLERS

if TYPE_CHECKING:
    import torch

    from glide_core.evaluation.sweep import Cell, Scorer
    from glide_core.evaluation.sweep_output import SweepFolder

REFERENCE_SIDE = 64  # pixels that the reference images of frechet:FOLDER are resized to


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
    for name, default, axis, text in (
        ("--cfg", "1,2,3,5", "guidance_scale", "classifier-free guidance scales; 1 is off"),
        ("--clip-scale", "0", "clip_scale", "CLIP guidance scales of a noisy CLIP; 0 is off"),
        (
            "--steps",
            "30",
            "steps",
            "numbers of steps or respacings: 10,30,fast27. If the list contains a semicolon, "
            "semicolons separate: '30; 10,10,3,2,2'",
        ),
        (
            "--sampler",
            None,
            "sampler",
            f"any of {', '.join(SAMPLERS)} (default: ddim; ddpm with CLIP guidance)",
        ),
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
    from glide_core.evaluation.sweep import combinations, generate_with, sweep
    from glide_core.evaluation.sweep_output import SweepFolder
    from glide_core.io import check_folder
    from glide_core.request import GenerationRequest
    from glide_core.sampling import model_schedule
    from glide_core.stages import step_bars

    guided = any(scale > 0 for scale in arguments.clip_scale)
    samplers = arguments.sampler or (("ddpm",) if guided else ("ddim",))
    grid = combinations([arguments.cfg, arguments.clip_scale, arguments.steps, samplers])
    prompts, seeds = read_prompts(arguments.prompts, arguments.n, arguments.seed)
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
        "seeds": seeds,
        "negative": arguments.negative,
        "eta": arguments.eta,
        "dtype": str(pick_dtype(arguments.dtype, device)),
    }
    folder = SweepFolder(arguments.out, [_scorer(name, device) for name in scorers], identity)
    if cells := [cell for cell in grid if cell not in folder.results]:
        pipe = common.load_pipeline(arguments, guided)
        pipe.prepare(
            [GenerationRequest(text, arguments.negative, upsampler=None) for text in distinct]
        )
        with step_bars(disable=arguments.quiet) as bar:
            found = sweep(
                cells,
                generate_with(pipe, prompts, seeds, arguments.negative, arguments.eta),
                prompts,
                folder.scorers,
                schedule=model_schedule(pipe.models.model("base").config),
                batch=arguments.batch,
                callback=partial(bar, "sweep"),
            )
            for result, images in found:
                folder.add(result, images)
    for path in write_results(folder, grid, distinct, arguments.shown):
        print(path)
    return 0


def write_results(
    folder: SweepFolder, cells: Sequence[Cell], prompts: Sequence[str], shown: int
) -> list[Path]:
    """Write grid.png and the plots of some cells; return all paths, the table first."""
    from glide_core.evaluation import sweep_output

    results = [folder.results[cell] for cell in cells]
    title = prompts[0] if len(prompts) == 1 else f"{len(prompts)} prompts"
    images = {cell: folder.images(cell) for cell in cells}
    count = max(result.count for result in results)
    figure = sweep_output.image_grid(images, count, title=title, shown=shown)
    paths = [folder.table, sweep_output.save(figure, folder.path / "grid.png")]
    for x, y in sweep_output.axes_of(results, folder.scorers):
        figure = sweep_output.plot(results, x, y, title=title)
        stem = folder.path / re.sub(r"\W", "_", f"plot_{y.name}_over_{x.name}")
        paths += [sweep_output.save(figure, stem.with_suffix(end)) for end in (".png", ".svg")]
    return paths


def read_prompts(path: Path, count: int, seed: int) -> tuple[list[str], list[int]]:
    """Read a list as one prompt and one seed per image, `count` images per row.

    Image i has seed + i, or, in rows with a seed of their own, that seed plus 0 to count - 1.
    GlideError for columns that a sweep sets itself, and for rows that are there twice.
    """
    from glide_core.batch.rows import read_rows
    from glide_core.request import image_seed

    prompts: list[str] = []
    seeds: list[int] = []
    for row in read_rows(path):
        if row.settings:
            names = ", ".join(row.settings)
            raise GlideError(
                f"{path}, row {row.number} sets {names}. A sweep allows only the columns prompt "
                "and seed."
            )
        if row.seed is None and row.prompt in prompts:
            raise GlideError(f"{path} lists {shorten(row.prompt)!r} twice. Use -n for more images.")
        first = (seed + len(seeds)) if row.seed is None else row.seed
        seeds += [image_seed(first, i) for i in range(count)]
        prompts += [row.prompt] * count
    return prompts, seeds


def _read_list(axis: str, text: str) -> Any:
    from glide_core.evaluation.sweep import read_list

    return read_list(axis, text, "the list")


def _scorer(name: str, device: torch.device) -> Scorer:
    from glide_core.evaluation import sweep
    from glide_core.evaluation.features import load_extractor
    from glide_core.evaluation.image_set import find_images

    kind, _, rest = name.partition(":")
    if kind in ("clip", "open_clip") and rest:
        return sweep.clip_scorer(load_extractor(name, device=device))
    if kind == "frechet" and rest:
        return sweep.pixel_frechet(find_images(rest, crop="none", size=REFERENCE_SIDE), name)
    for scorer in (sweep.DIVERSITY, sweep.CLIPPED):
        if name == scorer.name:
            return scorer
    raise UsageError(
        f"Unknown scorer {shorten(name)!r}. Allowed for --scorer: clip:bundled, clip:MODEL, "
        "open_clip:ARCHITECTURE:FILE_OR_TAG, diversity, clipped, frechet:FOLDER."
    )
