"""A folder of six images of random pixels, and their captions."""

from __future__ import annotations

from pathlib import Path

from images_on_disk import noise

CAPTIONS = ["a red apple", "a blue car", "a green fox", "a cat", "a dog", "a sun"]


def fill(folder: Path, count: int, start: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        noise(start + i, 64, 64).save(folder / f"{i:03}.png")
    return folder


def add_texts(folder: Path) -> None:
    for path, caption in zip(sorted(folder.glob("*.png")), CAPTIONS, strict=True):
        path.with_suffix(".txt").write_text(caption + "\nanother caption\n")
