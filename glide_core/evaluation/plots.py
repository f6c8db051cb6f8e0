"""What a sweep found, drawn: one measure against another, with the Pareto front (paper, Fig. 6)."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_core.errors import GlideError
from glide_core.evaluation.sweep import Measure, Row
from glide_core.evaluation.sweep_grid import AXES, Cell, Grid
from glide_core.io import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

SIZE = (8.0, 5.6)  # inches; at DPI dots an inch
DPI = 120
ROOMY = 20  # points that a plot of that size has room for; with more it grows, and labels shrink
# Where a label may stand beside its point, in points of 1/72 inch: near ones first.
_PLACES = [
    (distance * math.cos(angle), distance * math.sin(angle))
    for distance in (10, 16, 24, 36, 52)
    for angle in (math.radians(degrees) for degrees in (45, 135, 315, 225, 90, 270, 0, 180))
]

_AXIS_NAMES = {
    "guidance_scale": "cfg",
    "clip_scale": "clip",
    "steps": "steps",
    "sampler": "sampler",
}
_NEAR = 16  # of these: places so near that they need no pointer


@dataclass(frozen=True)
class Quantity:
    """One axis of a plot."""

    label: str
    of: Callable[[Row], float]
    higher_is_better: bool | None = None  # None: it is neither, and there is no front
    name: str = ""  # for file names


def pareto_front(
    points: Sequence[tuple[float, float]], higher_is_better: tuple[bool, bool]
) -> list[int]:
    """Give the indices of points that no other one beats, along the front.

    A point is beaten by one that is as good in both coordinates and better in one. Equal points are
    all kept, points with NaN none.
    """
    signs = [1 if higher else -1 for higher in higher_is_better]
    good = {
        i: (x * signs[0], y * signs[1])
        for i, (x, y) in enumerate(points)
        if not (math.isnan(x) or math.isnan(y))
    }
    kept = [
        i
        for i, (x, y) in good.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in good.values())
    ]
    return sorted(kept, key=lambda i: (points[i][0], points[i][1]))


def quantities(measures: Sequence[Measure], grid: Grid) -> list[Quantity]:
    """Measures first, then what cells cost, where that varies; the grid's own first axis last."""
    found = [
        Quantity(
            f"{m.name} [{m.unit}]" if m.unit else m.name, _score(m), m.higher_is_better, m.name
        )
        for m in measures
    ]
    if len(grid.steps) > 1 or len(grid.samplers) > 1:
        label = "evaluations of the network per picture"
        found.append(Quantity(label, lambda row: float(row.evaluations), False, "evaluations"))
    axis = grid.first_axis
    if axis in ("guidance_scale", "clip_scale"):
        kind = "classifier-free" if axis == "guidance_scale" else "CLIP"
        found.append(
            Quantity(
                f"{kind} guidance scale", lambda row: float(getattr(row.cell, axis)), None, axis
            )
        )
    return found


def pairs(rows: Sequence[Row], found: Sequence[Quantity]) -> list[tuple[Quantity, Quantity]]:
    """The (x, y) worth a plot: the first measure over each of the others that has values."""
    if not rows:
        return []
    usable = [q for q in found if any(math.isfinite(q.of(row)) for row in rows)]
    if len(usable) < 2:  # nothing varies and one measure: over its own cost
        usable.append(Quantity("evaluations of the network per picture", _cost, None, "cost"))
    return [(x, usable[0]) for x in usable[1:]]


def plot(rows: Sequence[Row], grid: Grid, x: Quantity, y: Quantity, *, title: str = "") -> Figure:
    """Draw cells as points: curves along the grid's first axis, a colour for each of the others.

    Every point says its value on that axis, where there are many without the axis' name, which the
    legend has then. The Pareto front is a broken line where both quantities have a better end.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [(x.of(row), y.of(row)) for row in rows]
    seen = [i for i, point in enumerate(points) if all(math.isfinite(v) for v in point)]
    crowded = len(seen) > ROOMY
    growth = min(2.0, math.sqrt(len(seen) / ROOMY)) if crowded else 1.0
    figure = Figure(figsize=(SIZE[0] * growth, SIZE[1] * growth), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, members) in enumerate(_curves([rows[i].cell for i in seen], grid)):
        along = [points[seen[i]] for i in members]
        axes.plot(
            [p[0] for p in along],
            [p[1] for p in along],
            f"{'os^DvPX*'[number % 8]}-",
            color=f"C{number % 10}",
            linewidth=1,
            markersize=6,
            label=name,
        )
    if x.higher_is_better is not None and y.higher_is_better is not None:
        front = pareto_front(points, (x.higher_is_better, y.higher_is_better))
        axes.plot(
            [points[i][0] for i in front],
            [points[i][1] for i in front],
            "o--",
            color="black",
            linewidth=1.6,
            markersize=12,
            fillstyle="none",
            markeredgewidth=1.2,
            alpha=0.55,
            zorder=1,
            label="Pareto front",
        )
    lines = [*textwrap.wrap(title, 90), *textwrap.wrap(grid.constants(), 90)]
    # parse_math: a $ in a prompt is a $
    axes.set_xlabel(_worded(x), parse_math=False)
    axes.set_ylabel(_worded(y), parse_math=False)
    axes.set_title("\n".join(lines), fontsize=10, parse_math=False)
    axes.grid(alpha=0.25)
    axes.margins(0.1)
    if axes.get_legend_handles_labels()[1]:
        said = f"labels: {_AXIS_NAMES[grid.first_axis]}" if crowded else None
        figure.legend(loc="outside right upper", fontsize=9, frameon=False, title=said)
    labels = [rows[i].cell.label(grid.first_axis) for i in seen]
    if crowded:
        labels = [_value(rows[i].cell, grid.first_axis) for i in seen]
    _place_labels(figure, axes, [points[i] for i in seen], labels)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure by its name's ending, .png or .svg: the same bytes for the same figure."""
    kind = path.suffix[1:].lower()
    if kind not in ("png", "svg"):
        raise GlideError(f"{path.name} is no name for a plot: expected one ending in .png or .svg")
    with atomic_write(path) as temporary:
        temporary.write_bytes(_bytes(figure, kind))
    return path


def to_image(figure: Figure) -> Image.Image:
    """Give a figure as an RGB image."""
    from PIL import Image

    with Image.open(io.BytesIO(_bytes(figure, "png"))) as image:
        return image.convert("RGB")


def _bytes(figure: Figure, kind: str) -> bytes:
    import matplotlib

    out = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    # The salt of SVG's ids is a setting of the whole library alone: set for this call.
    with matplotlib.rc_context({"svg.hashsalt": "glide"}):
        figure.savefig(out, format=kind, metadata=metadata)
    return out.getvalue()


def _score(measure: Measure) -> Callable[[Row], float]:
    return lambda row: row.scores[measure.name].mean


def _cost(row: Row) -> float:
    return float(row.evaluations)


def _value(cell: Cell, axis: str) -> str:
    value = getattr(cell, axis)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _worded(quantity: Quantity) -> str:
    better = {True: ", higher is better", False: ", lower is better", None: ""}
    return quantity.label + better[quantity.higher_is_better]


def _curves(cells: Sequence[Cell], grid: Grid) -> list[tuple[str, list[int]]]:
    """Group cells by the settings beside the first axis, each group along that axis."""
    groups: dict[str, list[int]] = {}
    for i, cell in enumerate(cells):
        name = ", ".join(cell.label(axis) for axis in AXES if axis in grid.other_axes)
        groups.setdefault(name, []).append(i)
    order = list(grid.values(grid.first_axis))
    for members in groups.values():
        members.sort(key=lambda i: order.index(getattr(cells[i], grid.first_axis)))
    wanted = [", ".join(c.label(a) for a in AXES if a in grid.other_axes) for c in grid.cells()]
    names = [name for name in dict.fromkeys(wanted) if name in groups]
    return [(name, groups[name]) for name in names]


def _place_labels(
    figure: Figure, axes: Any, points: Sequence[tuple[float, float]], labels: Sequence[str]
) -> None:
    """Put each label where it covers no point, no other label and, if that can be, no curve."""
    from matplotlib.transforms import Bbox

    if not points:
        return
    figure.draw_without_rendering()  # lays the axes out: only now have they a size
    dot = figure.dpi / 72
    where = axes.transData.transform(points)
    solid = [Bbox.from_bounds(px - 5 * dot, py - 5 * dot, 10 * dot, 10 * dot) for px, py in where]
    lines = [line.get_path().transformed(axes.transData) for line in axes.get_lines()]
    frame = axes.get_window_extent()
    for (px, py), point, label in zip(where, points, labels, strict=True):
        note = axes.annotate(
            label,
            point,
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "alpha": 0.6, "shrinkB": 4},
        )
        note.set_in_layout(False)  # or it would push the axes about
        size = note.get_window_extent()
        tried = []
        for number, (dx, dy) in enumerate(_PLACES):
            across = dx * dot + math.copysign(size.width / 2, dx) * (abs(dx) > 1)
            box = Bbox.from_bounds(
                px + across - size.width / 2, py + dy * dot - size.height / 2, *size.size
            )
            covered = sum(box.overlaps(other) for other in solid)
            crossed = sum(line.intersects_bbox(box, filled=False) for line in lines)
            inside = frame.x0 <= box.x0 <= box.x1 <= frame.x1
            inside = inside and frame.y0 <= box.y0 <= box.y1 <= frame.y1
            cost = 20 * (not inside) + 4 * covered + crossed + number / 100
            tried.append((cost, number, box, (across / dot, dy)))
        _, number, box, offset = min(tried, key=lambda entry: entry[0])
        note.set_position(offset)
        if number < _NEAR and note.arrow_patch is not None:
            note.arrow_patch.set_visible(False)  # beside its point it needs no pointer
        solid.append(box)
