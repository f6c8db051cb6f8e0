"""Build the store of training drawings from three npm packages, which `npm pack` fetches.

    python -m recipes.emoji.build_store sprites.npz

@lobehub/fluent-emoji-3d and @iconify-json/fluent-emoji-flat hold Microsoft's Fluent Emoji drawings
(MIT) in two styles, emojibase-data their names (MIT). The store is one .npz: `rgba` uint8
[N, 256, 256, 4], `labels`, `styles` ("3d", "flat"), and `subjects`: the name in a caption, empty
where the drawing has no entry in `SUBJECTS`.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glide_core.errors import GlideError
from recipes.emoji.vocabulary import SUBJECTS

HIGH = 256  # side of the stored drawings
PACKAGES = (
    "@lobehub/fluent-emoji-3d@1.1.0",
    "@iconify-json/fluent-emoji-flat@1.2.6",
    "emojibase-data@17.0.0",
)
GROUPS = {0, 3, 4, 5, 6, 7}  # of emojibase: faces, animals, food, travel, activities, objects


def build(fluent_3d: Path, fluent_flat: Path, emojibase: Path, out: Path) -> int:
    """Write the store and return the number of drawings.

    GlideError lists named subjects without a 3D drawing.
    """
    names = json.loads((emojibase / "en" / "data.json").read_text(encoding="utf-8"))
    flat = _Flat(fluent_flat)
    by_label = {label: subject for subject, label in SUBJECTS.items()}
    missing = set(by_label)
    rows: list[tuple[NDArray[np.uint8], str, str, str]] = []
    for entry in names:
        label = str(entry["label"])
        if entry.get("group") not in GROUPS or "o\u2019clock" in label or "-thirty" in label:
            continue
        subject = by_label.get(label, "")
        for style, image in (
            ("3d", _drawing_3d(fluent_3d, entry["hexcode"])),
            ("flat", flat.drawing(entry["hexcode"])),
        ):
            if image is None:
                continue
            rows.append((image, label, style, subject))
            if style == "3d":
                missing.discard(label)
    if missing:
        raise GlideError(f"{fluent_3d} lacks the drawings {sorted(missing)}")
    images, labels, styles, subjects = zip(*rows, strict=True)
    np.savez_compressed(out, rgba=np.stack(images), labels=labels, styles=styles, subjects=subjects)
    return len(rows)


def _drawing_3d(folder: Path, hexcode: str) -> NDArray[np.uint8] | None:
    code = hexcode.lower()
    for name in (code, code + "-fe0f"):
        path = folder / "assets" / f"{name}.webp"
        if path.is_file():
            return _pixels(path)
    return None


class _Flat:
    """The flat drawings: SVG bodies in one JSON file, named by code point in another."""

    def __init__(self, folder: Path) -> None:
        self.icons: dict[str, Any] = json.loads((folder / "icons.json").read_text("utf-8"))["icons"]
        self.names: dict[str, str] = json.loads((folder / "chars.json").read_text("utf-8"))

    def drawing(self, hexcode: str) -> NDArray[np.uint8] | None:
        import resvg_py

        code = hexcode.lower()
        name = self.names.get(code) or self.names.get(code.removesuffix("-fe0f"))
        if name not in self.icons:
            return None
        size = 'viewBox="0 0 32 32" width="256" height="256"'
        body = self.icons[name]["body"]
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{body}</svg>'
        return _pixels(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg))))


def _pixels(source: Path | io.BytesIO) -> NDArray[np.uint8]:
    from PIL import Image

    image = Image.open(source).convert("RGBA")
    return np.asarray(image.resize((HIGH, HIGH), Image.Resampling.LANCZOS))


def fetch(package: str, folder: Path) -> Path:
    """Fetch and unpack an npm package; gives its folder. npm checks the archive's hash."""
    command = ["npm", "pack", "--silent", package]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    archive = folder / found.stdout.split()[-1]
    unpacked = folder / archive.stem
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
    return unpacked / "package"


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the store of training drawings.")
    parser.add_argument("out", type=Path, help="the .npz to write")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        packages = [fetch(name, Path(temporary)) for name in PACKAGES]
        print(build(*packages, given.out), "drawings")


if __name__ == "__main__":
    main()
