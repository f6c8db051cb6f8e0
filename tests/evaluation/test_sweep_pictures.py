"""What a sweep shows: the labelled picture grid, the Pareto front, the plots."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from glide_core.errors import GlideError
from glide_core.evaluation import plots
from glide_core.evaluation.picture_grid import picture_grid
from glide_core.evaluation.plots import pareto_front
from glide_core.evaluation.sweep import Drawn, Measure, Row, Score
from glide_core.evaluation.sweep_grid import Grid

GRID = Grid((1.0, 2.0, 5.0), (0.0, 3.0), ("10", "fast27"))
MEASURES = [
    Measure("clip", lambda pictures, prompts: pictures, "cosine"),
    Measure("frechet", lambda pictures, prompts: pictures, higher_is_better=False),
]


def entries(grid: Grid = GRID, count: int = 1, side: int = 64) -> list[Drawn]:
    made = []
    for i, cell in enumerate(grid.cells()):
        scores = {"clip": Score(0.2 + 0.01 * i), "frechet": Score(10.0 + (i - 3) ** 2)}
        pictures = torch.full((count, 3, side, side), i / len(grid.cells()))
        made.append(Drawn(Row(cell, count, 10 + i, 0.1, scores), pictures))
    return made


def words_drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[float, ...]]]:
    """Collect every text that is drawn, with the box it takes."""
    found: list[tuple[str, tuple[float, ...]]] = []
    real = ImageDraw.ImageDraw.text

    def text(self: ImageDraw.ImageDraw, xy: tuple[float, float], words: str, **options: object):  # type: ignore[no-untyped-def]
        box = self.textbbox(xy, words, font=options["font"], anchor=options.get("anchor"))  # type: ignore[arg-type]
        found.append((words, box))
        return real(self, xy, words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return found


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_grid_labels_every_column_and_row_and_covers_nothing(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words_drawn(monkeypatch)
    image = picture_grid(entries(count=count), GRID, title="a fox on a blue background " * 4)
    said = [text for text, _ in words]
    assert [text for text in said if text.startswith("cfg")] == ["cfg 1", "cfg 2", "cfg 5"]
    rows = ["clip 0", "10 steps", "clip 0", "fast27", "clip 3", "10 steps", "clip 3", "fast27"]
    assert said[-8:] == rows
    assert any("ddim" in text for text in said)  # what does not vary
    assert any("the first 4 shown" in text for text in said) == (count == 9)
    for i, (_, box) in enumerate(words):
        assert box[0] >= 0 and box[1] >= 0 and box[2] <= image.width and box[3] <= image.height
        assert not any(overlap(box, other) for _, other in words[i + 1 :])


def test_the_grid_is_as_large_as_its_pictures() -> None:
    one = picture_grid(entries(Grid((1.0, 2.0, 3.0))), Grid((1.0, 2.0, 3.0)))
    assert one.width >= 3 * 128 and one.height >= 128
    four = picture_grid(entries(Grid((1.0, 2.0, 3.0)), 4), Grid((1.0, 2.0, 3.0)))
    assert four.width - one.width >= 3 * 128 - 60 and four.height - one.height == 128


def test_pictures_stand_in_their_column_and_row_and_a_missing_cell_stays_white() -> None:
    grid = Grid((1.0, 2.0), (0.0, 3.0))
    all_four = entries(grid)
    whole = np.asarray(picture_grid(all_four, grid))
    levels = {round((float(d.pictures[0, 0, 0, 0]) + 1) * 127.5) for d in all_four}
    assert levels <= set(np.unique(whole))
    where = [np.argwhere(whole[..., 0] == level).mean(axis=0) for level in sorted(levels)]
    (y0, x0), (y1, x1), (y2, x2), _ = where  # cells come with the CLIP scale running faster
    assert y0 < y1 and abs(x0 - x1) < 5 and x0 < x2 and abs(y0 - y2) < 5
    short = np.asarray(picture_grid(all_four[:3], grid))
    assert short.shape == whole.shape
    assert sorted(levels)[3] not in np.unique(short[int(where[3][0]), int(where[3][1])])


def test_the_front_holds_what_nothing_beats() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (3.0, 1.0), (0.0, 0.0), (math.nan, 9.0)]
    assert pareto_front(points, (True, True)) == [0, 1, 3]
    assert pareto_front(points, (False, True)) == [4, 0]
    assert pareto_front(points, (False, False)) == [4]
    assert pareto_front([(1.0, 1.0), (1.0, 1.0)], (True, True)) == [0, 1]
    assert pareto_front([], (True, False)) == []


def figure(grid: Grid = GRID, title: str = "a fox"):  # type: ignore[no-untyped-def]
    rows = [d.row for d in entries(grid)]
    (x, y), *_ = plots.pairs(rows, plots.quantities(MEASURES, grid))
    return plots.plot(rows, grid, x, y, title=title)


def test_every_point_says_its_scale_and_no_label_covers_another() -> None:
    made = figure()
    (axes,) = made.axes
    assert [t.get_text() for t in axes.texts] == [
        d.row.cell.label("guidance_scale") for d in entries()
    ]
    made.draw_without_rendering()
    from matplotlib.text import Text  # an annotation's own extent includes its pointer

    boxes = [Text.get_window_extent(text) for text in axes.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
    assert {"clip 0, 10 steps", "clip 3, fast27", "Pareto front"} <= set(
        axes.get_legend_handles_labels()[1]
    )
    assert "clip [cosine], higher is better" in axes.get_ylabel()
    assert "frechet, lower is better" in axes.get_xlabel()


def test_a_crowded_plot_grows_and_its_labels_shrink_to_the_value() -> None:
    crowd = Grid((1.0, 2.0, 3.0, 5.0, 8.0), (0.0, 1.0, 3.0), ("10", "fast27"), ("ddim", "plms"))
    made = figure(crowd)
    assert made.get_size_inches()[0] > plots.SIZE[0]
    (axes,) = made.axes
    assert len(axes.texts) == 60 and {t.get_text() for t in axes.texts} == set("12358")
    assert made.legends[0].get_title().get_text() == "labels: cfg"
    made.draw_without_rendering()
    from matplotlib.text import Text

    boxes = [Text.get_window_extent(text) for text in axes.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_the_svg_is_xml_and_the_same_every_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    plots.save(figure(title="100 $ & <b> -- \u00e9 $x^$"), first)
    plots.save(figure(title="100 $ & <b> -- \u00e9 $x^$"), second)
    assert ElementTree.parse(first).getroot().tag.endswith("svg")
    assert first.read_bytes() == second.read_bytes()
    png = plots.save(figure(), tmp_path / "c.png")
    assert Image.open(png).size == plots.to_image(figure()).size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.svg", "b.svg", "c.png"]
    with pytest.raises(GlideError, match=r"\.png or \.svg"):
        plots.save(figure(), tmp_path / "d.gif")


def test_drawing_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    import sys

    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.save(figure(), tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")  # others may have imported it
    assert pyplot is None or pyplot.get_fignums() == []


def test_one_cell_and_one_measure_still_make_a_plot() -> None:
    grid = Grid()
    rows = [d.row for d in entries(grid)]
    found = plots.pairs(rows, plots.quantities(MEASURES[:1], grid))
    assert [(x.name, y.name) for x, y in found] == [("guidance_scale", "clip")]
    plots.to_image(plots.plot(rows, grid, *found[0]))
    nan = [Row(row.cell, 1, 5, 0.1, {"clip": Score(math.nan)}) for row in rows]
    (x, y), *_ = plots.pairs(nan, plots.quantities(MEASURES[:1], grid))
    plots.to_image(plots.plot(nan, grid, x, y))
    assert plots.pairs([], []) == []
