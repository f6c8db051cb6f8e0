"""The files of a sweep: a CSV table, the images of every cell, and a labelled grid of them.

Each cell is written when it is finished, images first, so that an interrupted sweep can resume.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from glide_core.errors import GlideError
from glide_core.evaluation.sweep import CellResult, Score, Scorer
from glide_core.evaluation.sweep_grid import AXES, Cell, Grid
from glide_core.images import from_pil, open_image, to_pil
from glide_core.io import atomic_write

SETTINGS = (
    "guidance_scale [1 is off]",
    "clip_scale [0 is off]",
    "steps [number or respacing]",
    "sampler",
    "images",
    "evaluations [of the network per image]",
    "time [s per image]",
)
GAP = 8  # pixels between cells and around text
MIN_WIDTH = 420  # pixels of the whole grid, so that the title is readable
FONT_SIZE = 16


def header(scorers: Sequence[Scorer]) -> list[str]:
    """Return the columns of the CSV: settings, then mean and standard error of each score."""
    columns = list(SETTINGS)
    for scorer in scorers:
        unit = f"{scorer.unit}, mean" if scorer.unit else "mean"
        columns += [f"{scorer.name} [{unit}]", f"{scorer.name} [standard error of the mean]"]
    return columns


def to_csv(results: Sequence[CellResult], scorers: Sequence[Scorer]) -> str:
    """Format results as CSV (RFC 4180 with LF line ends); an empty field means no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header(scorers))
    for result in results:
        cell = result.cell
        row: list[Any] = [f"{cell.guidance_scale:.12g}", f"{cell.clip_scale:.12g}"]
        row += [cell.steps, cell.sampler, result.count, result.evaluations, _text(result.seconds)]
        for scorer in scorers:
            score = result.scores[scorer.name]
            row += [_text(score.mean), _text(score.error)]
        writer.writerow(row)
    return text.getvalue()


def from_csv(text: str, scorers: Sequence[Scorer], where: str) -> list[CellResult]:
    """Read what `to_csv` wrote with the same scorers; GlideError names `where` otherwise."""
    lines = list(csv.reader(io.StringIO(text)))
    if not lines or lines[0] != header(scorers):
        raise GlideError(
            f"{where} has other columns than this sweep: {', '.join(header(scorers))}. Use the "
            "same --scorer options or another folder."
        )
    try:
        return [_result(line, scorers) for line in lines[1:]]
    except (ValueError, IndexError) as error:
        raise GlideError(
            f"{where} is damaged: {error}. Remove the broken line to generate that cell again."
        ) from error


@dataclass(frozen=True)
class SweepFolder:
    """The folder of a sweep: sweep.csv, sweep.json, images/<cell>.png."""

    path: Path
    scorers: tuple[Scorer, ...]

    @property
    def table(self) -> Path:
        return self.path / "sweep.csv"

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Start a sweep in the folder, or check that the folder holds the same one.

        identity: everything that makes rows comparable (prompts, seeds, model hashes, scorers). The
        grid is not included, so that a sweep can be extended. An empty list (no CLIP in use yet)
        agrees with any value. GlideError if the folder holds another sweep.
        """
        file, given = self.path / "sweep.json", json.loads(json.dumps(identity))
        stored: dict[str, Any] = {}
        if file.exists():
            try:
                stored = dict(json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise GlideError(
                    f"{file} cannot be read: {error}. Choose another folder with --out."
                ) from error
        elif self.table.exists():
            raise GlideError(
                f"{self.path} holds a sweep.csv without its sweep.json. Choose another folder with "
                "--out."
            )
        shared = [key for key in stored if key in given and [] not in (stored[key], given[key])]
        if changed := [key for key in shared if stored[key] != given[key]]:
            raise GlideError(
                f"{self.path} holds a sweep with other {', '.join(changed)}. Only the lists of the "
                "grid may change. Choose another folder with --out."
            )
        merged = {**stored, **{k: v for k, v in given.items() if v != [] or k not in stored}}
        if merged != stored:
            with atomic_write(file) as temporary:
                temporary.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")

    def results(self) -> list[CellResult]:
        """Return the stored results whose images exist too, without the images."""
        if not self.table.exists():
            return []
        found = from_csv(self.table.read_text(encoding="utf-8"), self.scorers, str(self.table))
        return [result for result in found if self._file(result.cell).is_file()]

    def add(self, result: CellResult) -> None:
        """Write a finished cell; an earlier result with the same settings is replaced."""
        assert result.images is not None
        others = [one for one in self.results() if one.cell != result.cell]
        with atomic_write(self._file(result.cell)) as temporary:
            tiled = _tile(result.images.float().cpu())
            to_pil(tiled[None])[0].save(temporary, format="PNG")
        with atomic_write(self.table) as temporary:
            table = to_csv([*others, result], self.scorers)
            temporary.write_text(table, encoding="utf-8")

    def images(self, result: CellResult) -> Tensor:
        """Read the images of a cell [N, 3, H, W], rounded to 8 bits."""
        whole = from_pil(open_image(self._file(result.cell)))[0]  # [3, rows * H, columns * W]
        columns = _columns(result.count)
        rows = -(-result.count // columns)
        sides = whole.shape[1] // rows, whole.shape[2] // columns
        tiles = whole.reshape(3, rows, sides[0], columns, sides[1])
        return tiles.permute(1, 3, 0, 2, 4).flatten(0, 1)[: result.count]

    def _file(self, cell: Cell) -> Path:
        return self.path / "images" / f"{cell.name}.png"


def image_grid(
    results: Sequence[CellResult],
    grid: Grid,
    *,
    title: str = "",
    shown: int = 4,
    min_side: int = 128,
) -> Image.Image:
    """Arrange the images of a grid with their settings as labels, as one RGB image.

    Columns are the first axis with several values, rows all others. A cell without a result stays
    white. shown: most images per cell. min_side: small images are enlarged to at least this many
    pixels, by a whole factor.
    """
    from torchvision.utils import make_grid

    font = ImageFont.load_default(FONT_SIZE)
    across, down = grid.first_axis, grid.other_axes
    base = grid.cells()[0]
    columns = [_with(base, {across: value}) for value in grid.values(across)]
    values = itertools.product(*(grid.values(axis) for axis in down))
    rows = [_with(base, dict(zip(down, v, strict=True))) for v in values]
    above = [cell.label(across) for cell in columns]
    beside = [[cell.label(axis) for axis in down] for cell in rows]
    left = max((math.ceil(font.getlength(text)) for labels in beside for text in labels), default=0)
    line = round(FONT_SIZE * 1.4)

    tiles = {r.cell: _enlarged(r.images[:shown], min_side) for r in results if r.images is not None}
    widths = [tile.shape[2] for tile in tiles.values()]
    heights = [tile.shape[1] for tile in tiles.values()]
    width = max(widths + [math.ceil(font.getlength(text)) for text in above])
    height = max([*heights, len(down) * line])
    empty = torch.ones(3, height, width)
    cells = [_with(row, {across: getattr(col, across)}) for row in rows for col in columns]
    padded = torch.stack([_padded(tiles.get(cell, empty), height, width) for cell in cells])
    body = to_pil(make_grid(padded, len(columns), padding=GAP, pad_value=1.0)[None])[0]

    total = max(MIN_WIDTH, left + body.width + GAP)
    most = max((r.count for r in results), default=0)
    count = f"{most} image{'s' * (most != 1)} per cell"
    count += f", the first {shown} shown" if most > shown else ""
    notes = "; ".join(part for part in (grid.constants(), count) if part)
    characters = 2 * total // FONT_SIZE  # per line: wide letters are wider than half the height
    heading = [t for part in (title, notes) for t in textwrap.wrap(part, characters - 4)]
    top = GAP + len(heading) * line
    out = Image.new("RGB", (total, top + line + body.height), "white")
    out.paste(body, (left + GAP, top + line))
    pen = ImageDraw.Draw(out)
    for i, text in enumerate(heading):
        pen.text((GAP, GAP + i * line), text, fill="black", font=font)
    for i, text in enumerate(above):
        middle = left + 2 * GAP + i * (width + GAP) + width / 2
        pen.text((middle, top), text, fill="black", font=font, anchor="ma")
    for i, labels in enumerate(beside):
        corner = top + line + GAP + i * (height + GAP)
        for k, part in enumerate(labels):
            pen.text((GAP, corner + k * line), part, fill="black", font=font)
    return out


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _result(line: list[str], scorers: Sequence[Scorer]) -> CellResult:
    guidance, clip, steps, sampler, count, evaluations, seconds, *rest = line
    if len(rest) != 2 * len(scorers):
        raise ValueError(f"a line has {len(line)} fields")
    values = [float(text) if text else math.nan for text in (seconds, *rest)]
    scores = {s.name: Score(*values[1 + 2 * i : 3 + 2 * i]) for i, s in enumerate(scorers)}
    cell = Cell(float(guidance), float(clip), steps, sampler)
    return CellResult(cell, int(count), int(evaluations), values[0], scores)


def _columns(count: int) -> int:
    return math.ceil(math.sqrt(count))


def _tile(cell_images: Tensor) -> Tensor:
    """Arrange images [N, 3, H, W] as one image [3, rows * H, columns * W], almost square."""
    from torchvision.utils import make_grid

    tiled: Tensor = make_grid(cell_images, _columns(len(cell_images)), padding=0, pad_value=1.0)
    return tiled


def _enlarged(cell_images: Tensor, min_side: int) -> Tensor:
    factor = max(1, -(-min_side // min(cell_images.shape[2:])))
    return _tile(F.interpolate(cell_images.float().cpu(), scale_factor=factor, mode="nearest"))


def _padded(tile: Tensor, height: int, width: int) -> Tensor:
    """Pad a tile with white: at the bottom, and equally at both sides."""
    spare = width - tile.shape[2]
    sides = (spare // 2, spare - spare // 2, 0, height - tile.shape[1])
    return F.pad(tile, sides, value=1.0)


def _with(cell: Cell, changes: dict[str, Any]) -> Cell:
    return Cell(**{axis: changes.get(axis, getattr(cell, axis)) for axis in AXES})
