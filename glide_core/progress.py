"""Progress bars over sampling steps, one per stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glide_core.diffusion.types import StepInfo
    from glide_core.stages import StageCallback


@contextmanager
def step_bars(**tqdm_options: Any) -> Iterator[StageCallback]:
    """A callback that shows one bar per stage, with the time left; options are tqdm's."""
    from tqdm import tqdm

    with ExitStack() as stack:
        bars: dict[str, Any] = {}

        def step(stage: str, info: StepInfo) -> None:
            if stage not in bars:
                options = {"desc": stage, "unit": "step", "total": info.total, **tqdm_options}
                bars[stage] = stack.enter_context(tqdm(**options))
            bars[stage].update(1)

        yield step
