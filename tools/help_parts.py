"""Parts of the images of the help pages: nodes called with their defaults, and grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from glide_pack.nodes import NODE_CLASS_MAPPINGS
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from glide_core import images

CELL = 128  # side of a 64x64 image here: each pixel becomes 2x2
GAP = 6
GREY = (128, 128, 128, 255)  # legible on dark and on white backgrounds

PILImage = Image.Image


def call(node_id: str, **inputs: Any) -> Any:
    """Run one node; inputs that are not given have their defaults, as in a workflow."""
    node: Any = NODE_CLASS_MAPPINGS[node_id]()
    declared = [i for group in node.INPUT_TYPES().values() for i in group.items()]
    defaults = {name: e[1]["default"] for name, e in declared if "default" in e[1]}
    result = getattr(node, node.FUNCTION)(**{**defaults, **inputs})
    return result["result"] if isinstance(result, dict) else result


def base(name: str = "base") -> tuple[Any, Any]:
    """MODEL and CLIP of a bundled base or inpainting model."""
    model, clip, _ = call("GlideLoader", checkpoint=f"bundled/{name}.safetensors")
    return model, clip


def upsampler(name: str = "upsampler") -> Any:
    return call("GlideUpsamplerLoader", checkpoint=f"bundled/{name}.safetensors")[0]


def noisy_clip() -> Any:
    return call("GlideClipLoader", checkpoint="bundled/clip.safetensors")[0]


def prompts(clip: Any, text: str) -> dict[str, Any]:
    texts = {"positive": text, "negative": ""}
    return {name: call("GlideTextEncode", clip=clip, text=text)[0] for name, text in texts.items()}


def sample(
    text: str, *, size: tuple[int, int] = (64, 64), batch: int = 1, model: Any = None, **inputs: Any
) -> Tensor:
    """IMAGE sampled by the bundled base model (or `model`) with GLIDE Sampler's defaults."""
    loaded, clip = base()
    latent = call("GlideEmptyLatent", width=size[0], height=size[1], batch_size=batch)[0]
    given = {"seed": 1, "latent_image": latent, **prompts(clip, text), **inputs}
    image: Tensor = call("GlideSampler", model=model or loaded, **given)[0]
    return image


def as_image(tile: PILImage) -> Tensor:
    """IMAGE [1, H, W, 3] of a PIL image."""
    return torch.from_numpy(np.asarray(tile.convert("RGB"), dtype=np.float32) / 255)[None]


def card() -> tuple[Tensor, Tensor]:
    """IMAGE [1, 320, 480, 3] with empty space in the middle, and the MASK [1, 320, 480] of it."""
    tile, mask = Image.new("RGB", (480, 320), "#4bab60"), Image.new("RGB", (480, 320))
    pen = ImageDraw.Draw(tile)
    pen.ellipse((148, 68, 332, 252), fill="#3e9753")
    for x, y, radius, colour in (
        (60, 60, 34, "#f8a5c8"),
        (424, 70, 26, "#fbde55"),
        (70, 265, 24, "#3f6fdb"),
        (420, 255, 36, "#db3030"),
    ):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    ImageDraw.Draw(mask).rounded_rectangle((116, 36, 364, 284), 40, fill="white")
    return as_image(tile), as_image(mask)[..., 0]


def sketch() -> Tensor:
    """IMAGE [1, 256, 256, 3] of a strawberry in flat colours."""
    tile = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(tile)
    red = ((58, 90), (90, 72), (166, 72), (198, 90), (202, 130), (172, 190))
    pen.polygon((*red, (130, 228), (88, 190), (58, 130)), fill="#e12832")
    pen.polygon(((130, 28), (152, 58), (188, 56), (166, 68), (180, 92), (130, 86), (80, 92)),
                fill="#46a046")  # fmt: skip
    pen.polygon(((130, 28), (94, 68), (72, 56), (110, 60)), fill="#46a046")
    for x, y in ((97, 120), (130, 115), (162, 120), (87, 140), (112, 150), (147, 150), (174, 145)):
        pen.ellipse((x - 4, y - 5, x + 4, y + 5), fill="#fad250")
    return as_image(tile)


def tiles(image: Tensor, factor: int = CELL // 64) -> list[PILImage]:
    """IMAGE [B, H, W, C] as PIL images, each pixel enlarged to factor x factor."""
    found = images.to_pil(images.from_comfy(image))
    return [p.resize((p.width * factor, p.height * factor), Image.NEAREST) for p in found]


def grid(rows: Sequence[Sequence[PILImage]]) -> PILImage:
    """Images in rows, with transparent gaps."""
    width = max(sum(p.width for p in row) + GAP * (len(row) - 1) for row in rows)
    heights = [max(p.height for p in row) for row in rows]
    sheet = Image.new("RGBA", (width, sum(heights) + GAP * (len(rows) - 1)))
    y = 0
    for row, height in zip(rows, heights, strict=True):
        x = 0
        for tile in row:
            sheet.paste(tile, (x, y))
            x += tile.width + GAP
        y += height + GAP
    return sheet


def captioned(tile: PILImage, text: str) -> PILImage:
    """An image with a text below, here a score."""
    out = Image.new("RGBA", (tile.width, tile.height + 20))
    out.paste(tile, (0, 0))
    pen = ImageDraw.Draw(out)
    middle = (tile.width / 2, tile.height + 2)
    pen.text(middle, text, fill=GREY, font=ImageFont.load_default(15), anchor="ma")
    return out


def hidden(image: Tensor, mask: Tensor) -> Tensor:
    """The IMAGE as the input of an inpainting model: grey where the mask is 1."""
    return torch.where(mask[..., None] >= 0.5, torch.tensor(0.5), image)


def square_mask(side: int) -> Tensor:
    """MASK that is 1 except for a border."""
    mask = torch.zeros(1, side, side)
    rim = side // 8
    mask[:, rim : side - rim, rim : side - rim] = 1
    return mask
