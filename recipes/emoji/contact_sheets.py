"""Labelled contact sheets of the bundled models, for the docs.

python -m recipes.emoji.contact_sheets STORE.npz docs/images
"""

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
from glide_core.guidance.clip import noisy_clip_guide
from glide_core.images import to_pil
from glide_core.stages import StageInputs, sample_stage
from glide_core.training.examples import random_keep_masks
from recipes.emoji.drawings import Sprites
from recipes.emoji.scenes import LISTS, scene_list
from recipes.emoji.score import (
    BUNDLED,
    CLIP_ALONE,
    bicubic,
    high_scenes,
    render_scenes,
    sample_captions,
)
from recipes.emoji.subjects import score_scenes

_LINE = 14  # height of a label in pixels


def sheet(images: Tensor, labels: Sequence[str], columns: int, side: int = 128) -> Image.Image:
    """Tile images [N, 3, H, W] in [-1, 1] in rows, each scaled to `side`, with its label below."""
    rows = -(-len(images) // columns)
    out = Image.new("RGB", (columns * (side + 4), rows * (side + _LINE + 4)), "white")
    pen = ImageDraw.Draw(out)
    for i, (image, label) in enumerate(zip(to_pil(images), labels, strict=True)):
        x, y = (i % columns) * (side + 4), (i // columns) * (side + _LINE + 4)
        resample = Image.Resampling.NEAREST if side % image.width == 0 else None
        out.paste(image.resize((side, side), resample), (x + 2, y + 2))
        pen.text((x + 2, y + side + 3), label, fill="black")
    return out


def text_sheet(folder: Path, sprites: Sprites, count: int = 24) -> Image.Image:
    """Sample a seeded list of prompts with base and upsampler at default settings."""
    scenes = scene_list(sprites, "seen", count)
    captions = [sprites.caption(scene) for scene in scenes]
    low = sample_captions(load_model(folder / "base.safetensors"), captions)
    high = sample_captions(load_model(folder / "upsampler.safetensors"), captions, 4, low_res=low)
    return sheet(high, [_short(c) for c in captions], 6, 192)


def combination_sheet(folder: Path, sprites: Sprites, count: int = 6) -> Image.Image:
    """Sample each list of scenes but the first: one row per list."""
    model = load_model(folder / "base.safetensors")
    rows, labels = [], []
    for name in LISTS[1:]:
        scenes = scene_list(sprites, name, count)
        captions = [sprites.caption(scene) for scene in scenes]
        rows.append(sample_stage(model, captions, list(range(count))))
        labels += [_short(caption) for caption in captions]
    return sheet(torch.cat(rows), labels, count, 192)


def memory_sheet(folder: Path, sprites: Sprites, count: int = 12) -> Image.Image:
    """Show samples above their nearest training drawings."""
    scenes = scene_list(sprites, "seen", count)
    captions = [sprites.caption(scene) for scene in scenes]
    out = sample_stage(load_model(folder / "base.safetensors"), captions, list(range(count)))
    found = score_scenes(out, scenes, sprites).nearest
    near = [
        replace(scene, subjects=tuple(sprites.subjects.index(name) for name in names))
        for scene, names in zip(scenes, found, strict=True)
    ]
    labels = [sprites.subjects[scene.subjects[0]] for scene in scenes]
    labels += [f"nearest: {names[0]}" for names in found]
    return sheet(torch.cat([out, render_scenes(near, sprites)]), labels, count, 96)


def clip_sheet(folder: Path, sprites: Sprites, count: int = 12) -> Image.Image:
    """Sample with CLIP guidance and an empty caption: one row per scale."""
    model, clip = (load_model(folder / "base.safetensors"), load_clip(folder / "clip.safetensors"))
    captions = [sprites.caption(scene) for scene in scene_list(sprites, "seen", count)]
    with torch.no_grad():
        text = clip.encode_prompts(captions)
    rows, labels = [], []
    for scale in (0.0, 1.0, 3.0, 10.0):
        guide = noisy_clip_guide(clip, text, scale) if scale else None
        seeds = list(range(count))
        rows.append(sample_stage(model, [""] * count, seeds, CLIP_ALONE, cond_fn=guide))
        labels += [f"x{scale:g} {_short(caption)}" for caption in captions]
    return sheet(torch.cat(rows), labels, count, 128)


def inpaint_sheet(folder: Path, sprites: Sprites, count: int = 8) -> Image.Image:
    """Show the masked image and the results at 64x64 and 256x256: one column per prompt."""
    scenes = scene_list(sprites, "seen", count, seed=1)
    captions = [sprites.caption(scene) for scene in scenes]
    images = render_scenes(scenes, sprites)
    masks = random_keep_masks(torch.Generator().manual_seed(5), count, 64)
    seeds = list(range(count))
    low = sample_stage(
        load_model(folder / "inpaint.safetensors"),
        captions,
        seeds,
        inputs=StageInputs(image=images, keep_mask=masks),
    )
    high = sample_stage(
        load_model(folder / "upsampler_inpaint.safetensors"),
        captions,
        seeds,
        inputs=StageInputs(
            image=bicubic(images),
            keep_mask=F.interpolate(masks, scale_factor=4),
            low_res=low,
        ),
    )
    known = images * masks
    rows = [F.interpolate(v, (256, 256)) for v in (known, low)]
    labels = [*map(_short, captions), *["64x64"] * count, *["256x256"] * count]
    return sheet(torch.cat([*rows, high]), labels, count, 192)


def upsample_sheet(folder: Path, sprites: Sprites, count: int = 5) -> Image.Image:
    """Show bicubic, upsampler and original for drawings outside the training set."""
    images, captions = high_scenes(sprites, count)
    low = F.avg_pool2d(images, 4)
    model = load_model(folder / "upsampler.safetensors")
    out = sample_stage(model, captions, list(range(count)), inputs=StageInputs(low_res=low))
    labels = [*["bicubic"] * count, *["upsampler"] * count, *["true"] * count]
    return sheet(torch.cat([bicubic(low), out, images]), labels, count, 256)


def _short(caption: str) -> str:
    """Shorten a caption to fit below its image."""
    return caption.replace(" background", "").replace(" on an ", " on ").replace(" on a ", " on ")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the contact sheets in the docs.")
    parser.add_argument("store", type=Path, help="the store of training drawings (.npz)")
    parser.add_argument("out", type=Path, help="folder for the PNGs")
    parser.add_argument(
        "--folder", type=Path, default=BUNDLED, help="folder of the models (default: bundled)"
    )
    parser.add_argument(
        "--only", nargs="*", help="samples combinations memory clip inpaint upsampler"
    )
    arguments = parser.parse_args()
    sprites = Sprites(arguments.store)
    sheets = {
        "samples": text_sheet,
        "combinations": combination_sheet,
        "memory": memory_sheet,
        "clip": clip_sheet,
        "inpaint": inpaint_sheet,
        "upsampler": upsample_sheet,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, make in sheets.items():
        if not arguments.only or name in arguments.only:
            make(arguments.folder, sprites).save(arguments.out / f"{name}.png", optimize=True)
            print(arguments.out / f"{name}.png", flush=True)


if __name__ == "__main__":
    main()
