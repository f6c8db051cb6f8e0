"""Progress bars: over sampling steps, one per stage, and over anything that is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glide_core.diffusion.types import StepInfo
    from glide_core.stages import StageCallback


@contextmanager
def step_bars(**tqdm_options: Any) -> Iterator[StageCallback]:
    """A callback that shows one bar per stage, with the time left; options are tqdm's."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}
    with ExitStack() as stack:

        def step(stage: str, info: StepInfo) -> None:
            if stage not in bars:
                stack.close()  # the bar of the stage before
                options = {"desc": stage, "unit": "step", "total": info.total, **tqdm_options}
                bars[stage] = stack.enter_context(tqdm(**options))
            bars[stage].update(1)

        yield step


@contextmanager
def counting_bar(**tqdm_options: Any) -> Iterator[Callable[[int, int | None], None]]:
    """A callback that is called with what is done and the total; options are tqdm's."""
    from tqdm import tqdm

    with tqdm(**tqdm_options) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
