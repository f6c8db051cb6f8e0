"""What the pictures of the help pages are put together from: nodes called by hand, and grids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from glide_pack.nodes import NODE_CLASS_MAPPINGS
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from glide_core import images

INPUTS = Path(__file__).resolve().parents[2] / "example_workflows" / "inputs"
CELL = 128  # pixels of a 64x64 picture's side here: each of its pixels becomes four
GAP = 6
GREY = (128, 128, 128, 255)  # read on the dark panel and on white paper

Picture = Image.Image


def call(node_id: str, **inputs: Any) -> Any:
    """Run one node with the defaults of what is not given, as a workflow does."""
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
    words = {"positive": text, "negative": ""}
    return {name: call("GlideTextEncode", clip=clip, text=said)[0] for name, said in words.items()}


def drawn(
    text: str, *, size: tuple[int, int] = (64, 64), batch: int = 1, model: Any = None, **inputs: Any
) -> Tensor:
    """IMAGE of the bundled base model (or `model` in its place), by GLIDE Sampler's defaults."""
    loaded, clip = base()
    latent = call("GlideEmptyLatent", width=size[0], height=size[1], batch_size=batch)[0]
    given = {"seed": 1, "latent_image": latent, **prompts(clip, text), **inputs}
    image: Tensor = call("GlideSampler", model=model or loaded, **given)[0]
    return image


def loaded(name: str) -> Tensor:
    """IMAGE of an example's input."""
    picture = np.asarray(Image.open(INPUTS / name).convert("RGB"), dtype=np.float32)
    return torch.from_numpy(picture / 255)[None]


def pictures(image: Tensor, factor: int = CELL // 64) -> list[Picture]:
    """IMAGE [B, H, W, C] as pictures, every pixel of theirs factor x factor here."""
    found = images.to_pil(images.from_comfy(image))
    return [p.resize((p.width * factor, p.height * factor), Image.NEAREST) for p in found]


def grid(rows: Sequence[Sequence[Picture]]) -> Picture:
    """Pictures in rows, nothing (transparent) between them."""
    width = max(sum(p.width for p in row) + GAP * (len(row) - 1) for row in rows)
    heights = [max(p.height for p in row) for row in rows]
    sheet = Image.new("RGBA", (width, sum(heights) + GAP * (len(rows) - 1)))
    y = 0
    for row, height in zip(rows, heights, strict=True):
        x = 0
        for picture in row:
            sheet.paste(picture, (x, y))
            x += picture.width + GAP
        y += height + GAP
    return sheet


def below(picture: Picture, text: str) -> Picture:
    """A picture with a number that a model gave it."""
    out = Image.new("RGBA", (picture.width, picture.height + 20))
    out.paste(picture, (0, 0))
    pen = ImageDraw.Draw(out)
    middle = (picture.width / 2, picture.height + 2)
    pen.text(middle, text, fill=GREY, font=ImageFont.load_default(15), anchor="ma")
    return out


def hidden(image: Tensor, mask: Tensor) -> Tensor:
    """The IMAGE as an inpainting model sees it: grey where the mask is white."""
    return torch.where(mask[..., None] >= 0.5, torch.tensor(0.5), image)


def square_mask(side: int) -> Tensor:
    """MASK, white but for a rim."""
    mask = torch.zeros(1, side, side)
    rim = side // 8
    mask[:, rim : side - rim, rim : side - rim] = 1
    return mask
