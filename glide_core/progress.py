"""Progress bars: over sampling steps, one per stage, and over anything that is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


@contextmanager
def counting_bar(**tqdm_options: Any) -> Iterator[Callable[[int, int | None], None]]:
    """A callback that is called with what is done and the total; options are tqdm's."""
    from tqdm import tqdm

    with tqdm(**tqdm_options) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
