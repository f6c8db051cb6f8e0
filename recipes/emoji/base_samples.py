"""Sample training scenes with a base model, as inputs for training the upsamplers.

    python -m recipes.emoji.base_samples STORE.npz base.safetensors OUT.npz --count 2000

An upsampler trained on reduced drawings alone sharpens the errors of a base model's samples.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from glide_core.checkpoints.loading import load_model
from glide_core.config import SamplerConfig
from glide_core.models.glide import GlideModel
from glide_core.stages import sample_stage
from recipes.emoji.drawings import Scene, Sprites
from recipes.emoji.publish import SAMPLING

SETTINGS = SamplerConfig(**SAMPLING["base"])  # as published
BATCH = 20


def sample(
    model: GlideModel, sprites: Sprites, count: int, seed: int
) -> tuple[np.ndarray, list[tuple[Scene, str]]]:
    """Sample `count` training scenes: [count, 3, 64, 64] uint8, with their scenes and captions."""
    rng = torch.Generator().manual_seed(seed)
    scenes = sprites.scenes(rng, count)
    captions = [sprites.caption(scene, rng) for scene in scenes]
    images = []
    for i in tqdm(range(0, count, BATCH)):
        part = captions[i : i + BATCH]
        seeds = list(range(seed + i, seed + i + len(part)))
        images.append(sample_stage(model, part, seeds, SETTINGS))
    low = ((torch.cat(images).clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
    return low, list(zip(scenes, captions, strict=True))


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Sample training scenes with a base model.")
    parser.add_argument("store", type=Path, help="the store of training drawings (.npz)")
    parser.add_argument("base", type=Path, help="checkpoint of the base model")
    parser.add_argument("out", type=Path, help="file to write (.npz)")
    parser.add_argument("--count", type=int, default=2000, help="number of samples")
    parser.add_argument("--seed", type=int, default=0, help="random seed of scenes and noise")
    arguments = parser.parse_args(given)
    low, scenes = sample(
        load_model(arguments.base), Sprites(arguments.store), arguments.count, arguments.seed
    )
    rows = [(*astuple(scene), caption) for scene, caption in scenes]
    np.savez_compressed(arguments.out, low=low, scenes=json.dumps(rows))


if __name__ == "__main__":
    main()
