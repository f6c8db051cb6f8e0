"""Measures that a sweep can take of its pictures; any other callable serves as well."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glide_core.errors import GlideError
from glide_core.evaluation.sweep import Measure
from glide_core.guidance.score import noisy_clip_scores, open_clip_scores
from glide_core.images import from_pil, open_image
from glide_core.models.noisy_clip import NoisyClip

AT_THE_END = 0.999  # of the range [-1, 1]: what clipping left there
SIDE = 8  # of the squares that the pixel distance compares
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def clip_similarity(clip: NoisyClip, name: str = "clip") -> Measure:
    """Cosine of each picture with its prompt, by a noisy CLIP at t = 0."""
    device = next(clip.parameters()).device

    def score(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return by_prompt(lambda p, text: noisy_clip_scores(clip, p.to(device), text))(
            pictures, prompts
        )

    return Measure(name, score, "cosine")


def open_clip_similarity(
    model: nn.Module, tokenizer: Callable[[list[str]], Tensor], name: str = "open_clip"
) -> Measure:
    """Cosine of each picture with its prompt, by an open_clip model."""
    device = next(model.parameters()).device

    def score(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return by_prompt(lambda p, text: open_clip_scores(model, tokenizer, p.to(device), text))(
            pictures, prompts
        )

    return Measure(name, score, "cosine")


def by_prompt(
    scores: Callable[[Tensor, str], list[float]],
) -> Callable[[Tensor, Sequence[str]], Tensor]:
    """Make a scorer of a function of pictures and one text: each prompt is encoded once."""

    def score(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        values = torch.zeros(len(pictures))
        for text in dict.fromkeys(prompts):
            rows = torch.tensor([i for i, prompt in enumerate(prompts) if prompt == text])
            values[rows] = torch.tensor(scores(pictures[rows], text))
        return values

    return score


def diversity() -> Measure:
    """Mean distance between pictures of one prompt: root mean square difference of pixels, 0 to 2.

    NaN where no prompt has two pictures.
    """

    def score(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        same = [
            (a, b)
            for a, b in itertools.combinations(range(len(prompts)), 2)
            if prompts[a] == prompts[b]
        ]
        if not same:
            return torch.tensor(math.nan)
        distances = [(pictures[a] - pictures[b]).square().mean().sqrt() for a, b in same]
        return torch.stack(distances).mean()

    return Measure("diversity", score, "rms pixel difference within a prompt, range -1..1")


def clipped() -> Measure:
    """Share of each picture's values at the end of their range: what burns out under guidance."""

    def score(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return (pictures.abs() >= AT_THE_END).float().mean(dim=(1, 2, 3))

    return Measure("clipped", score, "share of values at -1 or 1", higher_is_better=False)


def pixel_frechet(references: Tensor, name: str = "frechet") -> Measure:
    """Frechet distance of all pictures to reference pictures [N, 3, H, W], in 8x8 pixels.

    It sees colour and layout and no detail, and needs no network. Under some 200 pictures it is
    far above its limit: compare it at one number of pictures only.
    """
    from glide_core.evaluation.frechet import frechet, statistics

    if len(references) < 2:
        raise GlideError(f"{len(references)} reference pictures are too few: expected 2 or more")
    wanted = statistics(_small(references))

    def score(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        if len(pictures) < 2:
            return torch.tensor(math.nan)
        return torch.tensor(frechet(statistics(_small(pictures)), wanted).value)

    return Measure(name, score, "Frechet distance of 8x8 pixels", higher_is_better=False)


def read_references(folder: Path, side: int) -> Tensor:
    """Read a folder's pictures as [N, 3, side, side] in [-1, 1], by name."""
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in ENDINGS)
    if len(files) < 2:
        raise GlideError(
            f"{folder} holds {len(files)} pictures: expected 2 or more, as {', '.join(ENDINGS)}. "
            "Name another folder."
        )
    return torch.cat([from_pil(open_image(path), (side, side)) for path in files])


def _small(pictures: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(pictures.float(), SIDE).flatten(1)
