"""The folder of a sweep: a CSV table, the results as JSON, and the images of every cell.

Each cell is written when it is finished, images first, so that an interrupted sweep can resume.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from torch import Tensor

from glide_core.errors import GlideError, shorten
from glide_core.evaluation.sweep import Cell, CellResult, Scorer
from glide_core.evaluation.sweep_plots import tile, tile_columns
from glide_core.images import from_pil, open_image
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
_RESULTS = TypeAdapter(list[CellResult])


def to_csv(results: Iterable[CellResult], scorers: Sequence[Scorer]) -> str:
    """Format results as CSV (RFC 4180 with LF line ends): settings, then mean and standard error of
    each score; an empty field means no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    units = [f"{scorer.unit}, mean" if scorer.unit else "mean" for scorer in scorers]
    scores = [
        column
        for scorer, unit in zip(scorers, units, strict=True)
        for column in (f"{scorer.name} [{unit}]", f"{scorer.name} [standard error of the mean]")
    ]
    writer.writerow([*SETTINGS, *scores])
    for result in results:
        cell, found = result.cell, [result.scores[scorer.name] for scorer in scorers]
        values = [result.seconds, *(value for one in found for value in (one.mean, one.error))]
        writer.writerow(
            [
                *(f"{cell.guidance_scale:.12g}", f"{cell.clip_scale:.12g}", cell.steps),
                *(cell.sampler, result.count, result.evaluations),
                *("" if math.isnan(value) else f"{value:.6g}" for value in values),
            ]
        )
    return text.getvalue()


class SweepFolder:
    """The folder of a sweep: sweep.csv, sweep.json, images/<cell>.png."""

    def __init__(
        self, path: Path, scorers: Sequence[Scorer], identity: Mapping[str, Any] | None = None
    ) -> None:
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
            try:
                stored = dict(json.loads(self._state.read_text(encoding="utf-8")))
                results = _RESULTS.validate_python(stored.pop("results", []))
            except (OSError, ValueError, TypeError) as error:
                raise GlideError(
                    f"{self._state} is damaged: {shorten(error)}. Choose another folder with --out."
                ) from error
        elif self.table.exists():
            raise GlideError(
                f"{path} holds a sweep.csv without its sweep.json. Choose another folder with "
                "--out."
            )
        given = json.loads(json.dumps(identity or {}))
        shared = [key for key in stored if key in given and [] not in (stored[key], given[key])]
        if changed := [key for key in shared if stored[key] != given[key]]:
            raise GlideError(
                f"{path} holds a sweep with other {', '.join(changed)}. Only the lists of the "
                "grid may change. Choose another folder with --out."
            )
        self.identity = {**given, **stored, **{k: v for k, v in given.items() if v != []}}
        # without its images a cell is made again
        self.results = {one.cell: one for one in results if self._file(one.cell).is_file()}
        self._write()

    def add(self, result: CellResult, images: Tensor) -> None:
        """Write a finished cell; an earlier result with the same settings is replaced."""
        self.results[result.cell] = result
        with atomic_write(self._file(result.cell)) as temporary:
            tile(images).save(temporary, format="PNG")
        self._write()
        with atomic_write(self.table) as temporary:
            temporary.write_text(to_csv(self.results.values(), self.scorers), encoding="utf-8")

    def images(self, cell: Cell) -> Tensor:
        """Read the images of a cell [N, 3, H, W], rounded to 8 bits."""
        count = self.results[cell].count
        whole = from_pil(open_image(self._file(cell)))[0]  # [3, rows * H, columns * W]
        columns = tile_columns(count)
        rows = -(-count // columns)
        sides = whole.shape[1] // rows, whole.shape[2] // columns
        tiles = whole.reshape(3, rows, sides[0], columns, sides[1])
        return tiles.permute(1, 3, 0, 2, 4).flatten(0, 1)[:count]

    def _file(self, cell: Cell) -> Path:
        return self.path / "images" / f"{cell.name}.png"

    def _write(self) -> None:
        state = {**self.identity, "results": [asdict(one) for one in self.results.values()]}
        with atomic_write(self._state) as temporary:
            temporary.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
