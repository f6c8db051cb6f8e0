"""Progress bars over sampling steps, one per stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glide_core.diffusion.types import StepInfo
    from glide_core.stages import StageCallback


@contextmanager
def step_bars(**tqdm_options: Any) -> Iterator[StageCallback]:
    """A callback that shows one bar per stage, with the time left; options are tqdm's."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def close() -> None:
        for bar in bars.values():
            bar.close()

    def step(stage: str, info: StepInfo) -> None:
        if stage not in bars:
            close()
            options = {"desc": stage, "unit": "step", "total": info.total, **tqdm_options}
            bars[stage] = tqdm(**options)
        bars[stage].update(1)

    try:
        yield step
    finally:
        close()
