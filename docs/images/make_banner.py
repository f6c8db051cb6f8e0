"""Make the registry's icon and banner: python docs/images/make_banner.py (needs resvg-py).

Writes icon.png from icon.svg, then banner.svg and banner.png: intermediate states and final images
of the bundled models. 7 x 3 tiles have the registry's aspect ratio of 21:9.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import resvg_py
from PIL import Image
from torch import Tensor

from glide_core import stages
from glide_core.checkpoints.catalog import find
from glide_core.checkpoints.loading import load_model
from glide_core.config import SamplerConfig
from glide_core.images import to_pil

HERE = Path(__file__).parent
TILE = 192  # 3 pixels for each of the base model's 64
PROMPTS = (
    "a star on a blue background",
    "a flat mushroom on a yellow background",
    "a rocket on a purple background",
)
STEPS = 50
SHOWN = (6, 16, 27, 39)  # steps whose x_t is shown, one column each; the last column is upsampled
PANEL = 2  # columns of the panel with the name
SKETCH = """
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
     viewBox="0 0 {width} {height}" width="{width}" height="{height}">
  <title>GLIDE: from noise to images</title>
  <defs>
    <linearGradient id="sky" x1="0" y1="1" x2="1" y2="0">
      <stop offset="0" stop-color="#1b1440"/>
      <stop offset="1" stop-color="#5b4be0"/>
    </linearGradient>
  </defs>
  <rect width="{panel}" height="{height}" fill="url(#sky)"/>
  <g transform="translate(64 92) scale(4)">{plane}</g>
  <g transform="translate(52 404)" fill="none" stroke="#ffffff" stroke-width="15"
     stroke-linecap="round" stroke-linejoin="round">
    <path d="M50 13 A34 34 0 1 0 56 42 H38"/>
    <path d="M86 4 V72 H122"/>
    <path d="M150 4 V72"/>
    <path d="M180 4 V72 H192 A34 34 0 0 0 192 4 Z"/>
    <path d="M290 4 H254 V72 H290 M254 38 H284"/>
  </g>
{tiles}
</svg>
"""


def states() -> list[list[Image.Image]]:
    """Return one row per prompt: the intermediate states, then the 256x256 image."""
    shown: list[Tensor] = []
    seeds = [0] * len(PROMPTS)
    low = stages.sample_stage(
        load_model(find("base").path()),
        PROMPTS,
        seeds,
        SamplerConfig(steps=STEPS),
        callback=lambda step: shown.append(step.x_t.clamp(-1, 1)) if step.index in SHOWN else None,
    )
    shown.append(
        stages.sample_stage(
            load_model(find("upsampler").path()),
            PROMPTS,
            seeds,
            inputs=stages.StageInputs(low_res=low),
        )
    )
    return [list(row) for row in zip(*map(to_pil, shown), strict=True)]


def tile(image: Image.Image, column: int, row: int) -> str:
    """Return one tile of the banner as SVG; small images are enlarged without smoothing."""
    file = io.BytesIO()
    large = image.resize((TILE, TILE), Image.Resampling.LANCZOS)
    chosen = image if image.width < TILE else large
    chosen.save(file, "JPEG", quality=92, subsampling=0)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'  <image x="{column * TILE}" y="{row * TILE}" width="{TILE}" height="{TILE}" '
        f'image-rendering="optimizeSpeed" xlink:href="data:image/jpeg;base64,{data}"/>'
    )


def render(svg: str, path: Path) -> None:
    """Render an SVG to a PNG of the same size."""
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg))))
    image.save(path, optimize=True)
    print(path, image.size, path.stat().st_size)


def main() -> None:
    icon = (HERE / "icon.svg").read_text(encoding="utf-8")
    render(icon, HERE / "icon.png")
    tiles = [
        tile(image, PANEL + column, row)
        for row, images in enumerate(states())
        for column, image in enumerate(images)
    ]
    banner = SKETCH.strip().format(
        width=7 * TILE,
        height=3 * TILE,
        panel=PANEL * TILE,
        plane=icon[icon.index("<g>") : icon.index("</svg>")].strip(),
        tiles="\n".join(tiles),
    )
    (HERE / "banner.svg").write_text(banner + "\n", encoding="utf-8")
    render(banner, HERE / "banner.png")


if __name__ == "__main__":
    main()
