"""What a run writes down: log.csv, and TensorBoard's events where they are asked for."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from glide_core.errors import GlideError
from glide_core.io import atomic_write


class Log:
    """Rows of figures by step. A resumed run first takes out what came after its checkpoint."""

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False) -> None:
        self.path = folder / "log.csv"
        self._events = _summary_writer(folder, step) if tensorboard else None
        self._columns = self._cut(step)

    def row(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a row of figures to both logs."""
        row = {"step": step, **figures}
        fresh = self._columns != list(row)
        if fresh and self._columns:  # another version's columns: start anew beside them
            self.path.rename(self.path.with_name(f"log_before_{step}.csv"))
        self._columns = list(row)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(name, value, step)

    def picture(self, step: int, grid: Tensor) -> None:
        """Show a sample grid, uint8 [H, W, C], in TensorBoard."""
        if self._events is not None:
            self._events.add_image("samples", grid, step, dataformats="HWC")

    def close(self) -> None:
        if self._events is not None:
            self._events.close()

    def _cut(self, step: int) -> list[str]:
        """Drop rows after `step`; gives the columns that the file has."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        if not rows:
            return []
        kept = [row for row in rows[1:] if row and row[0].isdigit() and int(row[0]) <= step]
        with atomic_write(self.path) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows([rows[0], *kept])
        return rows[0]


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise GlideError(
            "--tensorboard needs the package tensorboard, which is not installed. Get it with "
            "`pip install tensorboard`, or leave --tensorboard out: log.csv holds the same figures."
        ) from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
