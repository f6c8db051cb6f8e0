"""Labelled sheets of pictures, and the sheets that the docs show of the bundled models:
`python -m glide_core.evaluation.sheet STORE.npz docs/images`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from glide_core.checkpoints.loading import load_clip, load_model
from glide_core.evaluation.bundled import BUNDLED, CLIP_ALONE, asked, scenes
from glide_core.guidance import noisy_clip_guide
from glide_core.images import to_pil
from glide_core.pipeline import UPSAMPLE_SETTINGS, inpaint, text_to_image, upsample
from glide_core.training.jobs import random_keep_masks
from glide_core.training.sprites import Sprites

COOL = replace(UPSAMPLE_SETTINGS, temperature=0.8)  # less grain from the small upsampler
_LINE = 14  # pixels that a label takes


def sheet(pictures: Tensor, labels: Sequence[str], columns: int, side: int = 128) -> Image.Image:
    """Pictures [N, 3, H, W] in [-1, 1] in rows, each scaled to `side` with its label below."""
    rows = -(-len(pictures) // columns)
    out = Image.new("RGB", (columns * (side + 4), rows * (side + _LINE + 4)), "white")
    draw = ImageDraw.Draw(out)
    for i, (picture, label) in enumerate(zip(to_pil(pictures), labels, strict=True)):
        x, y = (i % columns) * (side + 4), (i // columns) * (side + _LINE + 4)
        resample = Image.Resampling.NEAREST if side % picture.width == 0 else None
        out.paste(picture.resize((side, side), resample), (x + 2, y + 2))
        draw.text((x + 2, y + side + 3), label, fill="black")
    return out


def text_sheet(folder: Path, sprites: Sprites, count: int = 18) -> Image.Image:
    """A seeded list of prompts through base and upsampler; defaults but for the temperature."""
    captions, subjects, backgrounds = asked(sprites, count)
    seeds = list(range(count))
    low = text_to_image(load_model(folder / "base.safetensors"), captions, seeds=seeds)
    upsampler = load_model(folder / "upsampler.safetensors")
    high = [
        upsample(
            upsampler, low[i : i + 4], captions[i : i + 4], seeds=seeds[i : i + 4], settings=COOL
        )
        for i in range(0, count, 4)
    ]
    labels = [f"{s} on {b}" for s, b in zip(subjects, backgrounds, strict=True)]
    return sheet(torch.cat(high), labels, 6, 192)


def memory_sheet(folder: Path, sprites: Sprites, count: int = 12) -> Image.Image:
    """Samples above the training drawing that was asked for."""
    captions, subjects, backgrounds = asked(sprites, count)
    out = text_to_image(load_model(folder / "base.safetensors"), captions, seeds=list(range(count)))
    truth = scenes(sprites, subjects, backgrounds)
    pairs = torch.cat([out, truth])
    return sheet(pairs, [*subjects, *["training drawing"] * count], count, 96)


def clip_sheet(folder: Path, sprites: Sprites, count: int = 12) -> Image.Image:
    """No caption in the base model: rows of rising CLIP guidance."""
    model, clip = (load_model(folder / "base.safetensors"), load_clip(folder / "clip.safetensors"))
    captions, subjects, backgrounds = asked(sprites, count)
    with torch.no_grad():
        text = clip.encode_prompts(captions)
    rows, labels = [], []
    for scale in (0.0, 1.0, 3.0, 10.0):
        guide = noisy_clip_guide(clip, text, scale) if scale else None
        seeds = list(range(count))
        rows.append(
            text_to_image(model, [""] * count, seeds=seeds, settings=CLIP_ALONE, cond_fn=guide)
        )
        labels += [f"{s}/{b} x{scale:g}" for s, b in zip(subjects, backgrounds, strict=True)]
    return sheet(torch.cat(rows), labels, count, 96)


def inpaint_sheet(folder: Path, sprites: Sprites, count: int = 8) -> Image.Image:
    """Known part, repainted at 64, repainted at 256, in columns of one prompt each."""
    captions, subjects, backgrounds = asked(sprites, count, seed=1)
    pictures = scenes(sprites, subjects, backgrounds)
    masks = random_keep_masks(torch.Generator().manual_seed(5), count, 64)
    seeds = list(range(count))
    low = inpaint(
        load_model(folder / "inpaint.safetensors"), pictures, masks, captions, seeds=seeds
    )
    high = inpaint(
        load_model(folder / "upsampler_inpaint.safetensors"),
        F.interpolate(pictures, scale_factor=4, mode="bicubic").clamp(-1, 1),
        F.interpolate(masks, scale_factor=4),
        captions,
        low_res=low,
        seeds=seeds,
    )
    known = pictures * masks
    rows = [F.interpolate(v, (256, 256)) for v in (known, low)]
    labels = [*captions, *["64x64"] * count, *["256x256"] * count]
    return sheet(torch.cat([*rows, high]), labels, count, 192)


def upsample_sheet(folder: Path, sprites: Sprites, count: int = 5) -> Image.Image:
    """Bicubic, the model, the true picture."""
    batch = sprites.high_batch(torch.Generator().manual_seed(3), count)
    low = F.avg_pool2d(batch.pictures, 4)
    model = load_model(folder / "upsampler.safetensors")
    out = upsample(model, low, batch.captions, seeds=list(range(count)))
    bicubic = F.interpolate(low, scale_factor=4, mode="bicubic").clamp(-1, 1)
    labels = [*batch.captions, *["upsampler"] * count, *["true"] * count]
    return sheet(torch.cat([bicubic, out, batch.pictures]), labels, count, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the docs' sheets of the bundled models.")
    parser.add_argument("store", type=Path, help="the store of training drawings (.npz)")
    parser.add_argument("out", type=Path, help="folder for the PNGs")
    parser.add_argument("--folder", type=Path, default=BUNDLED, help="where the models are")
    parser.add_argument("--only", nargs="*", help="samples memory clip inpaint upsampler")
    arguments = parser.parse_args()
    sprites = Sprites(arguments.store)
    sheets = {
        "samples": text_sheet,
        "memory": memory_sheet,
        "clip": clip_sheet,
        "inpaint": inpaint_sheet,
        "upsampler": upsample_sheet,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, draw in sheets.items():
        if not arguments.only or name in arguments.only:
            draw(arguments.folder, sprites).save(arguments.out / f"{name}.png", optimize=True)
            print(arguments.out / f"{name}.png", flush=True)


if __name__ == "__main__":
    main()
