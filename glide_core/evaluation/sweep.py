"""A guidance sweep: the same prompts and the same noise under every combination of settings.

As in the paper's Fig. 6: guidance improves one score at the cost of another, so each combination is
a point and the best ones form a Pareto front (`sweep_plots`).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from glide_core.diffusion import Schedule, SeededNoise, sample
from glide_core.diffusion.types import Prediction, StepCallback, StepInfo
from glide_core.errors import GlideError
from glide_core.evaluation.features import FeatureExtractor, cosines, pixel_features
from glide_core.evaluation.metrics import frechet, statistics
from glide_core.evaluation.sweep_grid import Cell
from glide_core.request import GenerationRequest

if TYPE_CHECKING:
    from glide_core.pipeline import GlidePipeline

# Generates a slice of the sweep's images with the settings of a cell, as [B, 3, H, W] in [-1, 1].
Generate = Callable[[Cell, slice, StepCallback], Tensor]
AT_LIMIT = 0.999  # absolute value from which a pixel value counts as clipped


@dataclass(frozen=True)
class Scorer:
    """A score of generated images.

    score: images [B, 3, H, W] in [-1, 1] and their prompts to one value each [B], or one in all [].
    """

    name: str  # column of the CSV and axis of the plots
    score: Callable[[Tensor, Sequence[str]], Tensor]
    unit: str = ""
    higher_is_better: bool | None = True  # None: neither, so there is no Pareto front


@dataclass(frozen=True)
class Score:
    """Mean over the images of a cell and its standard error (NaN: unknown)."""

    mean: float
    error: float = math.nan


@dataclass(frozen=True)
class CellResult:
    """What was measured in one cell."""

    cell: Cell
    count: int  # images
    evaluations: int  # network evaluations per image; guidance needs two per step
    seconds: float  # sampling time per image on this machine and at this batch size
    scores: Mapping[str, Score] = field(default_factory=dict)  # by scorer name


def generate_with(
    pipe: GlidePipeline, prompts: Sequence[str], seeds: Sequence[int], negative: str, eta: float
) -> Generate:
    """Generate with a pipeline's base model; image i has prompt i and seed i in every cell."""

    def generate(cell: Cell, part: slice, callback: StepCallback) -> Tensor:
        requests = [
            GenerationRequest(
                prompt,
                negative,
                seed,
                base=cell.settings(eta),
                upsampler=None,
                clip_guidance_scale=cell.clip_scale,
            )
            for prompt, seed in zip(prompts[part], seeds[part], strict=True)
        ]
        return pipe.generate(requests, callback=lambda stage, info: callback(info))

    return generate


def sweep(
    cells: Sequence[Cell],
    generate: Generate,
    prompts: Sequence[str],
    scorers: Sequence[Scorer] = (),
    *,
    schedule: Schedule,
    batch: int = 4,
    callback: StepCallback | None = None,
) -> Iterator[tuple[CellResult, Tensor]]:
    """Generate and score every cell, one after the other; yields results and images.

    prompts: one per image. schedule: the one that the model was trained with. callback: called
    after every step; its index and total count the steps of the whole sweep.
    """
    parts = [slice(i, min(i + batch, len(prompts))) for i in range(0, len(prompts), batch)]
    costs = [cost(cell, schedule) for cell in cells]
    total = sum(steps for steps, _ in costs) * len(parts)
    index = itertools.count()

    def step(info: StepInfo) -> None:
        if callback is not None:
            callback(info._replace(index=next(index), total=total))

    for cell, (_, evaluations) in zip(cells, costs, strict=True):
        start = time.perf_counter()
        made = torch.cat([generate(cell, part, step) for part in parts])
        seconds = (time.perf_counter() - start) / len(prompts)
        scores = {scorer.name: _mean_score(scorer, made, prompts) for scorer in scorers}
        yield CellResult(cell, len(prompts), evaluations, seconds, scores), made


def cost(cell: Cell, schedule: Schedule) -> tuple[int, int]:
    """Return the number of callback calls, and of network evaluations per image.

    Samplers differ (some skip t = 0, some evaluate twice per step), so each is run on one pixel.
    """
    evaluations: list[Tensor] = []
    steps: list[StepInfo] = []

    def denoiser(x_t: Tensor, t: Tensor, /) -> Prediction:
        evaluations.append(t)
        return Prediction(torch.zeros_like(x_t), torch.zeros_like(x_t))

    with torch.inference_mode():
        sample(
            cell.sampler,
            denoiser,
            torch.zeros(1, 1, 1, 1),
            schedule.respaced(cell.steps),
            noise=SeededNoise([0]),
            callback=steps.append,
        )
    return len(steps), len(evaluations) * (1 if cell.guidance_scale == 1 else 2)


def _mean_score(scorer: Scorer, made: Tensor, prompts: Sequence[str]) -> Score:
    with torch.no_grad():
        values = scorer.score(made, prompts).double().cpu()
    if values.ndim == 0:
        return Score(float(values))
    if values.shape != (len(made),):
        raise GlideError(
            f"The scorer {scorer.name!r} returned shape {list(values.shape)} for {len(made)} "
            "images. Expected one value per image or a single value."
        )
    std = float(values.std()) if len(values) > 1 else math.nan
    return Score(float(values.mean()), std / math.sqrt(len(values)))


def clip_scorer(extractor: FeatureExtractor, device: torch.device | str = "cpu") -> Scorer:
    """Score each image by the cosine with its prompt. extractor: a CLIP on `device`."""
    if extractor.encode_text is None:
        raise GlideError(f"{extractor.name} is not a CLIP, so it cannot score prompts.")

    def score(made: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor(cosines(extractor, made.to(device), prompts))

    return Scorer(extractor.name, score, "cosine")


def diversity() -> Scorer:
    """Mean RMS difference of pixels between images of one prompt, 0 to 2; NaN without a pair."""

    def score(made: Tensor, prompts: Sequence[str]) -> Tensor:
        pairs = itertools.combinations(range(len(prompts)), 2)
        same = [(a, b) for a, b in pairs if prompts[a] == prompts[b]]
        if not same:
            return torch.tensor(math.nan)
        return torch.stack([(made[a] - made[b]).square().mean().sqrt() for a, b in same]).mean()

    return Scorer("diversity", score, "RMS pixel difference within a prompt, range -1..1")


def clipped() -> Scorer:
    """Share of pixel values at the limits of the range: oversaturation caused by guidance."""

    def score(made: Tensor, prompts: Sequence[str]) -> Tensor:
        return (made.abs() >= AT_LIMIT).float().mean(dim=(1, 2, 3))

    return Scorer("clipped", score, "share of values at -1 or 1", higher_is_better=False)


def pixel_frechet(references: Tensor, name: str = "frechet") -> Scorer:
    """Frechet distance to reference images [N, 3, H, W] over 8x8 mean colours.

    Measures colour and layout, not detail, without a network. With fewer than about 200 images it
    is biased upwards: compare it only at equal counts.
    """
    pixels = pixel_features(8)
    reference = statistics(pixels.encode_image(references))

    def score(made: Tensor, prompts: Sequence[str]) -> Tensor:
        if len(made) < 2:
            return torch.tensor(math.nan)
        return torch.tensor(frechet(statistics(pixels.encode_image(made)), reference).value)

    return Scorer(name, score, "Frechet distance of 8x8 pixels", higher_is_better=False)
