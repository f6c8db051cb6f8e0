"""Exact scores for the bundled models: which training drawing is nearest, which background."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glide_core.training.sprites import Sprites

MAX_SHIFT = 2  # pixels by which a sample may sit beside the drawing


@dataclass(frozen=True)
class SubjectScore:
    """Of samples whose subject and background were asked for."""

    subject: float  # share whose nearest drawing is the asked subject
    background: float  # share whose border colour is nearest to the asked background
    nearest: list[str]  # the subject found, per sample


def score_subjects(
    pictures: Tensor, subjects: list[str], backgrounds: list[str], sprites: Sprites
) -> SubjectScore:
    """Score pictures [B, 3, 64, 64] in [-1, 1] against every drawing, scale and shift.

    Each sample is compared, by mean square error, with each subject on the *asked* background, so
    that the background alone decides nothing.
    """
    nearest, right_background = [], []
    layers = sprites.low_layers()  # [S, K, 4, 64, 64]
    shifts = range(-MAX_SHIFT, MAX_SHIFT + 1)
    colours = {name: sprites.background(name) for name in sprites.colours}
    for picture, background in zip(pictures, backgrounds, strict=True):
        scenes = sprites.compose(layers, colours[background])  # [S, K, 3, 64, 64]
        errors = [
            (scenes.roll((dy, dx), dims=(3, 4)) - picture).square().mean(dim=(2, 3, 4)).amin(dim=1)
            for dy in shifts
            for dx in shifts
        ]
        nearest.append(sprites.subjects[int(torch.stack(errors).amin(dim=0).argmin())])
        right_background.append(border_colour(picture, colours) == background)
    hits = sum(a == b for a, b in zip(nearest, subjects, strict=True))
    return SubjectScore(hits / len(subjects), sum(right_background) / len(subjects), nearest)


def border_colour(picture: Tensor, colours: dict[str, Tensor]) -> str:
    """The named colour nearest to the median of a picture's [3, H, W] outermost pixels."""
    edge = torch.cat([picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]], dim=1)
    median = edge.median(dim=1).values
    return min(colours, key=lambda name: float((colours[name] - median).square().sum()))
