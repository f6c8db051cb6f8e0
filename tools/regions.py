"""Measure regional prompts on the bundled base model: two subjects side by side.

    COMFYUI_PATH=... python -m tools.regions SPRITES.npz [--count N] [--sheet FILE]

Seeded pairs of scenes; an image of 128x64 pixels, each half with its own prompt.
An image is right when both halves show the asked subject on the asked background. Not a test: the
numbers in docs/compatibility.md come from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from glide_core.images import to_pil
from recipes.emoji.drawings import Scene, Sprites
from recipes.emoji.scenes import scene_list
from recipes.emoji.subjects import score_scenes
from tools.comfyui.checkpoints import temporary_checkpoints
from tools.comfyui.inside import Inside

BATCH = 10
WAYS = ("area", "mask bounds", "whole mask")


def pairs(sprites: Sprites, count: int) -> list[tuple[Scene, Scene]]:
    """Give `count` pairs of trained scenes with different subjects, in seeded order."""
    scenes = scene_list(sprites, "seen", 2 * count)
    right = scenes[count:]
    found = []
    for left in scenes[:count]:
        other = next(s for s in right if s.subjects != left.subjects)
        right.remove(other)
        found.append((left, other))
    return found


class Bench:
    def __init__(self, comfy: Inside, checkpoint: str) -> None:
        self.comfy = comfy
        self.model, self.clip, _ = comfy("GlideLoader", checkpoint=checkpoint, dtype="float32")

    def prompts(self, captions: Sequence[str]) -> Any:
        """One CONDITIONING with a prompt for each image of the batch."""
        parts = [self.comfy.prompt(self.clip, caption)[0] for caption in captions]
        pooled = torch.cat([extras["pooled_output"] for _, extras in parts])
        return [[torch.cat([s for s, _ in parts]), {**parts[0][1], "pooled_output": pooled}]]

    def region(self, conditioning: Any, right: bool, way: str) -> Any:
        """Bind a CONDITIONING to the left or right half."""
        if way == "area":
            return self.comfy(
                "ConditioningSetAreaPercentage", conditioning=conditioning, width=0.5, height=1.0,
                x=0.5 * right, y=0.0, strength=1.0,
            )  # fmt: skip
        mask = torch.zeros(1, 64, 128)
        mask[..., 64 * right : 64 * right + 64] = 1
        area = "mask bounds" if way == "mask bounds" else "default"
        return self.comfy(
            "ConditioningSetMask", conditioning=conditioning, mask=mask, strength=1.0,
            set_cond_area=area,
        )  # fmt: skip

    def both(self, left: Any, right: Any, way: str) -> Any:
        return self.comfy(
            "ConditioningCombine",
            conditioning_1=self.region(left, False, way),
            conditioning_2=self.region(right, True, way),
        )

    def sample(self, captions: Sequence[tuple[str, str]], way: str, seed: int) -> Tensor:
        """Sample [B, 3, 64, 128] with KSampler's euler, 20 steps, cfg 3."""
        left, right = (self.prompts([pair[i] for pair in captions]) for i in range(2))
        empty = self.comfy.prompt(self.clip, "")
        latent = {"samples": torch.zeros(len(captions), 3, 64, 128)}
        return self.comfy.ksampler(
            self.model, self.both(left, right, way), self.both(empty, empty, way), seed=seed,
            steps=20, latent_image=latent,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sprites", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--checkpoint", default="bundled/base.safetensors")
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    sprites = Sprites(options.sprites)
    asked = pairs(sprites, options.count)
    with temporary_checkpoints() as checkpoints:
        comfy = Inside(checkpoints)
        bench = Bench(comfy, options.checkpoint)
        for way in options.ways:
            found = torch.cat(
                [
                    bench.sample(
                        [(sprites.caption(a), sprites.caption(b)) for a, b in asked[i : i + BATCH]],
                        way,
                        seed=i,
                    )
                    for i in range(0, len(asked), BATCH)
                ]
            ).clamp(-1, 1)
            halves = [
                score_scenes(found[..., 64 * side : 64 * side + 64], scenes, sprites)
                for side, scenes in enumerate(zip(*asked, strict=True))
            ]
            right = [
                all(half.right_subject[i] and half.right_background[i] for half in halves)
                for i in range(len(asked))
            ]
            print(f"| {way} | {sum(right)} of {len(right)} |", flush=True)
            if options.sheet:
                sheet(found[:8], options.sheet.with_stem(f"{options.sheet.stem}_{way[:4]}"))


def sheet(images: Tensor, path: Path) -> None:
    """Save up to eight images in two columns."""
    page = Image.new("RGB", (256, 64 * ((len(images) + 1) // 2)))
    for i, image in enumerate(to_pil(images)):
        page.paste(image, (128 * (i % 2), 64 * (i // 2)))
    page.save(path)


if __name__ == "__main__":
    main()
