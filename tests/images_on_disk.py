"""Small images with captions, written in each of the forms that training reads."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, width: int = 80, height: int = 80, mode: str = "RGB") -> Image.Image:
    """A image of random pixels: unlike every other one."""
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(values, mode)


def encode(image: Image.Image, kind: str = "png") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def folder_files(count: int, side: int = 80) -> dict[str, bytes]:
    """Names and bytes of a folder: 000.png, 000.txt, ..."""
    files: dict[str, bytes] = {}
    for i in range(count):
        files[f"{i:03}.png"] = encode(noise(i, side, side))
        files[f"{i:03}.txt"] = f"image number {i}\n".encode()
    return files


def write_folder(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def write_tar(path: Path, files: Mapping[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            data = data if isinstance(data, bytes) else data.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[list[str]], separator: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    return path


def png_text(path: Path) -> dict[str, str]:
    """The text chunks of a PNG."""
    with Image.open(path) as image:
        image.load()
        return {str(k): v for k, v in image.info.items() if isinstance(v, str)}
