"""A sweep in a folder: rows as CSV, pictures of every cell, and what they all have in common.

Each cell is written when it is done, pictures first, so that a stopped sweep goes on where it was.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glide_core.errors import GlideError
from glide_core.evaluation.sweep import Drawn, Measure, Row, Score
from glide_core.evaluation.sweep_grid import Cell
from glide_core.images import from_pil, open_image, to_pil
from glide_core.io import atomic_write

# Names with their units, as the header has them.
SETTINGS = (
    "guidance_scale [1 is off]",
    "clip_scale [0 is off]",
    "steps [number or respacing]",
    "sampler",
    "pictures",
    "evaluations [of the network per picture]",
    "time [s per picture]",
)


def header(measures: Sequence[Measure]) -> list[str]:
    """Columns of the CSV: settings, then each measure's mean and the standard error of it."""
    columns = list(SETTINGS)
    for measure in measures:
        unit = f"{measure.unit}, mean" if measure.unit else "mean"
        columns += [f"{measure.name} [{unit}]", f"{measure.name} [standard error of the mean]"]
    return columns


def to_csv(rows: Sequence[Row], measures: Sequence[Measure]) -> str:
    """Rows as CSV, RFC 4180 but for line ends of one character; an empty field is no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header(measures))
    for row in rows:
        cell = row.cell
        values: list[Any] = [_text(cell.guidance_scale, 12), _text(cell.clip_scale, 12)]
        values += [cell.steps, cell.sampler, row.pictures, row.evaluations, _text(row.seconds)]
        for measure in measures:
            score = row.scores[measure.name]
            values += [_text(score.mean), _text(score.error)]
        writer.writerow(values)
    return text.getvalue()


def from_csv(text: str, measures: Sequence[Measure], where: str) -> list[Row]:
    """Read what `to_csv` wrote with the same measures; GlideError names `where` otherwise."""
    lines = list(csv.reader(io.StringIO(text)))
    if not lines or lines[0] != header(measures):
        raise GlideError(
            f"{where} is not the table of this sweep: its columns differ. Expected "
            f"{', '.join(header(measures))}. Use the same --scorer options, or another folder."
        )
    try:
        return [_row(line, measures) for line in lines[1:]]
    except (ValueError, IndexError) as error:
        raise GlideError(
            f"{where} is damaged: {error}. Expected the rows that the sweep wrote. Remove the "
            "broken line, and that cell is drawn again."
        ) from error


@dataclass(frozen=True)
class SweepFolder:
    """Where a sweep is kept: sweep.csv, sweep.json, pictures/<cell>.png."""

    path: Path
    measures: tuple[Measure, ...]

    @property
    def table(self) -> Path:
        return self.path / "sweep.csv"

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Claim the folder for a sweep, or find that it holds the same one.

        identity: all that makes rows comparable (prompts, seeds, models' hashes, scorers); the grid
        is not in it, so that a sweep can grow. An empty list (the CLIP of a sweep that none guides)
        agrees with any. GlideError when another sweep is there.
        """
        file, now = self.path / "sweep.json", json.loads(json.dumps(identity))
        if not file.exists():
            if self.table.exists():
                raise GlideError(
                    f"{self.path} holds a sweep.csv without its sweep.json. Expected an empty "
                    "folder or an earlier sweep. Choose another with --out."
                )
            before = {}
        else:
            before = self._identity(file)
        keys = [k for k in before if k in now and [] not in (before[k], now[k])]
        keys = [k for k in keys if before[k] != now[k]]
        if keys:
            raise GlideError(
                f"{self.path} holds a sweep with other {', '.join(keys)}. Expected the same, so "
                "that the rows compare: only the grid may grow. Choose another folder with --out."
            )
        merged = {**before, **{k: v for k, v in now.items() if v != [] or k not in before}}
        if merged != before:
            with atomic_write(file) as temporary:
                temporary.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")

    def _identity(self, file: Path) -> dict[str, Any]:
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise GlideError(
                f"{file} cannot be read: {error}. Expected what an earlier sweep wrote. Choose "
                "another folder with --out."
            ) from error

    def rows(self) -> list[Row]:
        """Give the rows whose pictures are there too."""
        if not self.table.exists():
            return []
        text = self.table.read_text(encoding="utf-8")
        found = from_csv(text, self.measures, str(self.table))
        return [row for row in found if self._pictures(row.cell).is_file()]

    def add(self, drawn: Drawn) -> None:
        """Write a cell that is done; one of the same settings is replaced."""
        rows = [row for row in self.rows() if row.cell != drawn.row.cell]
        path = self._pictures(drawn.row.cell)
        with atomic_write(path) as temporary:
            _tile(drawn.pictures).save(temporary, format="PNG")
        with atomic_write(self.table) as temporary:
            temporary.write_text(to_csv([*rows, drawn.row], self.measures), encoding="utf-8")

    def pictures(self, row: Row) -> Tensor:
        """Read a cell's pictures [N, 3, H, W], to 8 bits."""
        path = self._pictures(row.cell)
        whole = from_pil(open_image(path))  # [1, 3, rows * H, columns * W]
        columns = _columns(row.pictures)
        width = whole.shape[3] // columns
        height = whole.shape[2] // -(-row.pictures // columns)
        tiles = [
            whole[..., top : top + height, left : left + width]
            for top in range(0, whole.shape[2], max(1, height))
            for left in range(0, whole.shape[3], max(1, width))
        ]
        return torch.cat(tiles[: row.pictures])

    def _pictures(self, cell: Cell) -> Path:
        return self.path / "pictures" / f"{cell.name}.png"


def _text(value: float, digits: int = 6) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}g}"


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _row(line: list[str], measures: Sequence[Measure]) -> Row:
    guidance, clip, steps, sampler, pictures, evaluations, seconds, *rest = line
    if len(rest) != 2 * len(measures):
        raise ValueError(f"a line has {len(line)} fields")
    scores = {
        measure.name: Score(_number(rest[2 * i]), _number(rest[2 * i + 1]))
        for i, measure in enumerate(measures)
    }
    cell = Cell(float(guidance), float(clip), steps, sampler)
    return Row(cell, int(pictures), int(evaluations), _number(seconds), scores)


def _columns(pictures: int) -> int:
    return math.ceil(math.sqrt(pictures))


def _tile(pictures: Tensor) -> Any:
    """All pictures of a cell as one image, in a near square of them."""
    from PIL import Image

    columns = _columns(len(pictures))
    height, width = pictures.shape[2:]
    image = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height))
    for i, picture in enumerate(to_pil(pictures)):
        image.paste(picture, (i % columns * width, i // columns * height))
    return image
