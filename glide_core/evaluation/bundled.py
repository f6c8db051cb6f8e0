"""Measure the bundled models: `python -m glide_core.evaluation.bundled STORE.npz [--folder DIR]`.

Prompts are not picked: every score walks a seeded random list of captions at default settings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from glide_core.checkpoints.loading import load_clip, load_model
from glide_core.evaluation.subjects import score_subjects
from glide_core.guidance import noisy_clip_guide
from glide_core.guidance.clip import normalise
from glide_core.models.noisy_clip import NoisyClip
from glide_core.pipeline import Settings, inpaint, model_schedule, text_to_image, upsample
from glide_core.training.jobs import random_keep_masks
from glide_core.training.sprites import MIDDLE, TEMPLATES, Sprites, fill

BUNDLED = Path(__file__).parent.parent / "checkpoints" / "bundled"
# ancestral, as the paper: DDIM does not weigh the gradient by the variance, and burns
CLIP_ALONE = Settings(sampler="ancestral", guidance_scale=1.0)


def asked(sprites: Sprites, count: int, seed: int = 0) -> tuple[list[str], list[str], list[str]]:
    """A seeded list of (captions, subjects, backgrounds): no pair twice, the first template."""
    rng = torch.Generator().manual_seed(seed)
    codes = torch.randperm(len(sprites.subjects) * len(sprites.colours), generator=rng)[:count]
    subjects = [sprites.subjects[c // len(sprites.colours)] for c in codes.tolist()]
    backgrounds = [sprites.colours[c % len(sprites.colours)] for c in codes.tolist()]
    captions = [fill(TEMPLATES[0], s, b) for s, b in zip(subjects, backgrounds, strict=True)]
    return captions, subjects, backgrounds


def scenes(sprites: Sprites, subjects: list[str], backgrounds: list[str]) -> Tensor:
    """The training pictures themselves: [B, 3, 64, 64]."""
    rows = torch.tensor([sprites.subjects.index(s) for s in subjects])
    colours = torch.stack([sprites.background(b) for b in backgrounds])
    return sprites.compose(sprites.low_layers()[rows, MIDDLE], colours)


def in_chunks(draw: Callable[[slice], Tensor], count: int, size: int = 20) -> Tensor:
    return torch.cat([draw(slice(i, min(i + size, count))) for i in range(0, count, size)])


def score_base(folder: Path, sprites: Sprites, count: int) -> dict[str, object]:
    model = load_model(folder / "base.safetensors")
    captions, subjects, backgrounds = asked(sprites, count)
    out = in_chunks(lambda s: text_to_image(model, captions[s], seeds=list(range(count))[s]), count)
    score = score_subjects(out, subjects, backgrounds, sprites)
    misses = [f"{a} -> {b}" for a, b in zip(subjects, score.nearest, strict=True) if a != b]
    return {"subject": score.subject, "background": score.background, "misses": misses}


def score_clip_guidance(folder: Path, sprites: Sprites, count: int) -> dict[str, object]:
    """CLIP guidance alone: the base model without a caption, pulled by the noisy CLIP."""
    model = load_model(folder / "base.safetensors")
    clip = load_clip(folder / "clip.safetensors")
    captions, subjects, backgrounds = asked(sprites, count)
    results: dict[str, object] = {}
    for scale in (0.0, 1.0, 3.0, 10.0):
        with torch.no_grad():
            text = clip.encode_prompts(captions)

        def draw(s: slice, scale: float = scale, text: Tensor = text) -> Tensor:
            empty = [""] * len(captions[s])
            guide = noisy_clip_guide(clip, text[s], scale) if scale else None
            seeds = list(range(count))[s]
            return text_to_image(model, empty, seeds=seeds, settings=CLIP_ALONE, cond_fn=guide)

        score = score_subjects(in_chunks(draw, count), subjects, backgrounds, sprites)
        results[f"scale {scale:g}"] = {"subject": score.subject, "background": score.background}
    return results


def score_clip(folder: Path, sprites: Sprites) -> dict[str, float]:
    """Share of pictures whose own caption is the nearest of all captions, per timestep."""
    clip: NoisyClip = load_clip(folder / "clip.safetensors")
    schedule = model_schedule(load_model(folder / "base.safetensors").config)
    total = len(sprites.subjects) * len(sprites.colours)
    captions, subjects, backgrounds = asked(sprites, total)
    pictures = scenes(sprites, subjects, backgrounds)
    results = {}
    with torch.no_grad():
        text = normalise(clip.encode_prompts(captions))
        for timestep in (0, 250, 500, 750):
            t = torch.full((total,), timestep)
            noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
            image = normalise(clip.encode_image(schedule.q_sample(pictures, t, noise), t))
            found = (image @ text.T).argmax(dim=1)
            results[f"t={timestep}"] = float((found == torch.arange(total)).float().mean())
    return results


def score_upsampler(folder: Path, sprites: Sprites, count: int) -> dict[str, float]:
    """PSNR against the true picture, of the model and of bicubic enlargement."""
    model = load_model(folder / "upsampler.safetensors")
    batch = sprites.high_batch(torch.Generator().manual_seed(1), count)
    low = F.avg_pool2d(batch.pictures, 4)
    out = in_chunks(
        lambda s: upsample(model, low[s], batch.captions[s], seeds=list(range(count))[s]), count, 4
    )
    bicubic = F.interpolate(low, scale_factor=4, mode="bicubic").clamp(-1, 1)
    return {"model": psnr(out, batch.pictures), "bicubic": psnr(bicubic, batch.pictures)}


def score_inpaint(folder: Path, sprites: Sprites, count: int) -> dict[str, float]:
    """Erase the right half of a drawing and ask for its subject again: error in the hole, against
    filling the hole with the background, and the known pixels' largest change."""
    model = load_model(folder / "inpaint.safetensors")
    captions, subjects, backgrounds = asked(sprites, count)
    pictures = scenes(sprites, subjects, backgrounds)
    keep = torch.ones(count, 1, 64, 64)
    keep[..., 32:] = 0
    out = in_chunks(
        lambda s: inpaint(model, pictures[s], keep[s], captions[s], seeds=list(range(count))[s]),
        count,
    )
    flat = torch.stack([sprites.background(b) for b in backgrounds])[:, :, None, None]
    hole = 1 - keep
    return {
        "hole_mse": float(((out - pictures).square() * hole).sum() / hole.sum() / 3),
        "background_mse": float(((flat - pictures).square() * hole).sum() / hole.sum() / 3),
        "known_change": float(((out - pictures).abs() * keep).max()),
    }


def score_upsampler_inpaint(folder: Path, sprites: Sprites, count: int) -> dict[str, float]:
    """PSNR inside random holes, of the model and of bicubic enlargement, with the true 64x64
    picture as low_res; and the known pixels' largest change."""
    model = load_model(folder / "upsampler_inpaint.safetensors")
    rng = torch.Generator().manual_seed(2)
    batch = sprites.high_batch(rng, count)
    keep = random_keep_masks(rng, count, 256)
    low = F.avg_pool2d(batch.pictures, 4)
    out = in_chunks(
        lambda s: inpaint(
            model,
            batch.pictures[s],
            keep[s],
            batch.captions[s],
            low_res=low[s],
            seeds=list(range(count))[s],
        ),
        count,
        4,
    )
    bicubic = F.interpolate(low, scale_factor=4, mode="bicubic").clamp(-1, 1)
    hole = 1 - keep

    def inside(picture: Tensor) -> float:
        error = ((picture - batch.pictures).square() * hole).sum() / hole.sum() / 3
        return float(10 * torch.log10(4 / error))

    change = float(((out - batch.pictures).abs() * keep).max())
    return {"model": inside(out), "bicubic": inside(bicubic), "known_change": change}


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal to noise ratio in dB of pictures in [-1, 1], mean over the batch."""
    error = (a - b).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the bundled models.")
    parser.add_argument("store", type=Path, help="the store of training drawings (.npz)")
    parser.add_argument("--folder", type=Path, default=BUNDLED, help="where the models are")
    parser.add_argument("--count", type=int, default=100, help="samples of the base model")
    parser.add_argument("--only", nargs="*", help="base clip clip_guidance upsampler inpaint")
    arguments = parser.parse_args()
    sprites, folder, count = Sprites(arguments.store), arguments.folder, arguments.count
    scores: dict[str, Callable[[], object]] = {
        "base": lambda: score_base(folder, sprites, count),
        "clip": lambda: score_clip(folder, sprites),
        "clip_guidance": lambda: score_clip_guidance(folder, sprites, min(count, 20)),
        "upsampler": lambda: score_upsampler(folder, sprites, min(count, 12)),
        "inpaint": lambda: score_inpaint(folder, sprites, min(count, 40)),
        "upsampler_inpaint": lambda: score_upsampler_inpaint(folder, sprites, min(count, 12)),
    }
    for name, score in scores.items():
        if not arguments.only or name in arguments.only:
            print(json.dumps({name: score()}), flush=True)


if __name__ == "__main__":
    main()
