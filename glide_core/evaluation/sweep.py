"""A guidance sweep: the same prompts and the same noise under every combination of settings.

As the paper's Fig. 6: what guidance gains in one measure it pays for in another, so that each
setting is a point, and the best of them are a front (`plots`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from glide_core.diffusion import Schedule, SeededNoise, sample
from glide_core.diffusion.types import Prediction, StepCallback, StepInfo
from glide_core.errors import GlideError
from glide_core.evaluation.sweep_grid import Cell, Grid
from glide_core.guidance import noisy_clip_guide
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from glide_core.sampling import model_schedule
from glide_core.stages import text_to_image

# Pictures [B, 3, H, W] in [-1, 1] and their prompts to one value each [B], or to one of all [].
Scorer = Callable[[Tensor, Sequence[str]], Tensor]
# Draws a slice of the sweep's pictures with a cell's settings, as [B, 3, H, W].
Draw = Callable[[Cell, slice, StepCallback | None], Tensor]


@dataclass(frozen=True)
class Measure:
    """A scorer, and what its number means."""

    name: str  # column of the CSV and axis of the plots
    score: Scorer
    unit: str = ""
    higher_is_better: bool | None = True  # None: neither, so that it makes no Pareto front


@dataclass(frozen=True)
class Score:
    """A cell's value: the mean over its pictures and that mean's standard error (NaN: none)."""

    mean: float
    error: float = math.nan


@dataclass(frozen=True)
class Row:
    """What is known of one cell."""

    cell: Cell
    pictures: int
    evaluations: int  # of the network, for one picture: guidance takes two a step
    seconds: float  # of drawing, for one picture, on the machine and batch that it ran on
    scores: dict[str, Score] = field(default_factory=dict)  # by the measures' names


@dataclass(frozen=True)
class Drawn:
    """A cell's row with its pictures [N, 3, H, W] in [-1, 1], in the order of the prompts."""

    row: Row
    pictures: Tensor


def sweep(
    model: GlideModel,
    prompts: Sequence[str],
    grid: Grid,
    *,
    seeds: Sequence[int],
    measures: Sequence[Measure] = (),
    clip: NoisyClip | None = None,
    negative: str = "",
    eta: float = 0.0,
    batch: int = 4,
    done: Sequence[Cell] = (),
    callback: StepCallback | None = None,
) -> Iterator[Drawn]:
    """Draw and score every cell of the grid but those in `done`, one after the other.

    prompts, seeds: one picture each, the same in every cell: picture i is what `text_to_image`
        draws of prompt i from seed i. clip: pulls each picture towards its own prompt where a cell
        has a clip_scale. callback: told of every step; its index and total count the whole sweep.
    GlideError before anything is drawn for what cannot be.
    """
    if len(prompts) != len(seeds) or not seeds:
        raise GlideError(
            f"{len(prompts)} prompts for {len(seeds)} seeds: expected one seed per prompt, and "
            "one or more"
        )
    if clip is None and any(scale > 0 for scale in grid.clip_scales):
        raise GlideError(
            "the sweep has a CLIP scale above 0 and no CLIP: expected a noisy CLIP. Give one, or "
            "set the scale to 0"
        )
    text = None
    if clip is not None:
        with torch.no_grad():
            text = clip.encode_prompts(list(prompts)).to(model.device)

    def draw(cell: Cell, wanted: slice, step: StepCallback | None) -> Tensor:
        guide = None
        if clip is not None and text is not None and cell.clip_scale > 0:
            guide = noisy_clip_guide(clip, text[wanted], cell.clip_scale)
        return text_to_image(
            model,
            prompts[wanted],
            seeds=seeds[wanted],
            negative=negative,
            settings=cell.settings(eta),
            cond_fn=guide,
            callback=step,
        )

    return run_cells(
        [cell for cell in grid.cells() if cell not in set(done)],
        draw,
        prompts,
        schedule=model_schedule(model.config),
        measures=measures,
        batch=batch,
        callback=callback,
    )


def run_cells(
    cells: Sequence[Cell],
    draw: Draw,
    prompts: Sequence[str],
    *,
    schedule: Schedule,
    measures: Sequence[Measure] = (),
    batch: int = 4,
    callback: StepCallback | None = None,
) -> Iterator[Drawn]:
    """Draw the cells by any means and score them; `sweep` for a host with models of its own.

    prompts: one a picture. schedule: the one that the model was trained on.
    """
    names = [measure.name for measure in measures]
    if len(set(names)) < len(names):
        raise GlideError(f"two measures have one name among {', '.join(names)}: name them apart")
    parts = [slice(i, min(i + batch, len(prompts))) for i in range(0, len(prompts), batch)]
    costs = [cost(cell, schedule) for cell in cells]
    step = None
    if callback is not None:
        step = _of_the_whole(callback, sum(steps for steps, _ in costs) * len(parts))

    def drawn() -> Iterator[Drawn]:  # what is wrong above is said before the first is asked for
        for cell, (_, evaluations) in zip(cells, costs, strict=True):
            start = time.perf_counter()
            pictures = torch.cat([draw(cell, part, step) for part in parts])
            seconds = (time.perf_counter() - start) / len(prompts)
            scores = {m.name: _score(m, pictures, prompts) for m in measures}
            yield Drawn(Row(cell, len(prompts), evaluations, seconds, scores), pictures)

    return drawn()


def cost(cell: Cell, schedule: Schedule) -> tuple[int, int]:
    """Steps that a callback is told of, and evaluations of the network for one picture.

    Samplers differ: some leave t = 0 out, some ask twice a step. So each is asked, on one pixel.
    """
    asked, told = count(), count()

    def hear(info: StepInfo) -> None:
        next(told)

    def nothing(x_t: Tensor, t: Tensor, /) -> Prediction:
        next(asked)
        return Prediction(torch.zeros_like(x_t), torch.zeros_like(x_t))

    settings = cell.settings()
    with torch.inference_mode():
        sample(
            settings.sampler,
            nothing,
            torch.zeros(1, 1, 1, 1),
            schedule.respaced(settings.respacing),
            noise=SeededNoise([0]),
            callback=hear,
        )
    branches = 1 if cell.guidance_scale == 1 else 2
    return next(told), next(asked) * branches


def _of_the_whole(callback: StepCallback, total: int) -> StepCallback:
    """Number the steps through all the runs of a sweep, so that one bar shows them all."""
    index = count()

    def step(info: StepInfo) -> None:
        callback(info._replace(index=next(index), total=total))

    return step


def _score(measure: Measure, pictures: Tensor, prompts: Sequence[str]) -> Score:
    with torch.no_grad():
        values = measure.score(pictures, prompts).double().cpu()
    if values.ndim == 0:
        return Score(float(values))
    if values.shape != (len(pictures),):
        raise GlideError(
            f"the measure {measure.name!r} gave values of shape {list(values.shape)} for "
            f"{len(pictures)} pictures: expected one each, or one number"
        )
    spread = float(values.std()) if len(values) > 1 else math.nan
    return Score(float(values.mean()), spread / math.sqrt(len(values)))
