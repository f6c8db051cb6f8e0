"""Scores of the bundled models: nearest drawing, its style and the background colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recipes.emoji.drawings import Scene, Sprites

MAX_SHIFT = 2  # largest offset of a sample from the drawing, in pixels


@dataclass(frozen=True)
class SceneScore:
    """Accuracy over samples of known scenes, and the subjects found in each."""

    subject: float  # share where every prompted subject is the nearest, in its style and place
    background: float  # share whose border is nearest to the prompted background
    style: float  # share nearer to the prompted style than to the other
    nearest: list[tuple[str, ...]]  # the subjects found, per sample
    right_subject: list[bool]
    right_background: list[bool]


def score_scenes(
    images: Tensor,
    scenes: Sequence[Scene],
    sprites: Sprites,
    progress: Callable[[int], None] = lambda _: None,
) -> SceneScore:
    """Score images [B, 3, 64, 64] in [-1, 1] of the given scenes.

    A sample is compared, by mean square error at every small shift, with each subject rendered in
    the scene's style and place on the scene's background, so that the background does not affect
    the subject score. Of two subjects each is scored in its own half.
    """
    nearest, subjects, backgrounds, styles = [], [], [], []
    colours = {name: sprites.palette[i] for i, name in enumerate(sprites.colours)}
    for count, (image, scene) in enumerate(zip(images, scenes, strict=True)):
        found = tuple(_nearest(image, scene, place, sprites) for place in _places(scene))
        nearest.append(tuple(sprites.subjects[s] for s in found))
        subjects.append(found == scene.subjects)
        wanted = sprites.colours[scene.background]
        backgrounds.append(border_colour(image, colours) == wanted)
        styles.append(_right_style(image, scene, sprites))
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


def shifted_errors(image: Tensor, candidates: Tensor) -> Tensor:
    """Return the mean square error [N] of an image [3, H, W] and candidates at the best shift."""
    shifts = range(-MAX_SHIFT, MAX_SHIFT + 1)
    errors = [
        (candidates - image.roll((dy, dx), dims=(1, 2))).square().mean(dim=(1, 2, 3))
        for dy in shifts
        for dx in shifts
    ]
    return torch.stack(errors).amin(dim=0)


def border_colour(image: Tensor, colours: dict[str, Tensor]) -> str:
    """Return the named colour nearest to the median of the border of an image [3, H, W]."""
    edge = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1)
    median = edge.median(dim=1).values
    return min(colours, key=lambda name: float((colours[name] - median).square().sum()))


def _places(scene: Scene) -> range:
    return range(len(scene.subjects))


def _nearest(image: Tensor, scene: Scene, place: int, sprites: Sprites) -> int:
    """Return the subject that is nearest to the image at one place of the scene."""
    options = [
        replace(scene, subjects=(*scene.subjects[:place], s, *scene.subjects[place + 1 :]))
        for s in range(len(sprites.subjects))
    ]
    options = [option for option in options if sprites.has(option)]
    rendered = torch.stack([sprites.render(option) for option in options])
    if len(scene.subjects) == 2:
        half = slice(0, 32) if place == 0 else slice(32, 64)
        image, rendered = image[..., half], rendered[..., half]
    return options[int(shifted_errors(image, rendered).argmin())].subjects[place]


def _right_style(image: Tensor, scene: Scene, sprites: Sprites) -> bool:
    other = replace(scene, style=1 - scene.style)
    if not sprites.has(other):
        return True
    rendered = torch.stack([sprites.render(scene), sprites.render(other)])
    return int(shifted_errors(image, rendered).argmin()) == 0
