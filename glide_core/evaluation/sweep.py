"""A guidance sweep (paper, Fig. 6): one list of prompts and one noise under many settings.

Every combination of settings is a cell.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from glide_core import text_values
from glide_core.config import SamplerConfig
from glide_core.diffusion import Schedule, SeededNoise, sample
from glide_core.diffusion.schedule import space_timesteps
from glide_core.diffusion.types import Prediction, StepCallback, StepInfo
from glide_core.errors import GlideError, UsageError, shorten
from glide_core.evaluation.features import cosines, load_extractor, pixel_features
from glide_core.evaluation.image_set import find_images, read_features
from glide_core.evaluation.metrics import frechet, statistics
from glide_core.names import TRAINED_STEPS
from glide_core.request import GenerationRequest

if TYPE_CHECKING:
    from glide_core.pipeline import GlidePipeline

AXES = ("guidance_scale", "clip_scale", "steps", "sampler")  # fields of Cell


@dataclass(frozen=True)
class Cell:
    """One combination of settings."""

    guidance_scale: float = 3.0  # classifier-free; 1 is off
    clip_scale: float = 0.0  # of the CLIP gradient; 0 is off
    steps: str = "30"  # a number of steps or a respacing string such as "fast27"
    sampler: str = "ddim"

    def settings(self, eta: float = 0.0) -> SamplerConfig:
        """Return the sampler configuration; it does not include CLIP guidance."""
        return SamplerConfig(
            respacing=self.steps, sampler=self.sampler, eta=eta, guidance_scale=self.guidance_scale
        )

    def label(self, axis: str) -> str:
        """Return one setting as a short text: 'cfg 3', 'clip 0.5', '30 steps', 'fast27', 'ddim'."""
        if axis == "guidance_scale":
            return f"cfg {self.guidance_scale:g}"
        if axis == "clip_scale":
            return f"clip {self.clip_scale:g}"
        value = str(getattr(self, axis))
        return f"{value} steps" if value.isdigit() else value

    @property
    def name(self) -> str:
        """The stem of a file name: 'cfg3_clip0_steps30_ddim'."""
        steps = self.steps.replace(",", "-")
        scales = f"cfg{self.guidance_scale:.12g}_clip{self.clip_scale:.12g}"
        return f"{scales}_steps{steps}_{self.sampler}"


# Generates a slice of the sweep's images with the settings of a cell, as [B, 3, H, W] in [-1, 1].
Generate = Callable[[Cell, slice, StepCallback], Tensor]


@dataclass(frozen=True)
class Scorer:
    """A score of generated images.

    score: images [B, 3, H, W] in [-1, 1] and their prompts to one value each [B], or one in all [].
    """

    name: str  # column of the CSV and axis of the plots
    score: Callable[[Tensor, Sequence[str]], Tensor]
    unit: str
    higher_is_better: bool | None = True  # None: neither; its plot has then no Pareto front


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
    scores: Mapping[str, Score]  # by scorer name


def varying(cells: Iterable[Cell]) -> list[str]:
    """The axes with several values. The first one gives the columns of the image grid and the
    curves of the plots, the others rows and colours."""
    values = zip(*map(astuple, cells), strict=True)
    return [axis for axis, found in zip(AXES, values, strict=False) if len(set(found)) > 1]


def combinations(values: Iterable[Sequence[Any]]) -> list[Cell]:
    """Every combination of values of the four axes; the last axis varies fastest."""
    return [Cell(*chosen) for chosen in itertools.product(*values)]


def read_list(axis: str, text: str, name: str) -> tuple[Any, ...]:
    """Read '1, 2, 3.5' as values of an axis; GlideError begins with `name`.

    Respacing sections contain commas ('10,10,3,2,2'): if the text contains a semicolon, semicolons
    separate the entries.
    """
    parts = [part.strip() for part in text.split(";" if ";" in text else ",")]
    if parts[-1] == "":
        parts.pop()  # a trailing comma is allowed
    try:
        if not parts or "" in parts:
            raise GlideError(f"{shorten(repr(text))} is not a list of values separated by commas")
        found = tuple(_read_value(axis, part) for part in parts)
        if twice := [one for one in found if found.count(one) > 1]:
            raise GlideError(f"{twice[0]} is listed twice")
    except GlideError as error:
        raise GlideError(f"{name}: {error}") from error
    return found


def _read_value(axis: str, part: str) -> Any:
    if axis == "sampler":
        return text_values.sampler(part)
    if axis == "steps":
        spec = part.replace(" ", "")
        space_timesteps(TRAINED_STEPS, spec)
        return str(int(spec)) if spec.isdigit() else spec
    return text_values.real(0, 1000)(part)


def generate_with(
    pipe: GlidePipeline, requests: Sequence[GenerationRequest], eta: float = 0.0
) -> Generate:
    """Generate the images of requests without an upsampler, with the settings of a cell."""

    def generate(cell: Cell, part: slice, callback: StepCallback) -> Tensor:
        base, scale = cell.settings(eta), cell.clip_scale
        batch = [replace(one, base=base, clip_guidance_scale=scale) for one in requests[part]]
        return pipe.generate(batch, callback=lambda stage, info: callback(info))

    return generate


def sweep(
    cells: Sequence[Cell],
    generate: Generate,
    prompts: Sequence[str],
    scorers: Sequence[Scorer] = (),
    *,
    schedule: Schedule,
    batch: int = 4,
    callback: StepCallback = lambda info: None,
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
    pixel, noise = torch.zeros(1, 1, 1, 1), SeededNoise([0])
    respaced = schedule.respaced(cell.steps)

    def denoiser(x_t: Tensor, t: Tensor, /) -> Prediction:
        evaluations.append(t)
        return Prediction(pixel, pixel)

    with torch.inference_mode():
        sample(cell.sampler, denoiser, pixel, respaced, noise=noise, callback=steps.append)
    return len(steps), len(evaluations) * (1 if cell.guidance_scale == 1 else 2)


def _mean_score(scorer: Scorer, made: Tensor, prompts: Sequence[str]) -> Score:
    with torch.no_grad():
        values = scorer.score(made, prompts).double().cpu()
    if values.ndim == 0:
        return Score(float(values))
    if len(values) != len(made):
        raise GlideError(f"{scorer.name} gave {len(values)} scores for {len(made)} images.")
    std = float(values.std()) if len(values) > 1 else math.nan
    return Score(float(values.mean()), std / math.sqrt(len(values)))


def _diversity(made: Tensor, prompts: Sequence[str]) -> Tensor:
    """Mean RMS difference of pixels between images of one prompt, 0 to 2; NaN without a pair."""
    pairs = itertools.combinations(range(len(prompts)), 2)
    same = [(a, b) for a, b in pairs if prompts[a] == prompts[b]]
    if not same:
        return torch.tensor(math.nan)
    return torch.stack([(made[a] - made[b]).square().mean().sqrt() for a, b in same]).mean()


def _clipped(made: Tensor, prompts: Sequence[str]) -> Tensor:
    """Share of pixel values at the limits of the range: oversaturation caused by guidance."""
    return (made.abs() >= 0.999).float().mean(dim=(1, 2, 3))


DIVERSITY = Scorer("diversity", _diversity, "RMS pixel difference within a prompt, range -1..1")
CLIPPED = Scorer("clipped", _clipped, "share of values at -1 or 1", higher_is_better=False)


def load_scorer(spec: str, *, device: torch.device | str = "cpu") -> Scorer:
    """Load the scorer that a specification names. Nothing is downloaded.

    spec: diversity, clipped, clip:... or open_clip:... (cosine of each image with its prompt, see
        `load_extractor`), or frechet:FOLDER (Frechet distance to the images of a folder over 8x8
        mean colours: colour and layout without detail. With fewer than about 200 images it is
        biased upwards: compare it only at equal counts).
    """
    kind, _, rest = spec.partition(":")
    if kind in ("clip", "open_clip") and rest:
        extractor = load_extractor(spec, device=device)
        return Scorer(extractor.name, partial(cosines, extractor), "cosine")
    if kind == "frechet" and rest:
        pixels = pixel_features(8)
        reference = read_features(pixels, find_images(rest, crop="none", size=64)).statistics

        def score(made: Tensor, prompts: Sequence[str]) -> Tensor:
            if len(made) < 2:
                return torch.tensor(math.nan)
            return torch.tensor(frechet(statistics(pixels.encode_image(made)), reference).value)

        return Scorer(spec, score, "Frechet distance of 8x8 pixels", higher_is_better=False)
    for scorer in (DIVERSITY, CLIPPED):
        if spec == scorer.name:
            return scorer
    raise UsageError(
        f"Unknown scorer {shorten(spec)!r}. Allowed: clip:bundled, clip:MODEL, "
        "open_clip:ARCHITECTURE:FILE_OR_TAG, diversity, clipped, frechet:FOLDER.",
        "scorer",
    )
