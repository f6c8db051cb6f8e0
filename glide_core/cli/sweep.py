"""`glide sweep`: the same prompts and noise under every combination of scales, steps, samplers."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_core.cli import options
from glide_core.errors import GlideError

if TYPE_CHECKING:
    from glide_core.cli.session import Session
    from glide_core.evaluation.sweep import Drawn, Measure
    from glide_core.evaluation.sweep_files import SweepFolder
    from glide_core.evaluation.sweep_grid import Grid
    from glide_core.models.noisy_clip import NoisyClip

log = logging.getLogger("glide")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw the same prompts from the same noise under every combination of guidance scales, "
        "steps and samplers, score each, and write a table (sweep.csv), a labelled picture grid "
        "(grid.png) and plots with the Pareto front (PNG and SVG). A sweep that was stopped goes "
        "on where it was when the command is given again; its lists may grow."
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help="text file, one prompt a line; empty lines and lines that begin with # are left out",
    )
    parser.add_argument(
        "-n", type=options.positive, default=1, metavar="N", help="pictures a prompt (default: 1)"
    )
    parser.add_argument(
        "--batch",
        type=options.positive,
        default=4,
        metavar="N",
        help="pictures at once: less takes less memory, and changes no picture (default: 4)",
    )
    options.add_seed(parser)
    options.add_model(parser, "base")
    group = parser.add_argument_group("grid", "lists with commas: 1,2,3")
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
        help="scales of the noisy CLIP's guidance; 0 is off (default: 0)",
    )
    group.add_argument(
        "--steps",
        type=_list_of("read_steps"),
        default="30",
        metavar="LIST",
        help="numbers of steps or respacings: 10,30,fast27. With a ; in the list that separates: "
        "'30; 10,10,3,2,2' (default: 30)",
    )
    group.add_argument(
        "--sampler",
        type=_list_of("read_samplers"),
        metavar="LIST",
        help=f"of {', '.join(options.SAMPLERS)} (default: ddim, and ancestral where CLIP guides)",
    )
    group = parser.add_argument_group("what is the same in every cell")
    group.add_argument("--negative", default="", metavar="TEXT", help="what cfg moves away from")
    group.add_argument(
        "--eta", type=options.fraction, default=0.0, help="ddim's share of fresh noise (default: 0)"
    )
    group.add_argument(
        "--clip",
        action="append",
        metavar="MODEL",
        help="the noisy CLIP that guides; twice for OpenAI's two files (default: clip)",
    )
    group.add_argument(
        "--scorer",
        action="append",
        metavar="KIND[:WHAT]",
        help="what to measure, again for more: clip:bundled or clip:MODEL (a noisy CLIP's cosine), "
        "open_clip:ARCHITECTURE:FILE_OR_TAG, diversity (within a prompt), clipped (share of burnt "
        "values), frechet:FOLDER (8x8 pixels, to the pictures there). The first is plotted over "
        "the others (default: clip:bundled, diversity where -n is above 1, clipped)",
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out",
        type=Path,
        default=Path("sweep"),
        metavar="DIR",
        help="folder of the sweep, new or to be continued (default: sweep)",
    )
    group.add_argument(
        "--shown",
        type=options.positive,
        default=4,
        metavar="N",
        help="the most pictures of one cell in the grid (default: 4)",
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar, paths only")
    options.add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    from glide_core.checkpoints.catalog import find_model
    from glide_core.cli.session import Session
    from glide_core.evaluation.sweep import sweep
    from glide_core.evaluation.sweep_files import SweepFolder
    from glide_core.evaluation.sweep_grid import Grid

    guided = any(scale > 0 for scale in arguments.clip_scale)
    samplers = arguments.sampler or (("ancestral",) if guided else ("ddim",))
    grid = Grid(arguments.cfg, arguments.clip_scale, arguments.steps, samplers)
    given = read_prompts(arguments.prompts)
    prompts = [prompt for prompt in given for _ in range(arguments.n)]
    seeds = [(arguments.seed + i) % 2**64 for i in range(len(prompts))]

    here = Session.of(arguments)
    names = arguments.scorer or _default_scorers(arguments.n)
    measures = [_measure(name, here) for name in names]
    guides = [find_model(name) for name in arguments.clip or ["clip"]] if guided else []
    folder = SweepFolder(arguments.out, tuple(measures))
    folder.begin(
        {
            "model": _hash(find_model(arguments.model)),
            "clip": [_hash(path) for path in guides],
            "scorers": names,
            "prompts": given,
            "pictures per prompt": arguments.n,
            "seed": arguments.seed,
            "negative": arguments.negative,
            "eta": arguments.eta,
            "dtype": str(here.dtype),
        }
    )
    done = [row.cell for row in folder.rows()]
    if set(grid.cells()) - set(done):
        model = here.model(arguments.model, "base")
        _warn_if_cut(model.config, [*given, arguments.negative])
        with here.progress("sweep") as step:
            for drawn in sweep(
                model,
                prompts,
                grid,
                seeds=seeds,
                measures=measures,
                clip=_load_clip(here, guides) if guided else None,
                negative=arguments.negative,
                eta=arguments.eta,
                batch=arguments.batch,
                done=done,
                callback=step,
            ):
                folder.add(drawn)
    for path in write_results(folder, grid, given, arguments.shown):
        print(path)
    return 0


def write_results(folder: SweepFolder, grid: Grid, prompts: list[str], shown: int) -> list[Path]:
    """Write grid.png and every plot of the grid's cells; give all paths, the table's first."""
    from glide_core.evaluation import plots
    from glide_core.evaluation.picture_grid import picture_grid
    from glide_core.evaluation.sweep import Drawn
    from glide_core.io import atomic_write

    wanted = {row.cell: row for row in folder.rows()}
    rows = [wanted[cell] for cell in grid.cells() if cell in wanted]
    drawn: list[Drawn] = [Drawn(row, folder.pictures(row)) for row in rows]
    title = prompts[0] if len(prompts) == 1 else f"{len(prompts)} prompts"
    paths = [folder.table, folder.path / "grid.png"]
    with atomic_write(paths[1]) as temporary:
        picture_grid(drawn, grid, title=title, shown=shown).save(temporary, format="PNG")
    for x, y in plots.pairs(rows, plots.quantities(folder.measures, grid)):
        figure = plots.plot(rows, grid, x, y, title=title)
        stem = f"plot_{_plain(y.name)}_over_{_plain(x.name)}"
        paths += [plots.save(figure, folder.path / f"{stem}.{kind}") for kind in ("png", "svg")]
    return paths


def read_prompts(path: Path) -> list[str]:
    """Read one prompt a line; GlideError when there is none, or one is there twice."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GlideError(
            f"the prompts cannot be read from {path}: {error}. Expected a text file (UTF-8), one "
            "prompt a line. Correct --prompts."
        ) from error
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise GlideError(f"{path} holds no prompt. Expected one a line. Write one into it.")
    twice = next((prompt for prompt in found if found.count(prompt) > 1), None)
    if twice is not None:
        raise GlideError(
            f"{path} holds the prompt {twice!r} twice. Expected each once: -n draws several "
            "pictures of one. Remove a line."
        )
    return found


def _list_of(reader: str) -> Callable[[str], Any]:
    """An argparse type that reads a list with sweep_grid's function, imported only then."""

    def read(text: str) -> Any:
        from glide_core.evaluation import sweep_grid

        try:
            return getattr(sweep_grid, reader)(text, "the list")
        except GlideError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _default_scorers(count: int) -> list[str]:
    return ["clip:bundled", *(["diversity"] if count > 1 else []), "clipped"]


def _measure(name: str, here: Session) -> Measure:
    from glide_core.checkpoints.catalog import find_model
    from glide_core.evaluation import sweep_measures as measures

    kind, _, what = name.partition(":")
    if kind == "clip" and what:
        path = find_model("clip" if what == "bundled" else what)
        return measures.clip_similarity(_load_clip(here, [path]), name)
    if kind == "open_clip" and what.count(":") == 1:
        from glide_core.guidance.open_clip import load_open_clip

        architecture, weights = what.split(":")
        file = Path(weights) if Path(weights).is_file() else None
        model, tokenizer = load_open_clip(architecture, file, weights, device=here.device)
        return measures.open_clip_similarity(model, tokenizer, name)
    if kind == "frechet" and what:
        return measures.pixel_frechet(measures.read_references(Path(what), 64), name)
    simple = {"diversity": measures.diversity, "clipped": measures.clipped}
    if name in simple:
        return simple[name]()
    raise GlideError(
        f"there is no scorer {name!r}. Expected clip:bundled, clip:MODEL, "
        "open_clip:ARCHITECTURE:FILE_OR_TAG, diversity, clipped or frechet:FOLDER. Correct "
        "--scorer."
    )


def _load_clip(here: Session, paths: list[Path]) -> NoisyClip:
    from glide_core.checkpoints.loading import load_clip

    return load_clip(paths, device=here.device, dtype=here.dtype)


def _hash(path: Path) -> str:
    from glide_core.io import sha256_file

    return f"{path.name} {sha256_file(path)}"


def _warn_if_cut(config: Any, prompts: list[str]) -> None:
    from glide_core.tokenizer import get_tokenizer, warn_if_truncated

    tokenizer, length = get_tokenizer(config.tokenizer), config.text.context_length
    for prompt in prompts:
        warn_if_truncated(tokenizer.encode(prompt, length))


def _plain(name: str) -> str:
    """A name as a part of a file name."""
    return "".join(c if c.isalnum() else "_" for c in name)
