"""Small lists for the tests here: their command lines, and what they left in the folder."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MODELS = ["--model", "tiny_base.safetensors", "--upsampler", "tiny_upsampler.safetensors"]
SMALL = [*MODELS, "--no-upsample", "--steps", "2", "--quiet"]


def prompts(folder: Path, rows: int) -> Path:
    """A list in which settings differ, prompts repeat, and most rows leave most out."""
    path = folder / f"{rows}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("prompt", "seed", "cfg"))
        for i in range(rows):
            writer.writerow((f"a red apple, {i % 3}", i if i % 2 else "", 5 if i % 5 == 4 else ""))
    return path


def words(table: object, out: object, *more: object) -> list[str]:
    """The command's words after `glide`."""
    return [str(w) for w in ("generate", "--prompts", table, "--out", out, *SMALL, *more)]


def samples(out: Path) -> dict[str, bytes]:
    """Every file inside the shards, by name; a name that is there twice is an error."""
    found: list[tuple[str, bytes]] = []
    for shard in sorted(out.glob("shard-*.tar")):
        found += members(shard.read_bytes())
    assert len(found) == len(dict(found))
    return dict(found)


def members(content: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return [(entry.name, tar.extractfile(entry).read()) for entry in tar]  # type: ignore[union-attr]


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def rows_of(out: Path) -> list[int]:
    return sorted(int(name.split(".")[0]) for name in samples(out) if name.endswith(".png"))


def images(out: Path) -> dict[str, bytes]:
    """The pixels of every image, by file name."""
    return {k: pixels(v).tobytes() for k, v in samples(out).items() if k.endswith(".png")}


def pixels(content: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(content)))


def failed(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "failed.jsonl").read_text().splitlines()]
