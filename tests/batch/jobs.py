"""Small jobs for the tests here: their lists, their command lines, and what they left on disk."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
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


def words(table: Path, out: Path, *more: object) -> list[str]:
    """The command's words after `glide`."""
    return [str(w) for w in ("generate", "--prompts", table, "--out", out, *SMALL, *more)]


def start(
    command: list[str], models: Path, launcher: tuple[str, ...] = (), **environment: str
) -> subprocess.Popen[str]:
    """Start `glide` as a process of its own, with one thread, so that sums have one order."""
    program = [*launcher, "-m"] if launcher else []
    return subprocess.Popen(
        [sys.executable, "-m", *program, "glide_core.cli", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLIDE_MODELS": str(models), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def samples(out: Path) -> dict[str, bytes]:
    """Every file inside the finished shards, by name; a name that is there twice is an error."""
    found: list[tuple[str, bytes]] = []
    for shard in sorted(out.glob("shard-*")):
        assert shard.suffix != ".partial"
        if shard.is_dir():
            found += [(path.name, path.read_bytes()) for path in sorted(shard.iterdir())]
            continue
        with tarfile.open(shard) as tar:
            for entry in tar:
                file = tar.extractfile(entry)
                assert file is not None
                found.append((entry.name, file.read()))
    assert len(found) == len(dict(found))
    return dict(found)


def pictures(out: Path) -> dict[str, bytes]:
    """The pixels of every picture, by file name."""
    return {k: pixels(v).tobytes() for k, v in samples(out).items() if k.endswith(".png")}


def pixels(content: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(content)))


def manifest(out: Path) -> dict[str, Any]:
    found = json.loads((out / "manifest.json").read_text())
    assert isinstance(found, dict)
    return found


def index(out: Path) -> list[dict[str, str]]:
    with (out / "index.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
