"""Plots of measured values against a setting, such as the guidance scale or the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glide_core.evaluation.sweep_output import DPI, SIZE, save


@dataclass(frozen=True)
class Point:
    scale: float  # value of the setting: a guidance scale, a number of steps
    values: dict[str, float]

    def of(self, name: str) -> float:
        return self.scale if name == "scale" else self.values[name]


@dataclass(frozen=True)
class Curve:
    name: str
    points: list[Point]


def plot_curves(
    curves: Sequence[Curve],
    x: str,
    y: str,
    path: Path,
    *,
    log_x: bool = False,
    x_name: str = "",
) -> None:
    """Plot one value against another as `path`.png and `path`.svg.

    log_x: logarithmic x axis; symmetric logarithmic if a value is 0.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, curve in enumerate(curves):
        xs, ys = ([point.of(name) for point in curve.points] for name in (x, y))
        style = f"{'os^DvPX*h'[number % 9]}-"
        axes.plot(xs, ys, style, color=f"C{number % 10}", markersize=5, linewidth=1.2,
                  label=curve.name)  # fmt: skip
    if log_x:
        axes.set_xscale("symlog" if any(p.of(x) == 0 for c in curves for p in c.points) else "log")
    axes.set_xlabel(x_name or x.replace("_", " "))
    axes.set_ylabel(y.replace("_", " "))
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    for ending in (".png", ".svg"):
        save(figure, path.with_suffix(ending))
