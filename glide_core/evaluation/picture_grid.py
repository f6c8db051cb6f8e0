"""A sweep as one picture: columns and rows are settings, each cell shows what they draw."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from glide_core.evaluation.sweep import Drawn
from glide_core.evaluation.sweep_grid import AXES, Cell, Grid
from glide_core.images import to_pil

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

    Font = FreeTypeFont | BitmapFont

GAP = 8  # pixels between cells and around text
LEAST_WIDTH = 420  # of the whole picture, so that its title can be read
_LINE = 1.3  # of the letters' size


def picture_grid(
    drawn: Sequence[Drawn], grid: Grid, *, title: str = "", shown: int = 4, side: int = 128
) -> Image.Image:
    """Draw the cells of a grid with their settings beside them, RGB.

    Columns are the first axis that varies, rows all others. A cell that is not in `drawn` stays
    empty. shown: the most pictures of one cell, in a near square. side: pixels that each of them
    gets at least, as a whole multiple of its own where it is smaller.
    """
    cells = {d.row.cell: d for d in drawn}
    columns, rows = _axes(grid)
    tiles = {cell: _mosaic(d.pictures[:shown], side) for cell, d in cells.items()}
    inner_w, inner_h = _largest(list(tiles.values()), side)
    font, small = _font(18), _font(15)

    above = [_label(cell, (grid.first_axis,)) for cell in columns]
    beside = [_label(cell, grid.other_axes) for cell in rows]
    left = max((_width(line, font) for text in beside for line in text.split("\n")), default=0)
    left += GAP if left else 0
    column = max(inner_w, max(_width(text, font) for text in above)) + GAP
    line = round(18 * _LINE)
    row = max(inner_h, max(text.count("\n") + 1 for text in beside) * line) + GAP

    width = max(LEAST_WIDTH, left + len(columns) * column + 2 * GAP)
    heading = _wrap(title, font, width - 2 * GAP)
    notes = _wrap(_notes(drawn, grid, shown), small, width - 2 * GAP)
    top = GAP + (len(heading) + len(notes)) * line + GAP
    height = top + line + GAP + len(rows) * row + GAP
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    for i, text in enumerate(heading):
        pen.text((GAP, GAP + i * line), text, fill="black", font=font)
    for i, text in enumerate(notes, len(heading)):
        pen.text((GAP, GAP + i * line), text, fill="dimgray", font=small)
    for x, text in enumerate(above):
        middle = GAP + left + x * column + (column - GAP) / 2
        pen.text((middle, top), text, fill="black", font=font, anchor="ma")
    for y, across in enumerate(rows):
        corner = top + line + GAP + y * row
        lines = beside[y].split("\n")
        first = corner + max(0.0, (row - GAP - len(lines) * line) / 2)
        for i, text in enumerate(lines):
            pen.text((GAP, first + i * line), text, fill="black", font=font)
        for x, down in enumerate(columns):
            tile = tiles.get(_crossing(grid, down, across))
            if tile is not None:
                spare = column - GAP - tile.width
                image.paste(tile, (GAP + left + x * column + spare // 2, corner))
    return image


def _axes(grid: Grid) -> tuple[list[Cell], list[Cell]]:
    """A cell for every column and one for every row: only the settings of that axis count."""
    base = grid.cells()[0]
    columns = [_with(base, {grid.first_axis: value}) for value in grid.values(grid.first_axis)]
    values = itertools.product(*(grid.values(axis) for axis in grid.other_axes))
    rows = [_with(base, dict(zip(grid.other_axes, v, strict=True))) for v in values]
    return columns, rows


def _with(cell: Cell, changes: dict[str, Any]) -> Cell:
    return Cell(**{axis: changes.get(axis, getattr(cell, axis)) for axis in AXES})


def _crossing(grid: Grid, column: Cell, row: Cell) -> Cell:
    return _with(row, {grid.first_axis: getattr(column, grid.first_axis)})


def _label(cell: Cell, axes: Sequence[str]) -> str:
    return "\n".join(cell.label(axis) for axis in axes)


def _notes(drawn: Sequence[Drawn], grid: Grid, shown: int) -> str:
    """What all cells share, and how many of their pictures are there to see."""
    most = max((d.row.pictures for d in drawn), default=0)
    count = f"{most} picture{'s' * (most != 1)} a cell"
    if most > shown:
        count += f", the first {shown} shown"
    return "; ".join(part for part in (grid.constants(), count) if part)


def _mosaic(pictures: Tensor, side: int) -> Image.Image:
    columns = math.ceil(math.sqrt(len(pictures)))
    scaled = []
    for picture in to_pil(pictures):
        factor = max(1, -(-side // min(picture.size)))
        size = (picture.width * factor, picture.height * factor)
        scaled.append(picture.resize(size, Image.Resampling.NEAREST))
    width, height = scaled[0].size
    out = Image.new("RGB", (columns * width, -(-len(scaled) // columns) * height), "white")
    for i, picture in enumerate(scaled):
        out.paste(picture, (i % columns * width, i // columns * height))
    return out


def _largest(tiles: Sequence[Image.Image], side: int) -> tuple[int, int]:
    return (
        max((tile.width for tile in tiles), default=side),
        max((tile.height for tile in tiles), default=side),
    )


def _font(size: int) -> Font:
    """Pillow's own letters: the same on every machine."""
    return ImageFont.load_default(size)


def _width(text: str, font: Font) -> int:
    return math.ceil(font.getlength(text))


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Break a text into lines that fit; a single word longer than that is cut."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(longer, font) <= width:
            lines[-1] = longer
        else:
            while _width(word, font) > width:
                word = word[:-1]
            lines.append(word)
    return lines
