"""Output of a sweep: the labelled image grid, the Pareto front, the plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

from glide_core.evaluation import sweep_output
from glide_core.evaluation.sweep import Cell, CellResult, Score, Scorer, combinations
from glide_core.evaluation.sweep_output import image_grid, pareto_front, to_image

GRID = combinations([(1.0, 2.0, 5.0), (0.0, 3.0), ("10", "fast27"), ("ddim",)])
SCORERS = [
    Scorer("clip", lambda made, prompts: made, "cosine"),
    Scorer("frechet", lambda made, prompts: made, "8x8 pixels", higher_is_better=False),
]


def entries(grid: Sequence[Cell] = GRID) -> list[CellResult]:
    made = []
    for i, cell in enumerate(grid):
        scores = {"clip": Score(0.2 + 0.01 * i), "frechet": Score(10.0 + (i - 3) ** 2)}
        made.append(CellResult(cell, 1, 10 + i, 0.1, scores))
    return made


def levels_of(grid: Sequence[Cell] = GRID, count: int = 1, side: int = 64) -> dict[Cell, Tensor]:
    """Images of every cell, each of one grey."""
    return {c: torch.full((count, 3, side, side), i / len(grid)) for i, c in enumerate(grid)}


def texts(figure: Figure) -> list[tuple[str, tuple[float, ...]]]:
    """Every text of an image grid with its bounding box."""
    figure.draw_without_rendering()
    drawn = [one for one in figure.findobj(Text) if one.get_visible() and one.get_text()]
    return [(one.get_text(), one.get_window_extent().extents) for one in drawn]


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_grid_labels_every_column_and_row_without_overlap(count: int) -> None:
    drawn = image_grid(levels_of(count=count), count, title="a fox on a blue background " * 4)
    words = texts(drawn)
    left, bottom, right, top = drawn.get_tightbbox().extents * sweep_output.DPI
    said = [text for text, _ in words]
    assert [text for text in said if text.startswith("cfg")] == ["cfg 1", "cfg 2", "cfg 5"]
    rows = ["clip 0\n10 steps", "clip 0\nfast27", "clip 3\n10 steps", "clip 3\nfast27"]
    assert [text for text in said if text.startswith("clip")] == rows
    assert any("ddim" in text for text in said)  # what does not vary
    assert any("the first 4 shown" in text for text in said) == (count == 9)
    for i, (_, box) in enumerate(words):
        assert box[0] >= left and box[1] >= bottom and box[2] <= right and box[3] <= top
        assert not any(overlap(box, other) for _, other in words[i + 1 :])


def test_the_grid_grows_with_its_images() -> None:
    grid = [Cell(scale) for scale in (1.0, 2.0, 3.0)]
    one = to_image(image_grid(levels_of(grid), 1))
    assert one.width >= 3 * 128 and one.height >= 128
    four = to_image(image_grid(levels_of(grid, 4), 4))
    assert four.width - one.width >= 3 * 128 - 60 and four.height - one.height == 128


def test_images_are_in_their_column_and_row_and_a_missing_cell_stays_white() -> None:
    grid = combinations([(1.0, 2.0), (0.0, 3.0), ("30",), ("ddim",)])
    all_four = levels_of(grid)
    whole = np.asarray(to_image(image_grid(all_four, 1)))
    levels = {round((float(one.mean()) + 1) * 127.5) for one in all_four.values()}
    assert levels <= set(np.unique(whole))
    where = [np.median(np.argwhere(whole[..., 0] == level), axis=0) for level in sorted(levels)]
    (y0, x0), (y1, x1), (y2, x2), _ = where  # cells come with the CLIP scale running faster
    assert y0 < y1 and abs(x0 - x1) < 5 and x0 < x2 and abs(y0 - y2) < 5
    all_four.popitem()
    short = np.asarray(to_image(image_grid(all_four, 1)))
    assert short.shape == whole.shape
    assert sorted(levels)[3] not in np.unique(short[int(where[3][0]), int(where[3][1])])


def test_the_pareto_front_is_the_set_of_nondominated_points() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (3.0, 1.0), (0.0, 0.0), (math.nan, 9.0)]
    assert pareto_front(points, (True, True)) == [0, 1, 3]
    assert pareto_front(points, (False, True)) == [4, 0]
    assert pareto_front(points, (False, False)) == [4]
    assert pareto_front([(1.0, 1.0), (1.0, 1.0)], (True, True)) == [0, 1]
    assert pareto_front([], (True, False)) == []


def figure(grid: Sequence[Cell] = GRID, title: str = "a fox"):  # type: ignore[no-untyped-def]
    results = entries(grid)
    (x, y), *_ = sweep_output.axes_of(results, SCORERS)
    return sweep_output.plot(results, x, y, title=title)


def test_every_point_is_labelled_with_its_scale_and_every_curve_is_in_the_legend() -> None:
    (axes,) = figure().axes
    labels = sorted(text.get_text() for text in axes.texts)
    assert labels == sorted(f"{one.cell.guidance_scale:g}" for one in entries())
    assert "point labels: guidance scale" in axes.get_title()
    curves = ["clip 0, 10 steps", "clip 0, fast27", "clip 3, 10 steps", "clip 3, fast27"]
    assert axes.get_legend_handles_labels()[1] == [*curves, "Pareto front"]
    assert "clip [cosine], higher is better" in axes.get_ylabel()
    assert "frechet [8x8 pixels], lower is better" in axes.get_xlabel()


def test_the_svg_is_xml_and_the_same_every_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    sweep_output.save(figure(title="100 $ & <b> -- \u00e9 $x^$"), first)
    sweep_output.save(figure(title="100 $ & <b> -- \u00e9 $x^$"), second)
    assert ElementTree.parse(first).getroot().tag.endswith("svg")
    assert first.read_bytes() == second.read_bytes()
    png = sweep_output.save(figure(), tmp_path / "c.png")
    assert Image.open(png).size == sweep_output.to_image(figure()).size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.svg", "b.svg", "c.png"]


def test_plotting_does_not_change_matplotlibs_settings(tmp_path: Path) -> None:
    import sys

    import matplotlib

    before = dict(matplotlib.rcParams)
    sweep_output.save(figure(), tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")  # others may have imported it
    assert pyplot is None or pyplot.get_fignums() == []


def test_one_cell_and_one_score_still_make_a_plot() -> None:
    results = entries([Cell()])
    found = sweep_output.axes_of(results, SCORERS[:1])
    assert [(x.name, y.name) for x, y in found] == [("guidance_scale", "clip")]
    sweep_output.to_image(sweep_output.plot(results, *found[0]))
    nan = [CellResult(one.cell, 1, 5, 0.1, {"clip": Score(math.nan)}) for one in results]
    (x, y), *_ = sweep_output.axes_of(nan, SCORERS[:1])
    sweep_output.to_image(sweep_output.plot(nan, x, y))
    undefined = [Scorer(one.name, one.score, "unit") for one in SCORERS]
    both = [CellResult(one.cell, 1, 5, 0.1, dict.fromkeys(("clip", "frechet"), Score(math.nan)))
            for one in results]  # fmt: skip
    for x, y in sweep_output.axes_of(both, undefined):
        sweep_output.to_image(sweep_output.plot(both, x, y))
    assert sweep_output.axes_of([], []) == []
