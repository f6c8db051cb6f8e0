"""Plots of a sweep: one score against another, with the Pareto front (paper, Fig. 6)."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from glide_core.errors import GlideError
from glide_core.evaluation.sweep import CellResult, Scorer
from glide_core.evaluation.sweep_grid import Grid
from glide_core.io import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

SIZE = (8.0, 5.6)  # inches
DPI = 120
MARKERS = "os^DvPX*"


@dataclass(frozen=True)
class Quantity:
    """One axis of a plot."""

    label: str
    of: Callable[[CellResult], float]
    higher_is_better: bool | None = None  # None: neither, so there is no Pareto front
    name: str = ""  # in file names


def check_matplotlib() -> None:
    """Raise GlideError if matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise GlideError("Plots need matplotlib, which is not installed: pip install matplotlib")


def pareto_front(
    points: Sequence[tuple[float, float]], higher_is_better: tuple[bool, bool]
) -> list[int]:
    """Return the indices of the points that no other point dominates, in order of x.

    A point is dominated by one that is at least as good in both coordinates and better in one.
    Equal points are all kept; points with NaN are left out.
    """
    signs = [1 if higher else -1 for higher in higher_is_better]
    valid = {
        i: (x * signs[0], y * signs[1])
        for i, (x, y) in enumerate(points)
        if not (math.isnan(x) or math.isnan(y))
    }
    front = [
        i
        for i, (x, y) in valid.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in valid.values())
    ]
    return sorted(front, key=lambda i: points[i])


def axes_of(
    results: Sequence[CellResult], scorers: Sequence[Scorer], grid: Grid
) -> list[tuple[Quantity, Quantity]]:
    """Return the (x, y) to plot: the first score over the others, the cost and the first axis."""
    found = [_scored(scorer) for scorer in scorers]
    cost = Quantity(
        "network evaluations per image", lambda r: float(r.evaluations), False, "evaluations"
    )
    if len(grid.steps) > 1 or len(grid.samplers) > 1:
        found.append(cost)
    axis = grid.first_axis
    if axis in ("guidance_scale", "clip_scale"):
        kind = "classifier-free" if axis == "guidance_scale" else "CLIP"
        label = f"{kind} guidance scale"
        found.append(Quantity(label, lambda r: float(getattr(r.cell, axis)), None, axis))
    usable = [q for q in found if any(math.isfinite(q.of(result)) for result in results)]
    if len(usable) == 1 and usable[0] is not cost:
        usable.append(cost)
    return [(x, usable[0]) for x in usable[1:]]


def plot(
    results: Sequence[CellResult], grid: Grid, x: Quantity, y: Quantity, *, title: str = ""
) -> Figure:
    """Plot cells as points: one curve along the grid's first axis per combination of the others.

    Each point is labelled with its value on the first axis. The Pareto front is a broken line where
    both quantities have a better direction.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    finite = [r for r in results if math.isfinite(x.of(r)) and math.isfinite(y.of(r))]
    order = {cell: i for i, cell in enumerate(grid.cells())}
    curves: dict[str, list[CellResult]] = {}
    for result in sorted(finite, key=lambda r: order[r.cell]):
        name = ", ".join(result.cell.label(axis) for axis in grid.other_axes)
        curves.setdefault(name, []).append(result)
    for i, (name, members) in enumerate(curves.items()):
        xs, ys = [x.of(r) for r in members], [y.of(r) for r in members]
        marker, colour = MARKERS[i % len(MARKERS)], f"C{i % 10}"
        axes.plot(xs, ys, marker=marker, color=colour, linewidth=1, label=name)
    for result in finite:
        value = getattr(result.cell, grid.first_axis)
        text = f"{value:g}" if isinstance(value, float) else value
        point = (x.of(result), y.of(result))
        axes.annotate(text, point, xytext=(4, 4), textcoords="offset points", fontsize=8)
    if x.higher_is_better is not None and y.higher_is_better is not None:
        points = [(x.of(r), y.of(r)) for r in finite]
        front = [points[i] for i in pareto_front(points, (x.higher_is_better, y.higher_is_better))]
        label = "Pareto front"
        ends = [p[0] for p in front], [p[1] for p in front]
        axes.plot(*ends, "k--", linewidth=1.6, alpha=0.5, label=label)
    notes = f"{grid.constants()}; point labels: {grid.first_axis.replace('_', ' ')}"
    lines = [*textwrap.wrap(title, 90), *textwrap.wrap(notes, 90)]
    # parse_math=False: a $ in a prompt is not the start of a formula
    axes.set_xlabel(_axis_label(x), parse_math=False)
    axes.set_ylabel(_axis_label(y), parse_math=False)
    axes.set_title("\n".join(lines), fontsize=10, parse_math=False)
    axes.grid(alpha=0.25)
    axes.margins(0.1)
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as .png or .svg, by the suffix; equal figures give equal bytes."""
    kind = path.suffix[1:].lower()
    if kind not in ("png", "svg"):
        raise GlideError(f"{path.name} has no suffix of a plot. Allowed: .png and .svg.")
    with atomic_write(path) as temporary:
        temporary.write_bytes(_bytes(figure, kind))
    return path


def to_image(figure: Figure) -> Image.Image:
    """Render a figure as an RGB image."""
    from PIL import Image

    with Image.open(io.BytesIO(_bytes(figure, "png"))) as image:
        return image.convert("RGB")


def _bytes(figure: Figure, kind: str) -> bytes:
    import matplotlib

    out = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    # the salt of SVG ids can only be set globally, so it is set for this call
    with matplotlib.rc_context({"svg.hashsalt": "glide"}):
        figure.savefig(out, format=kind, metadata=metadata)
    return out.getvalue()


def _scored(scorer: Scorer) -> Quantity:
    label = f"{scorer.name} [{scorer.unit}]" if scorer.unit else scorer.name
    return Quantity(
        label, lambda r: r.scores[scorer.name].mean, scorer.higher_is_better, scorer.name
    )


def _axis_label(quantity: Quantity) -> str:
    better = {True: ", higher is better", False: ", lower is better", None: ""}
    return quantity.label + better[quantity.higher_is_better]
