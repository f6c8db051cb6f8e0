"""Seeded lists of scenes for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Literal

import torch

from recipes.emoji.drawings import Scene, Sprites
from recipes.emoji.vocabulary import PLACES, TINTS, held_out_style

SceneList = Literal[
    "seen", "unseen-background", "unseen-style", "unseen-tint", "small", "pair", "tint"
]
LISTS: tuple[SceneList, ...] = (
    "seen", "unseen-background", "unseen-style", "unseen-tint", "small", "pair", "tint",
)  # fmt: skip


def scene_list(sprites: Sprites, name: SceneList, count: int, seed: int = 0) -> list[Scene]:
    """Return up to `count` different scenes of a kind, in seeded order.

    seen: trained combinations of subject, style and background; unseen-...: held-out combinations;
    small, pair, tint: scenes of these kinds from the training distribution.
    """
    rng = torch.Generator().manual_seed(seed)
    pool = [scene for scene in _pool(sprites, name, rng) if sprites.has(scene)]
    order = torch.randperm(len(pool), generator=rng).tolist()
    return [pool[i] for i in order[:count]]


def _pool(sprites: Sprites, name: SceneList, rng: torch.Generator) -> Iterator[Scene]:
    subjects, colours = range(len(sprites.subjects)), range(len(sprites.colours))
    for subject, colour, style in product(subjects, colours, (0, 1)):
        plain = Scene((subject,), colour, style)
        style_unseen = style == 1 and held_out_style(subject)
        if (name == "seen" and not plain.held_out) or (
            name == "unseen-background" and plain.held_out and not style_unseen
        ):
            yield plain
        elif name == "unseen-style" and style_unseen:
            if not Scene((subject,), colour, 0).held_out:
                yield plain
        elif name in ("small", "pair", "tint", "unseen-tint"):
            number = int(torch.randint(10_000, (), generator=rng))
            if name == "small":
                scene = Scene((subject,), colour, style, place=PLACES[number % len(PLACES)])
            elif name == "pair":
                scene = Scene((subject, number % len(subjects)), colour, style)
            else:
                scene = Scene((subject,), colour, style, tint=number % len(TINTS))
                if TINTS[number % len(TINTS)] == sprites.colours[colour]:
                    continue
            wanted = name == "unseen-tint"
            if name == "unseen-tint" and plain.held_out:
                continue
            if scene.held_out == wanted and len(set(scene.subjects)) == len(scene.subjects):
                yield scene
