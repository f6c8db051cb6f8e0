"""A small store of drawings: discs of one colour each, in both styles."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recipes.emoji.vocabulary import SUBJECTS


def write_store(path: Path, count: int = 12, unnamed: int = 12) -> Path:
    """Write `count` of the named subjects and as many others as asked, 3d and flat."""
    named = list(SUBJECTS)[:count]
    labels = [*(SUBJECTS[n] for n in named), *(f"thing {i}" for i in range(unnamed))]
    rgba, names, styles, stored = [], [], [], []
    y, x = np.mgrid[:256, :256]
    for i, label in enumerate(labels):
        for j, style in enumerate(("3d", "flat")):
            disc = (y - 128) ** 2 + (x - 128) ** 2 < (60 + 5 * (i % 12)) ** 2
            colour = np.array([20 * i % 256, 255 - 20 * i % 256, 255 * j], dtype=np.uint8)
            image = np.zeros((256, 256, 4), np.uint8)
            image[disc] = [*colour, 255]
            rgba.append(image)
            names.append(named[i] if i < count else "")
            styles.append(style)
            stored.append(label)
    np.savez_compressed(path, rgba=np.stack(rgba), labels=stored, styles=styles, subjects=names)
    return path
