"""Write tests/data/subjects.png, the reference drawings of tests/test_bundled.py:

    python -m recipes.emoji.make_atlas STORE.npz

Every fourth subject of the vocabulary in the 3d style at 64x64, 13 to a row, colour and alpha.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from recipes.emoji.drawings import LOW, Sprites

COLUMNS = 13


def main() -> None:
    sprites = Sprites(Path(sys.argv[1]))
    tiles = []
    for subject in range(0, len(sprites.subjects), 4):
        layers = sprites.layers(sprites.rows[subject, 0], LOW)
        alpha = layers[3:]
        colour = layers[:3] / alpha.clamp(min=1e-3)
        tiles.append(torch.cat([(colour + 1) / 2 * (alpha > 0), alpha]))
    rows = -(-len(tiles) // COLUMNS)
    grid = torch.zeros(rows * COLUMNS, 4, LOW, LOW)
    grid[: len(tiles)] = torch.stack(tiles).clamp(0, 1)
    grid = grid.view(rows, COLUMNS, 4, LOW, LOW).permute(0, 3, 1, 4, 2)
    pixels = (grid.reshape(rows * LOW, COLUMNS * LOW, 4) * 255).round().byte().numpy()
    out = Path("tests/data/subjects.png")
    Image.fromarray(np.ascontiguousarray(pixels), "RGBA").save(out, optimize=True)
    print(out, len(tiles), "drawings")


if __name__ == "__main__":
    main()
