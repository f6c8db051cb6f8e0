"""Training images of the bundled models: drawings on named backgrounds, and their captions.

The store of drawings is built by `recipes.emoji.build_store`. A `Scene` describes an image. Some
combinations are held out of training (`vocabulary.held_out_*`) to measure generalisation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glide_core.data.source import Batch
from glide_core.errors import GlideError
from recipes.emoji.vocabulary import (
    BACKGROUNDS,
    PLACES,
    STYLES,
    SUBJECTS,
    TEMPLATES,
    TINTS,
    fill,
    held_out_background,
    held_out_style,
    held_out_tint,
    with_article,
)

HIGH = 256  # side of the stored drawings
LOW = 64
FILL = 0.875  # side of a drawing, relative to its box
PAIRS, SMALL = 0.25, 0.25  # shares of the training scenes: two subjects, one at half size
TINTED = 0.2  # share of the other scenes
OPEN = 0.1  # share of the training captions that leave the background open, except for CLIP
MAX_VARIANTS = 3  # of a scene in a batch of distinct scenes
SAMPLED = 0.7  # share of the upsamplers' examples whose input is a sample of the base
UNSEEN_BY_UPSAMPLERS = 10  # every tenth label is held out

# upper left corner of the half-size box, in quarters of the side
_CORNERS = {"left": (1, 0), "right": (1, 2), "top": (0, 1), "bottom": (2, 1), "middle": (1, 1)}


@dataclass(frozen=True)
class Scene:
    """Content of an image; numbers are indices into `Sprites.subjects`, STYLES and so on."""

    subjects: tuple[int, ...]  # one, or two side by side from left to right
    background: int
    style: int = 0
    tint: int | None = None
    place: str = ""  # "": fills the image; "middle" or one of PLACES: half size at that place

    @property
    def held_out(self) -> bool:
        """Whether this scene is held out of training."""
        return any(
            held_out_background(s, self.background)
            or (self.style == 1 and held_out_style(s))
            or (self.tint is not None and held_out_tint(s, self.tint))
            for s in self.subjects
        )


class Sprites:
    """The store of drawings, and images rendered from it with a given random generator."""

    def __init__(self, path: Path, base_samples: Path | None = None) -> None:
        """base_samples: file of `recipes.emoji.base_samples`; most of the upsamplers' training
        examples are then made from it."""
        if not path.is_file():
            raise GlideError(
                f"store not found: {path}. Build it with `python -m recipes.emoji.build_store`"
            )
        with np.load(path) as store:
            self.rgba = torch.from_numpy(store["rgba"])  # [N, 256, 256, 4] uint8
            self.labels = [str(v) for v in store["labels"]]
            styles, names = store["styles"].tolist(), store["subjects"].tolist()
        self.styles = [STYLES.index(s) for s in styles]
        self.subjects = [s for s in SUBJECTS if s in set(names)]
        self.colours = list(BACKGROUNDS)
        self.palette = torch.tensor(list(BACKGROUNDS.values())) / 127.5 - 1  # [10, 3]
        self.rows = {  # (subject, style) -> row of the store
            (self.subjects.index(name), style): row
            for row, (name, style) in enumerate(zip(names, self.styles, strict=True))
            if name
        }
        self.low = torch.zeros(0, 3, LOW, LOW, dtype=torch.uint8)
        self.sampled: list[tuple[Scene, str]] = []
        if base_samples is not None:
            with np.load(base_samples) as saved:
                self.low = torch.from_numpy(saved["low"])
                rows = json.loads(str(saved["scenes"]))
            self.sampled = [
                (Scene(tuple(subjects), *rest), caption) for subjects, *rest, caption in rows
            ]

    @cached_property
    def unseen_by_upsamplers(self) -> list[int]:
        """Rows of the drawings, in both styles, that are held out of the upsamplers' training."""
        unseen = set(sorted(set(self.labels))[3::UNSEEN_BY_UPSAMPLERS])
        return [row for row, label in enumerate(self.labels) if label in unseen]

    @cached_property
    def seen_by_upsamplers(self) -> list[int]:
        unseen = set(self.unseen_by_upsamplers)
        return [row for row in range(len(self.labels)) if row not in unseen]

    def layers(self, row: int, box: int, share: float = FILL) -> Tensor:
        """Fit a drawing into a box: [4, box, box], colour in [-1, 1] times alpha, then alpha.

        share: side of the drawing, relative to the box.
        """
        rgba = self.rgba[row].permute(2, 0, 1).float()[None]
        alpha = rgba[:, 3:] / 255
        both = torch.cat([(rgba[:, :3] / 127.5 - 1) * alpha, alpha], dim=1)
        inner = 2 * round(share * box / 2)
        if inner != HIGH:
            both = F.interpolate(both, (inner, inner), mode="bilinear", antialias=True)
        pad = (box - inner) // 2
        return F.pad(both, (pad, pad, pad, pad))[0]

    @cached_property
    def _low(self) -> dict[tuple[int, int], Tensor]:
        """`layers` of the named drawings at the two sizes used in 64x64 images."""
        boxes = (LOW, LOW // 2)
        return {(row, box): self.layers(row, box) for row in self.rows.values() for box in boxes}

    def has(self, scene: Scene) -> bool:
        """Whether every drawing of the scene is in the store."""
        return all((s, scene.style) in self.rows for s in scene.subjects)

    def render(self, scene: Scene, side: int = LOW) -> Tensor:
        """Render a scene: [3, side, side] in [-1, 1]."""
        canvas = torch.zeros(4, side, side)
        whole = len(scene.subjects) == 1 and not scene.place
        box = side if whole else side // 2
        places = [scene.place or "whole"] if len(scene.subjects) == 1 else ["left", "right"]
        for subject, place in zip(scene.subjects, places, strict=True):
            row = self.rows[subject, scene.style]
            layers = self._low[row, box] if side == LOW else self.layers(row, box)
            if scene.tint is not None:
                layers = tinted(layers, self.palette[self.colours.index(TINTS[scene.tint])])
            top, left = (0, 0) if whole else (q * side // 4 for q in _CORNERS[place])
            canvas[:, top : top + box, left : left + box] = layers
        return over(canvas, self.palette[scene.background])

    def caption(
        self, scene: Scene, rng: torch.Generator | None = None, *, background: bool = True
    ) -> str:
        """Describe a scene: with the first template, or with a random one if `rng` is given.

        background: whether the caption names it.
        """

        def chance() -> float:
            return 1.0 if rng is None else float(torch.rand((), generator=rng))

        words = ["flat"] if scene.style == 1 else (["3d"] if chance() < 0.25 else [])
        if scene.place:
            words.append("small")
        if scene.tint is not None:
            words.append(TINTS[scene.tint])
        nouns = [with_article(" ".join([*words, self.subjects[s]])) for s in scene.subjects]
        if len(nouns) == 2:
            if (relation := chance()) < 0.2:
                subject = f"{nouns[0]} to the left of {nouns[1]}"
            elif relation < 0.4:
                subject = f"{nouns[1]} to the right of {nouns[0]}"
            else:
                subject = f"{nouns[0]} and {nouns[1]}"
        else:
            on = "at" if scene.place in ("top", "bottom") else "on"
            where = f" {on} the {scene.place}" if scene.place in PLACES else ""
            subject = nouns[0] + where
        if not background:
            return subject
        pick = 0 if rng is None else int(torch.randint(len(TEMPLATES) + 3, (), generator=rng))
        template = TEMPLATES[max(0, pick - 3)]  # the first, half the time
        return fill(template, subject, self.colours[scene.background])

    def scene(self, rng: torch.Generator) -> Scene:
        """Sample a training scene; half of them show one subject that fills the image."""
        while True:
            kind, tint = torch.rand(2, generator=rng).tolist()
            a, b = torch.randint(len(self.subjects), (2,), generator=rng).tolist()
            background, colour, style, place = (
                int(torch.randint(n, (), generator=rng))
                for n in (len(self.colours), len(TINTS), len(STYLES), len(PLACES) + 1)
            )
            found = Scene((a,), background, style)
            if kind < PAIRS:
                found = Scene((a, b), background, style)
            elif kind < PAIRS + SMALL:
                where = (*PLACES, "middle")[place]
                found = Scene((a,), background, style, place=where)
            elif tint < TINTED:
                found = Scene((a,), background, style, tint=colour)
            if self.trains_on(found):
                return found

    def scenes(self, rng: torch.Generator, size: int) -> list[Scene]:
        """Sample training scenes."""
        return [self.scene(rng) for _ in range(size)]

    def trains_on(self, scene: Scene) -> bool:
        """Whether a scene is complete, visible on its background and not held out."""
        hidden = scene.tint is not None and TINTS[scene.tint] == self.colours[scene.background]
        twice = len(set(scene.subjects)) < len(scene.subjects)
        return not (hidden or twice or scene.held_out) and self.has(scene)

    def variant(self, scene: Scene, rng: torch.Generator) -> Scene:
        """Change the background, the style or the tint of a scene."""
        background, tint, kind = (
            int(torch.randint(n, (), generator=rng)) for n in (len(self.colours), len(TINTS), 3)
        )
        if kind == 0:
            return replace(scene, style=1 - scene.style)
        if kind == 1 and len(scene.subjects) == 1 and not scene.place:
            return replace(scene, tint=tint if scene.tint is None else None)
        return replace(scene, background=background)

    def distinct_scenes(self, rng: torch.Generator, size: int) -> list[Scene]:
        """Sample different scenes, many of them variants of each other: hard negatives for CLIP."""
        scenes: dict[Scene, None] = {}
        while len(scenes) < size:
            scene = self.scene(rng)
            scenes[scene] = None
            for _ in range(int(torch.randint(MAX_VARIANTS + 1, (), generator=rng))):
                scene = self.variant(scene, rng)
                if self.trains_on(scene):
                    scenes[scene] = None
        return list(scenes)[:size]

    def batch(
        self, rng: torch.Generator, size: int, *, side: int, crop: int = 0, distinct: bool = False
    ) -> Batch:
        """Make a batch as in `Source`. Above 64 pixels all drawings of the store are used."""
        if side <= LOW:
            make = self.distinct_scenes if distinct else self.scenes
            scenes = make(rng, size)
            images = torch.stack([self.render(scene, side) for scene in scenes])
            share = 0.0 if distinct else OPEN
            named = (torch.rand(size, generator=rng) >= share).tolist()
            captions = [
                self.caption(scene, rng, background=known)
                for scene, known in zip(scenes, named, strict=True)
            ]
            return Batch(images, captions)
        if self.sampled and float(torch.rand((), generator=rng)) < SAMPLED:
            return self._with_samples(rng, size, side, crop)
        shown = [self._high(rng, side) for _ in range(size)]
        images = [crop_at(image, *corner(side, crop, rng), crop or side) for image, _ in shown]
        return Batch(torch.stack(images), [caption for _, caption in shown])

    def _with_samples(self, rng: torch.Generator, size: int, side: int, crop: int) -> Batch:
        """Drawings of scenes, with the base model's samples of them as low-resolution images."""
        picked = torch.randint(len(self.sampled), (size,), generator=rng).tolist()
        images, lows = [], []
        for i in picked:
            y, x = corner(side, crop, rng)
            images.append(crop_at(self.render(self.sampled[i][0], side), y, x, crop or side))
            low = self.low[i].float() / 127.5 - 1
            lows.append(crop_at(low, y // 4, x // 4, (crop or side) // 4))
        return Batch(torch.stack(images), [self.sampled[i][1] for i in picked], torch.stack(lows))

    def _high(self, rng: torch.Generator, side: int) -> tuple[Tensor, str]:
        pool = self.seen_by_upsamplers
        row = pool[int(torch.randint(len(pool), (), generator=rng))]
        colour = int(torch.randint(len(self.colours), (), generator=rng))
        share = float(torch.rand((), generator=rng)) * 0.45 + 0.5
        noun = ("flat " if self.styles[row] == 1 else "") + self.labels[row].lower()
        image = over(self.layers(row, side, share), self.palette[colour])
        return image, fill(TEMPLATES[0], with_article(noun), self.colours[colour])


def corner(side: int, crop: int, rng: torch.Generator) -> tuple[int, int]:
    """Sample the upper left corner of a crop, aligned with the low-resolution image's pixels."""
    offsets = (side - (crop or side)) // 4 + 1
    y, x = torch.randint(offsets, (2,), generator=rng).tolist()
    return 4 * y, 4 * x


def crop_at(image: Tensor, y: int, x: int, side: int) -> Tensor:
    """Crop a square from [C, H, W]."""
    return image[:, y : y + side, x : x + side]


def over(layers: Tensor, background: Tensor) -> Tensor:
    """Composite layers [..., 4, H, W] over a colour [..., 3] in [-1, 1] -> [..., 3, H, W]."""
    colour, alpha = layers[..., :3, :, :], layers[..., 3:, :, :]
    return colour + (1 - alpha) * background[..., None, None]


def tinted(layers: Tensor, tint: Tensor) -> Tensor:
    """Tint layers [4, H, W]: keep the lightness, replace the hue."""
    alpha = layers[3:]
    colour = (layers[:3] / alpha.clamp(min=1e-3) + 1) / 2
    light = colour.mean(dim=0, keepdim=True)
    hue = ((tint + 1) / 2)[:, None, None]
    dark, bright = 2 * light * hue, hue + (2 * light - 1) * (1 - hue)
    mixed = 0.85 * torch.where(light < 0.5, dark, bright) + 0.15 * colour
    return torch.cat([(2 * mixed - 1) * alpha, alpha])
