"""Exact scores for the bundled models: which drawing is nearest, in which style, on what colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recipes.emoji.drawings import Scene, Sprites

MAX_SHIFT = 2  # pixels by which a sample may sit beside the drawing


@dataclass(frozen=True)
class SceneScore:
    """Of samples of known scenes: shares of them, and what was found in each."""

    subject: float  # every asked subject is the nearest of all, in the asked style and place
    background: float  # the border is nearest to the asked background
    style: float  # the asked subject is nearer in the asked style than in the other
    nearest: list[tuple[str, ...]]  # the subjects found, per sample
    right_subject: list[bool]
    right_background: list[bool]


def score_scenes(
    pictures: Tensor,
    scenes: Sequence[Scene],
    sprites: Sprites,
    progress: Callable[[int], None] = lambda _: None,
) -> SceneScore:
    """Score pictures [B, 3, 64, 64] in [-1, 1] of the scenes asked for.

    A sample is compared, by mean square error at every small shift, with each subject drawn as the
    scene has it, on the *asked* background, so that the background alone decides nothing. Of two
    subjects each is judged in its own half, the other one drawn as asked.
    """
    nearest, subjects, backgrounds, styles = [], [], [], []
    colours = {name: sprites.palette[i] for i, name in enumerate(sprites.colours)}
    for count, (picture, scene) in enumerate(zip(pictures, scenes, strict=True)):
        found = tuple(_nearest(picture, scene, place, sprites) for place in _places(scene))
        nearest.append(tuple(sprites.subjects[s] for s in found))
        subjects.append(found == scene.subjects)
        asked = sprites.colours[scene.background]
        backgrounds.append(border_colour(picture, colours) == asked)
        styles.append(_right_style(picture, scene, sprites))
        progress(count + 1)
    total = max(1, len(subjects))
    return SceneScore(
        subject=sum(subjects) / total,
        background=sum(backgrounds) / total,
        style=sum(styles) / total,
        nearest=nearest,
        right_subject=subjects,
        right_background=backgrounds,
    )


def shifted_errors(picture: Tensor, candidates: Tensor) -> Tensor:
    """Mean square error [N] of a picture [3, H, W] to each candidate, at its best small shift."""
    shifts = range(-MAX_SHIFT, MAX_SHIFT + 1)
    errors = [
        (candidates - picture.roll((dy, dx), dims=(1, 2))).square().mean(dim=(1, 2, 3))
        for dy in shifts
        for dx in shifts
    ]
    return torch.stack(errors).amin(dim=0)


def border_colour(picture: Tensor, colours: dict[str, Tensor]) -> str:
    """The named colour nearest to the median of a picture's [3, H, W] outermost pixels."""
    edge = torch.cat([picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]], dim=1)
    median = edge.median(dim=1).values
    return min(colours, key=lambda name: float((colours[name] - median).square().sum()))


def _places(scene: Scene) -> range:
    return range(len(scene.subjects))


def _nearest(picture: Tensor, scene: Scene, place: int, sprites: Sprites) -> int:
    """The subject that, put at one place of the scene, comes nearest to the picture."""
    options = [
        replace(scene, subjects=(*scene.subjects[:place], s, *scene.subjects[place + 1 :]))
        for s in range(len(sprites.subjects))
    ]
    options = [option for option in options if sprites.has(option)]
    drawn = torch.stack([sprites.render(option) for option in options])
    if len(scene.subjects) == 2:
        half = slice(0, 32) if place == 0 else slice(32, 64)
        picture, drawn = picture[..., half], drawn[..., half]
    return options[int(shifted_errors(picture, drawn).argmin())].subjects[place]


def _right_style(picture: Tensor, scene: Scene, sprites: Sprites) -> bool:
    other = replace(scene, style=1 - scene.style)
    if not sprites.has(other):
        return True
    drawn = torch.stack([sprites.render(scene), sprites.render(other)])
    return int(shifted_errors(picture, drawn).argmin()) == 0
