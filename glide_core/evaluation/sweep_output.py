"""The folder of a sweep: a table, the images of every cell, a labelled grid of them, and plots.

Each cell is written when it is finished, images first, so that an interrupted sweep can resume.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor

from glide_core.errors import GlideError, as_glide_error
from glide_core.evaluation.sweep import AXES, Cell, CellResult, Scorer, varying
from glide_core.images import from_pil, open_image, to_pil
from glide_core.io import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RESULTS = TypeAdapter(list[CellResult])

SIZE = (8.0, 5.6)  # inches
DPI = 120
MARKERS = "os^DvPX*"
MAX_SIDE = 60_000  # pixels of the image grid; matplotlib draws fewer than 2^16


def to_csv(results: Iterable[CellResult], scorers: Sequence[Scorer]) -> str:
    """Format results as CSV (RFC 4180 with LF line ends): settings, then mean and standard error of
    each score; an empty field means no value."""
    rows = []
    for result in results:
        cell = result.cell
        numbers = {"time [s per image]": result.seconds}
        for scorer in scorers:
            name, score = scorer.name, result.scores[scorer.name]
            numbers[f"{name} [{scorer.unit}, mean]"] = score.mean
            numbers[f"{name} [standard error of the mean]"] = score.error
        shown = {k: "" if math.isnan(number) else f"{number:.6g}" for k, number in numbers.items()}
        settings = {
            "guidance_scale [1 is off]": f"{cell.guidance_scale:.12g}",
            "clip_scale [0 is off]": f"{cell.clip_scale:.12g}",
            "steps [number or respacing]": cell.steps,
            "sampler": cell.sampler,
            "images": result.count,
            "evaluations [of the network per image]": result.evaluations,
        }
        rows.append({**settings, **shown})
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class SweepFolder:
    """The folder of a sweep: sweep.csv, sweep.json, images/<cell>.png."""

    def __init__(self, path: Path, scorers: Sequence[Scorer], identity: Mapping[str, Any]) -> None:
        """Start a sweep in a folder, or resume the one that the folder holds.

        identity: everything that makes rows comparable (prompts, seeds, model hashes, scorers). The
        settings of cells are not included, so that a sweep can be extended. An empty list (no CLIP
        in use yet) agrees with any value. GlideError if the folder holds another sweep.
        """
        self.path, self.scorers = path, scorers
        self.table, self._state = path / "sweep.csv", path / "sweep.json"
        stored: dict[str, Any] = {}
        results: list[CellResult] = []
        if self._state.exists():
            with as_glide_error(f"{self._state} is damaged", setting="out"):
                stored = dict(json.loads(self._state.read_text(encoding="utf-8")))
                results = _RESULTS.validate_python(stored.pop("results", []))
        elif self.table.exists():
            raise GlideError(f"{path} holds a sweep.csv without its sweep.json.", "out")
        given = json.loads(json.dumps(identity))
        agreed = {key: value for key, value in given.items() if value != [] or key not in stored}
        if changed := [key for key in agreed if stored.get(key, []) not in ([], agreed[key])]:
            raise GlideError(f"{path} holds a sweep with other {', '.join(changed)}.", "out")
        self.identity = {**stored, **agreed}
        # without its images a cell is made again
        self.results = {one.cell: one for one in results if self._file(one.cell).is_file()}
        self._write()

    def add(self, result: CellResult, images: Tensor) -> None:
        """Write a finished cell; an earlier result with the same settings is replaced."""
        self.results[result.cell] = result
        with atomic_write(self._file(result.cell)) as temporary:
            to_pil(tile(images)[None])[0].save(temporary, format="PNG")
        self._write()
        with atomic_write(self.table) as temporary:
            temporary.write_text(to_csv(self.results.values(), self.scorers), encoding="utf-8")

    def images(self, cell: Cell) -> Tensor:
        """Read the images of a cell [N, 3, H, W], rounded to 8 bits."""
        count = self.results[cell].count
        whole = from_pil(open_image(self._file(cell)))[0]  # [3, rows * H, columns * W]
        columns = math.ceil(count**0.5)
        rows = -(-count // columns)
        sides = whole.shape[1] // rows, whole.shape[2] // columns
        tiles = whole.reshape(3, rows, sides[0], columns, sides[1])
        return tiles.permute(1, 3, 0, 2, 4).flatten(0, 1)[:count]

    def draw(self, cells: Sequence[Cell], title: str, shown: int) -> list[Path]:
        """Write grid.png and the plots of some cells; return all paths, the table first."""
        results = [self.results[cell] for cell in cells]
        images = {cell: self.images(cell) for cell in cells}
        grid = image_grid(images, results[0].count, title=title, shown=shown)
        paths = [self.table, save(grid, self.path / "grid.png")]
        for x, y in axes_of(results, self.scorers):
            stem = re.sub(r"\W", "_", f"plot_{y.name}_over_{x.name}")
            figure = plot(results, x, y, title=title)
            paths += [save(figure, self.path / f"{stem}{end}") for end in (".png", ".svg")]
        return paths

    def _file(self, cell: Cell) -> Path:
        return self.path / "images" / f"{cell.name}.png"

    def _write(self) -> None:
        state = {**self.identity, "results": [asdict(one) for one in self.results.values()]}
        with atomic_write(self._state) as temporary:
            temporary.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def tile(images: Tensor) -> Tensor:
    """Arrange images [N, 3, H, W] as one [3, rows * H, columns * W], almost square."""
    from torchvision.utils import make_grid

    columns = math.ceil(len(images) ** 0.5)
    whole: Tensor = make_grid(images.float().cpu(), columns, padding=0, pad_value=1.0)
    return whole


def constants(cells: Collection[Cell]) -> str:
    """Describe the settings that do not vary: 'clip 0, 30 steps, ddim'."""
    changing = varying(cells)
    return ", ".join(next(iter(cells)).label(axis) for axis in AXES if axis not in changing)


def image_grid(
    images: Mapping[Cell, Tensor], count: int, *, title: str = "", shown: int = 4
) -> Figure:
    """Draw the images [N, 3, H, W] of cells, with their settings as labels.

    Columns are the first axis with several values, rows all others. A missing combination stays
    white. count: images that each cell has. shown: most images per cell. Images below 128 pixels
    are enlarged by a whole factor.
    """
    from matplotlib.figure import Figure
    from torchvision.utils import make_grid

    first, *others = varying(images) or AXES[:1]
    tiles = {
        ("\n".join(map(cell.label, others)), cell.label(first)): tile(some[:shown])
        for cell, some in images.items()
    }
    rows, columns = (list(dict.fromkeys(labels)) for labels in zip(*tiles, strict=True))
    blank = torch.ones_like(next(iter(tiles.values())))
    cells = [tiles.get((row, column), blank) for row in rows for column in columns]
    whole = make_grid(torch.stack(cells), len(columns), padding=4, pad_value=1.0)
    height, width = whole.shape[1:]
    side = min(size for some in images.values() for size in some.shape[2:])
    scale = min(max(1, -(-128 // side)), MAX_SIDE / max(height, width))

    # labels are outside of the figure: `save` and `to_image` make room for them
    figure = Figure((width * scale / DPI, height * scale / DPI), DPI)
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False)
    axes.imshow(to_pil(whole[None])[0], interpolation="nearest")
    places = [(i + 0.5) * width / len(columns) for i in range(len(columns))]
    letters = round(blank.shape[2] * scale / 10)  # that fit over a column
    axes.set_xticks(places, [textwrap.fill(label, letters) for label in columns])
    axes.set_yticks([(i + 0.5) * height / len(rows) for i in range(len(rows))], rows)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=10)
    each = f"{count} image{'s' * (count != 1)} per cell"
    each += f", the first {shown} shown" if count > shown else ""
    notes = "; ".join(part for part in (constants(images), each) if part)
    heading = [*textwrap.wrap(title, 60), *textwrap.wrap(notes, 60)]
    axes.set_title("\n".join(heading), loc="left", fontsize=10, parse_math=False)
    return figure


@dataclass(frozen=True)
class Quantity:
    """One axis of a plot: a value of every result."""

    name: str  # in file names
    label: str
    values: list[float]
    higher_is_better: bool | None  # None: neither; its plot has then no Pareto front


def axes_of(
    results: Sequence[CellResult], scorers: Sequence[Scorer]
) -> list[tuple[Quantity, Quantity]]:
    """Return the (x, y) to plot: the first score over the others, the cost and the first axis."""
    found = []
    for one in scorers:
        means = [result.scores[one.name].mean for result in results]
        found.append(Quantity(one.name, f"{one.name} [{one.unit}]", means, one.higher_is_better))
    evaluations = [float(result.evaluations) for result in results]
    cost = Quantity("evaluations", "network evaluations per image", evaluations, False)
    changing = varying(result.cell for result in results) or AXES[:1]
    if {"steps", "sampler"} & set(changing):
        found.append(cost)
    axis = changing[0]
    if axis in ("guidance_scale", "clip_scale"):
        kind = "classifier-free" if axis == "guidance_scale" else "CLIP"
        scales = [float(getattr(result.cell, axis)) for result in results]
        found.append(Quantity(axis, f"{kind} guidance scale", scales, None))
    usable = [one for one in found if any(map(math.isfinite, one.values))]
    if len(usable) == 1 and usable[0] is not cost:
        usable.append(cost)
    return [(x, usable[0]) for x in usable[1:]]


def plot(results: Sequence[CellResult], x: Quantity, y: Quantity, *, title: str = "") -> Figure:
    """Plot cells as points: one curve along the first axis per combination of the others.

    Each point is labelled with its value on the first axis. The Pareto front is a broken line where
    both quantities have a better direction.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    cells = [result.cell for result in results]
    first, *others = varying(cells) or AXES[:1]
    curves: dict[str, list[tuple[float, float]]] = {}
    for cell, point in zip(cells, zip(x.values, y.values, strict=True), strict=True):
        if all(map(math.isfinite, point)):
            curves.setdefault(", ".join(map(cell.label, others)), []).append(point)
            value = getattr(cell, first)
            text = f"{value:g}" if isinstance(value, float) else value
            axes.annotate(text, point, (4, 4), textcoords="offset points", fontsize=8)
    for i, (name, members) in enumerate(curves.items()):
        style = f"{MARKERS[i % len(MARKERS)]}-"
        axes.plot(*zip(*members, strict=True), style, color=f"C{i % 10}", linewidth=1, label=name)
    if curves and x.higher_is_better is not None and y.higher_is_better is not None:
        every = [point for members in curves.values() for point in members]
        front = pareto_front(every, (x.higher_is_better, y.higher_is_better))
        ends = zip(*(every[i] for i in front), strict=True)
        axes.plot(*ends, "k--", linewidth=1.6, alpha=0.5, label="Pareto front")
    notes = f"{constants(cells)}; point labels: {first.replace('_', ' ')}"
    lines = [*textwrap.wrap(title, 90), *textwrap.wrap(notes, 90)]
    better = {True: ", higher is better", False: ", lower is better", None: ""}
    # parse_math=False: a $ in a prompt is not the start of a formula
    axes.set_xlabel(x.label + better[x.higher_is_better], parse_math=False)
    axes.set_ylabel(y.label + better[y.higher_is_better], parse_math=False)
    axes.set_title("\n".join(lines), fontsize=10, parse_math=False)
    axes.grid(alpha=0.25)
    axes.margins(0.1)
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    return figure


def pareto_front(
    points: Sequence[tuple[float, float]], higher_is_better: tuple[bool, bool]
) -> list[int]:
    """Return the indices of the points that no other point dominates, in order of x.

    A point is dominated by one that is at least as good in both coordinates and better in one.
    Equal points are all kept; points with NaN are left out.
    """
    sx, sy = (1 if higher else -1 for higher in higher_is_better)
    signed = [(x * sx, y * sy) for x, y in points]
    front = [
        i
        for i, (x, y) in enumerate(signed)
        if x == x and y == y and not any(a >= x and b >= y and (a, b) != (x, y) for a, b in signed)
    ]
    return sorted(front, key=lambda i: points[i])


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as .png or .svg, by the suffix; equal figures give equal bytes."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(_render(figure, path.suffix[1:]))
    return path


def to_image(figure: Figure) -> Image.Image:
    """Render a figure as an RGB image."""
    return Image.open(io.BytesIO(_render(figure, "png"))).convert("RGB")


def _render(figure: Figure, kind: str) -> bytes:
    import matplotlib

    content = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    # the salt of SVG ids can only be set globally, so it is set for this call
    with matplotlib.rc_context({"svg.hashsalt": "glide"}):
        figure.savefig(content, format=kind, metadata=metadata, bbox_inches="tight")
    return content.getvalue()
