"""Training pictures: drawings with an alpha channel, set on named backgrounds.

The store is one .npz: `rgba` uint8 [N, 256, 256, 4], `labels` and `subjects` (the short name in a
caption; empty where the drawing is not among the named subjects). `python -m
glide_core.training.sprites FLUENT EMOJIBASE OUT.npz` builds it from two unpacked npm packages:
@lobehub/fluent-emoji-3d (drawings, MIT, Microsoft) and emojibase-data (names, MIT).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glide_core.errors import GlideError
from glide_core.training.data.types import Batch

HIGH = 256  # side of the stored drawings
LOW = 64
SCALES = (208, 224, 240)  # side of the drawing in a picture of side HIGH
MIDDLE = 1  # index of the one scale that the 64x64 models learn: a small network needs the help

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (16, 16, 16),
    "red": (214, 48, 49),
    "orange": (243, 146, 55),
    "yellow": (250, 220, 80),
    "green": (74, 170, 96),
    "blue": (58, 110, 216),
    "purple": (128, 78, 190),
    "pink": (247, 168, 200),
    "gray": (150, 150, 150),
}

# subject in a caption -> emojibase label
SUBJECTS: dict[str, str] = {
    "fox": "fox", "panda": "panda", "frog": "frog", "pig": "pig face", "cat": "cat face",
    "koala": "koala", "lion": "lion", "monkey": "monkey face", "unicorn": "unicorn",
    "penguin": "penguin", "owl": "owl", "chick": "baby chick", "octopus": "octopus",
    "whale": "spouting whale", "turtle": "turtle", "ladybug": "lady beetle", "cactus": "cactus",
    "sunflower": "sunflower", "mushroom": "mushroom", "tree": "deciduous tree",
    "apple": "red apple", "banana": "banana", "strawberry": "strawberry",
    "watermelon": "watermelon", "carrot": "carrot", "pizza": "pizza", "hamburger": "hamburger",
    "doughnut": "doughnut", "rocket": "rocket", "car": "automobile", "house": "house",
    "balloon": "balloon", "star": "star", "heart": "red heart", "robot": "robot",
    "snowman": "snowman",
}  # fmt: skip

TEMPLATES = (
    "{a} {subject} on {the} {background} background",
    "{subject} on {background}",
    "{a} {subject}, {background} background",
    "a drawing of {a} {subject} on {the} {background} background",
    "a picture of {a} {subject} on {background}",
)


class Sprites:
    """The store, and pictures made from it. Everything random comes from the generator given."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise GlideError(
                f"no training pictures at {path}: build the store first with "
                "`python -m glide_core.training.sprites FLUENT_FOLDER EMOJIBASE_FOLDER OUT.npz`"
            )
        store = np.load(path)
        self.rgba = torch.from_numpy(store["rgba"])  # [N, 256, 256, 4] uint8
        self.labels: list[str] = [str(v) for v in store["labels"]]
        subjects = [str(v) for v in store["subjects"]]
        self.named = [i for i, s in enumerate(subjects) if s]
        self.subjects = [subjects[i] for i in self.named]
        self.colours = list(BACKGROUNDS)
        self._palette = torch.tensor(list(BACKGROUNDS.values())) / 127.5 - 1  # [10, 3]
        self._low: Tensor | None = None

    def layers(self, index: int, scale: int) -> tuple[Tensor, Tensor]:
        """Premultiplied colour [3, 256, 256] in [-1, 1] times alpha, and alpha [1, 256, 256]."""
        rgba = self.rgba[index].permute(2, 0, 1).float()[None]
        alpha = rgba[:, 3:] / 255
        colour = (rgba[:, :3] / 127.5 - 1) * alpha
        both = torch.cat([colour, alpha], dim=1)
        if scale != HIGH:
            both = F.interpolate(both, (scale, scale), mode="bilinear", antialias=True)
            pad = (HIGH - scale) // 2
            both = F.pad(both, (pad, pad, pad, pad))
        return both[0, :3], both[0, 3:]

    def low_layers(self) -> Tensor:
        """Named subjects at LOW: [subjects, scales, 4, 64, 64] (premultiplied colour, alpha)."""
        if self._low is None:
            rows = []
            for index in self.named:
                row = [F.avg_pool2d(torch.cat(self.layers(index, s)), HIGH // LOW) for s in SCALES]
                rows.append(torch.stack(row))
            self._low = torch.stack(rows)
        return self._low

    def compose(self, layers: Tensor, background: Tensor) -> Tensor:
        """Layers [..., 4, H, W] over a flat colour [..., 3] in [-1, 1] -> [..., 3, H, W]."""
        colour, alpha = layers[..., :3, :, :], layers[..., 3:, :, :]
        return colour + (1 - alpha) * background[..., None, None]

    def background(self, name: str) -> Tensor:
        """The colour of a named background, [3] in [-1, 1]."""
        return self._palette[self.colours.index(name)]

    def caption(self, rng: torch.Generator, subject: str, background: str) -> str:
        if background == "white" and float(torch.rand((), generator=rng)) < 0.4:
            return f"{article(subject)} {subject}"  # no background named: white
        pick = int(torch.randint(len(TEMPLATES) + 3, (), generator=rng))
        template = TEMPLATES[max(0, pick - 3)]  # the first template half of the time
        return fill(template, subject, background)

    def low_batch(self, rng: torch.Generator, size: int, *, distinct: bool = False) -> Batch:
        """Random subjects on random backgrounds at 64x64; distinct: no pair of them twice."""
        layers = self.low_layers()
        pairs = len(self.named) * len(self.colours)
        if distinct:
            code = torch.randperm(pairs, generator=rng)[:size]
        else:
            code = torch.randint(pairs, (size,), generator=rng)
        subject, colour = code // len(self.colours), code % len(self.colours)
        pictures = self.compose(layers[subject, MIDDLE], self._palette[colour])
        captions = [
            self.caption(rng, self.subjects[s], self.colours[c])
            for s, c in zip(subject.tolist(), colour.tolist(), strict=True)
        ]
        return Batch(pictures, captions)

    def high_batch(self, rng: torch.Generator, size: int, crop: int = HIGH) -> Batch:
        """Random drawings, named or not, at 256x256 or in crops of it (sides multiple of 4)."""
        pictures, captions = [], []
        for _ in range(size):
            named = float(torch.rand((), generator=rng)) < 0.5
            pool = self.named if named else range(len(self.labels))
            index = pool[int(torch.randint(len(pool), (), generator=rng))]
            scale = SCALES[int(torch.randint(len(SCALES), (), generator=rng))]
            colour = int(torch.randint(len(self.colours), (), generator=rng))
            picture = self.compose(torch.cat(self.layers(index, scale)), self._palette[colour])
            room = (HIGH - crop) // 4 + 1
            y, x = (4 * int(torch.randint(room, (), generator=rng)) for _ in range(2))
            pictures.append(picture[:, y : y + crop, x : x + crop])
            name = self.subjects[self.named.index(index)] if named else self.labels[index]
            captions.append(self.caption(rng, name, self.colours[colour]))
        return Batch(torch.stack(pictures), captions)


def article(noun: str) -> str:
    return "an" if noun[0] in "aeio" else "a"


def fill(template: str, subject: str, background: str) -> str:
    """A caption from one of `TEMPLATES`."""
    return template.format(
        a=article(subject), subject=subject, the=article(background), background=background
    )


def build(fluent: Path, emojibase: Path, out: Path) -> int:
    """Write the store from two unpacked npm packages; returns the number of drawings."""
    from PIL import Image

    names = json.loads((emojibase / "en" / "data.json").read_text(encoding="utf-8"))
    groups = {0, 3, 4, 5, 6, 7}  # faces, animals, food, travel, activities, objects
    by_label = {label: subject for subject, label in SUBJECTS.items()}
    rgba, labels, subjects = [], [], []
    for entry in names:
        code = entry["hexcode"].lower()
        if entry.get("group") not in groups or "o\u2019clock" in entry["label"]:
            continue
        files = [fluent / "assets" / f"{c}.webp" for c in (code, code + "-fe0f")]
        found = next((f for f in files if f.is_file()), None)
        if found is None:
            continue
        picture = Image.open(found).convert("RGBA").resize((HIGH, HIGH), Image.Resampling.LANCZOS)
        rgba.append(np.asarray(picture))
        labels.append(entry["label"])
        subjects.append(by_label.pop(entry["label"], ""))
    if by_label:
        raise GlideError(f"these drawings are missing from {fluent}: {sorted(by_label)}")
    np.savez_compressed(out, rgba=np.stack(rgba), labels=labels, subjects=subjects)
    return len(labels)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the store of training drawings.")
    parser.add_argument("fluent", type=Path, help="unpacked @lobehub/fluent-emoji-3d package")
    parser.add_argument("emojibase", type=Path, help="unpacked emojibase-data package")
    parser.add_argument("out", type=Path, help="the .npz to write")
    arguments = parser.parse_args()
    print(build(arguments.fluent, arguments.emojibase, arguments.out), "drawings")
