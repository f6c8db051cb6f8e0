"""`glide sweep`: the same prompts and noise under every combination of settings."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_core.cli import options
from glide_core.errors import GlideError
from glide_core.names import SAMPLERS

if TYPE_CHECKING:
    import torch

    from glide_core.evaluation.sweep import Scorer
    from glide_core.evaluation.sweep_grid import Grid
    from glide_core.evaluation.sweep_output import SweepFolder

log = logging.getLogger("glide")

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
    parser.add_argument(
        "-n", type=options.positive, default=1, metavar="N", help="images per prompt (default: 1)"
    )
    parser.add_argument(
        "--batch",
        type=options.positive,
        default=4,
        metavar="N",
        help="batch size; lower it to save memory (default: 4)",
    )
    options.add_seed(parser)
    options.add_model(parser, "base")
    group = parser.add_argument_group("grid", "lists separated by commas: 1,2,3")
    group.add_argument(
        "--cfg",
        type=_list_of("read_scales"),
        default="1,2,3,5",
        metavar="LIST",
        help="classifier-free guidance scales; 1 is off (default: 1,2,3,5)",
    )
    group.add_argument(
        "--clip-scale",
        type=_list_of("read_scales"),
        default="0",
        metavar="LIST",
        help="CLIP guidance scales of a noisy CLIP; 0 is off (default: 0)",
    )
    group.add_argument(
        "--steps",
        type=_list_of("read_steps"),
        default="30",
        metavar="LIST",
        help="numbers of steps or respacings: 10,30,fast27. If the list contains a semicolon, "
        "semicolons separate: '30; 10,10,3,2,2' (default: 30)",
    )
    group.add_argument(
        "--sampler",
        type=_list_of("read_samplers"),
        metavar="LIST",
        help=f"any of {', '.join(SAMPLERS)} (default: ddim; ddpm with CLIP guidance)",
    )
    group = parser.add_argument_group("settings of every cell")
    group.add_argument("--negative", default="", metavar="TEXT", help="negative prompt")
    group.add_argument(
        "--eta", type=options.fraction, default=0.0, help="eta of ddim, 0 to 1 (default: 0)"
    )
    group.add_argument(
        "--clip",
        action="append",
        metavar="MODEL",
        help="noisy CLIP for guidance; twice for OpenAI's two files (default: clip)",
    )
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
    group.add_argument(
        "--out",
        type=Path,
        default=Path("sweep"),
        metavar="DIR",
        help="folder of the sweep, new or to be resumed (default: sweep)",
    )
    group.add_argument(
        "--shown",
        type=options.positive,
        default=4,
        metavar="N",
        help="maximum images per cell in the grid (default: 4)",
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar, paths only")
    options.add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    from glide_core.checkpoints.catalog import find_model
    from glide_core.checkpoints.files import read_shapes
    from glide_core.checkpoints.loading import load_clip, load_model
    from glide_core.devices import pick_device, pick_dtype
    from glide_core.evaluation.sweep import SweepInputs, sweep
    from glide_core.evaluation.sweep_grid import Grid
    from glide_core.evaluation.sweep_output import SweepFolder
    from glide_core.evaluation.sweep_plots import check_matplotlib
    from glide_core.io import check_folder
    from glide_core.progress import step_bars
    from glide_core.prompt_check import warn_about
    from glide_core.request import GenerationRequest

    check_matplotlib()
    guided = any(scale > 0 for scale in arguments.clip_scale)
    samplers = arguments.sampler or (("ddpm",) if guided else ("ddim",))
    grid = Grid(arguments.cfg, arguments.clip_scale, arguments.steps, samplers)
    prompts, seeds = read_prompts(arguments.prompts, arguments.n, arguments.seed)
    inputs = SweepInputs(prompts, seeds, arguments.negative, arguments.eta, arguments.batch)

    check_folder(arguments.out)
    device = pick_device(arguments.device)
    dtype = pick_dtype(arguments.dtype, device)
    names = arguments.scorer or _default_scorers(arguments.n)
    folder = SweepFolder(arguments.out, tuple(_scorer(name, device) for name in names))
    guides = [find_model(name) for name in arguments.clip or ["clip"]] if guided else []
    distinct = list(dict.fromkeys(prompts))
    folder.begin(
        {
            "model": _identity(find_model(arguments.model)),
            "clip": [_identity(path) for path in guides],
            "scorers": names,
            "prompts": distinct,
            "images per prompt": arguments.n,
            "seeds": seeds,
            "negative": arguments.negative,
            "eta": arguments.eta,
            "dtype": str(dtype),
        }
    )
    done = {result.cell for result in folder.results()}
    cells = [cell for cell in grid.cells() if cell not in done]
    if cells:
        path = find_model(arguments.model)
        model = load_model(path, device=device, dtype=dtype, kinds=("base",))
        requests = [GenerationRequest(text, arguments.negative) for text in distinct]
        warn_about(requests, model.config, read_shapes(path).metadata)
        clip = load_clip(guides, device=device, dtype=dtype) if guided else None
        with step_bars(disable=arguments.quiet) as bar:
            step = partial(bar, "sweep")
            for result in sweep(model, inputs, cells, folder.scorers, clip=clip, callback=step):
                folder.add(result)
    for path in write_results(folder, grid, distinct, arguments.shown):
        print(path)
    return 0


def write_results(
    folder: SweepFolder, grid: Grid, prompts: Sequence[str], shown: int
) -> list[Path]:
    """Write grid.png and the plots of the grid's cells; return all paths, the table first."""
    from dataclasses import replace

    from glide_core.evaluation import sweep_plots
    from glide_core.evaluation.sweep_output import image_grid
    from glide_core.io import atomic_write

    stored = {result.cell: result for result in folder.results()}
    results = [stored[cell] for cell in grid.cells() if cell in stored]
    title = prompts[0] if len(prompts) == 1 else f"{len(prompts)} prompts"
    paths = [folder.table, folder.path / "grid.png"]
    with_images = [replace(result, images=folder.images(result)) for result in results]
    with atomic_write(paths[1]) as temporary:
        image_grid(with_images, grid, title=title, shown=shown).save(temporary, format="PNG")
    for x, y in sweep_plots.axes_of(results, folder.scorers, grid):
        figure = sweep_plots.plot(results, grid, x, y, title=title)
        stem = f"plot_{_file_part(y.name)}_over_{_file_part(x.name)}"
        for kind in ("png", "svg"):
            paths.append(sweep_plots.save(figure, folder.path / f"{stem}.{kind}"))
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
            raise GlideError(
                f"{path}, row {row.number} sets {', '.join(name for name, _ in row.settings)}. A "
                "sweep allows only the columns prompt and seed."
            )
        first = (seed + len(seeds)) if row.seed is None else row.seed
        seeds += [image_seed(first, i) for i in range(count)]
        prompts += [row.prompt] * count
        if row.seed is None and prompts.count(row.prompt) > count:
            raise GlideError(
                f"{path} lists the prompt {row.prompt!r} twice. Use -n for several images of it."
            )
    return prompts, seeds


def _list_of(reader: str) -> Callable[[str], Any]:
    """Return an argparse type that reads a list with a function of sweep_grid, imported lazily."""

    def read(text: str) -> Any:
        from glide_core.evaluation import sweep_grid

        try:
            return getattr(sweep_grid, reader)(text, "the list")
        except GlideError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _default_scorers(count: int) -> list[str]:
    return ["clip:bundled", *(["diversity"] if count > 1 else []), "clipped"]


def _scorer(name: str, device: torch.device) -> Scorer:
    import torch

    from glide_core.evaluation import sweep
    from glide_core.evaluation.features import load_extractor
    from glide_core.evaluation.image_set import LoadedImage, find_images

    kind, _, rest = name.partition(":")
    if kind in ("clip", "open_clip") and rest:
        return sweep.clip_scorer(load_extractor(name, device=device), device)
    if kind == "frechet" and rest:
        found = list(find_images(rest, crop="none", size=REFERENCE_SIDE).read())
        readable = [one.pixels for one in found if isinstance(one, LoadedImage)]
        if len(readable) < 2:
            raise GlideError(f"{rest} holds {len(readable)} readable image. Expected 2 or more.")
        return sweep.pixel_frechet(torch.stack(readable), name)
    if name in ("diversity", "clipped"):
        return sweep.diversity() if name == "diversity" else sweep.clipped()
    raise GlideError(
        f"Unknown scorer {name!r}. Allowed for --scorer: clip:bundled, clip:MODEL, "
        "open_clip:ARCHITECTURE:FILE_OR_TAG, diversity, clipped, frechet:FOLDER."
    )


def _identity(path: Path) -> str:
    from glide_core.io import sha256_file

    return f"{path.name} {sha256_file(path)}"


def _file_part(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)
