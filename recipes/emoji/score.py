"""Measure the bundled models: `python -m recipes.emoji.score STORE.npz [--folder DIR]`.

The prompts are seeded random lists of scenes, sampled at default settings. Prints one JSON object.
recipes/emoji/README.md explains each value.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from glide_core.checkpoints.catalog import BUNDLED
from glide_core.checkpoints.loading import load_clip, load_model
from glide_core.config import SamplerConfig
from glide_core.guidance.clip import noisy_clip_guide
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from glide_core.sampling import model_schedule
from glide_core.stages import StageInputs, sample_stage
from glide_core.training.examples import random_keep_masks
from recipes.emoji.drawings import FILL, HIGH, Scene, Sprites, over
from recipes.emoji.scenes import LISTS, scene_list
from recipes.emoji.subjects import SceneScore, score_scenes
from recipes.emoji.vocabulary import TEMPLATES, fill, with_article

# ddpm as in the paper: DDIM does not scale the gradient by the variance
CLIP_SCALES = (0.0, 1.0, 3.0, 5.0, 10.0, 30.0)
CLIP_ALONE = SamplerConfig(steps=30, sampler="ddpm", guidance_scale=1.0)


def render_scenes(scenes: Sequence[Scene], sprites: Sprites) -> Tensor:
    """Render scenes as in training: [B, 3, 64, 64]."""
    return torch.stack([sprites.render(scene) for scene in scenes])


def in_chunks(make: Callable[[slice], Tensor], count: int, size: int = 20) -> Tensor:
    return torch.cat([make(slice(i, min(i + size, count))) for i in range(0, count, size)])


def sample_captions(
    model: GlideModel, captions: Sequence[str], size: int = 20, **images: Tensor
) -> Tensor:
    """Sample at default settings, `size` at a time, with the seeds 0, 1, ...

    images: fields of StageInputs, one row a caption.
    """
    seeds = range(len(captions))

    def make(s: slice) -> Tensor:
        part: dict[str, Any] = {name: rows[s] for name, rows in images.items()}
        return sample_stage(model, captions[s], seeds[s], inputs=StageInputs(**part))

    return in_chunks(make, len(captions), size)


def bicubic(low: Tensor) -> Tensor:
    """Enlarge images in [-1, 1] four times, as the upsampler is compared with."""
    return F.interpolate(low, scale_factor=4, mode="bicubic").clamp(-1, 1)


def hole_mse(images: Tensor, drawings: Tensor, hole: Tensor) -> Tensor:
    """Mean square error where `hole` [N, 1, H, W] is 1."""
    return ((images - drawings).square() * hole).sum() / hole.sum() / 3


def score_base(
    folder: Path,
    sprites: Sprites,
    count: int,
    lists: Sequence[str] = LISTS,
    dtype: torch.dtype = torch.float32,
) -> dict[str, object]:
    """Measure subject, background and style accuracy, and the distance to the drawing.

    Half as many images for small, paired and tinted scenes. The flatness of one corner is measured
    on the trained scenes.
    """
    model = load_model(folder / "base.safetensors", dtype=dtype)
    results: dict[str, object] = {}
    for name in LISTS:
        if name not in lists:
            continue
        plain = name in ("seen", "unseen-background", "unseen-style")
        scenes = scene_list(sprites, name, count if plain else count // 2)
        captions = [sprites.caption(scene) for scene in scenes]
        out = sample_captions(model, captions)
        results[name] = {
            **_shares(score_scenes(out, scenes, sprites), scenes, sprites),
            "rms": rms(out, render_scenes(scenes, sprites)),
        }
        if name == "seen":
            results["corner"] = corner_flatness(out, 8)
    return results


def rms(images: Tensor, drawings: Tensor) -> float:
    """Root mean square distance of each image [N, 3, H, W] in [-1, 1] to its drawing, averaged."""
    return float((images - drawings).square().mean(dim=(1, 2, 3)).sqrt().mean())


def corner_flatness(images: Tensor, side: int) -> dict[str, float]:
    """Noise of the upper left corner [side, side], flat in every drawing, in 8-bit levels.

    std: standard deviation within each channel. lattice: of the means of the four 2x2 phases.
    """
    corner = images[..., :side, :side] * 127.5
    phases = F.pixel_unshuffle(corner, 2).unflatten(1, (3, 4)).mean(dim=(-2, -1))
    return {
        "std": float(corner.std(dim=(-2, -1)).mean()),
        "lattice": float(phases.std(dim=-1).mean()),
    }


def score_two_stages(folder: Path, sprites: Sprites, count: int = 24) -> dict[str, object]:
    """Measure the RMS distance of upsampled base samples to the 256x256 drawings."""
    base, upsampler = (load_model(folder / f"{n}.safetensors") for n in ("base", "upsampler"))
    scenes = scene_list(sprites, "seen", count)
    captions = [sprites.caption(scene) for scene in scenes]
    low = sample_captions(base, captions)
    high = sample_captions(upsampler, captions, 4, low_res=low)
    true = torch.stack([sprites.render(scene, HIGH) for scene in scenes])
    return {
        "n": count,
        "upsampler": rms(high, true),
        "bicubic": rms(bicubic(low), true),
        "corner": corner_flatness(high, 32)["std"],
    }


def _shares(score: SceneScore, scenes: Sequence[Scene], sprites: Sprites) -> dict[str, object]:
    misses = [
        f"{sprites.caption(scene)} -> {' and '.join(found)}"
        for scene, found, right in zip(scenes, score.nearest, score.right_subject, strict=True)
        if not right
    ]
    shares = {"subject": score.subject, "background": score.background, "style": score.style}
    return {"n": len(scenes), **shares, "misses": misses}


def score_clip_guidance(folder: Path, sprites: Sprites, count: int) -> dict[str, object]:
    """Measure CLIP guidance alone: the base model with an empty caption and the noisy CLIP."""
    model = load_model(folder / "base.safetensors")
    clip = load_clip(folder / "clip.safetensors")
    scenes = scene_list(sprites, "seen", count)
    captions = [sprites.caption(scene) for scene in scenes]
    results: dict[str, object] = {}
    with torch.no_grad():
        text = clip.encode_prompts(captions)
    for scale in CLIP_SCALES:

        def make(s: slice, scale: float = scale) -> Tensor:
            guide = noisy_clip_guide(clip, text[s], scale) if scale else None
            empty = [""] * len(captions[s])
            return sample_stage(model, empty, range(count)[s], CLIP_ALONE, cond_fn=guide)

        score = score_scenes(in_chunks(make, count), scenes, sprites)
        results[f"scale {scale:g}"] = {
            key: value for key, value in _shares(score, scenes, sprites).items() if key != "misses"
        }
    return results


def all_captions(sprites: Sprites) -> list[str]:
    """Return the plain caption of every subject in every style on every background."""
    pool = scene_list(sprites, "seen", 10**6) + scene_list(sprites, "unseen-background", 10**6)
    return [sprites.caption(scene) for scene in pool + scene_list(sprites, "unseen-style", 10**6)]


def score_clip(folder: Path, sprites: Sprites, count: int) -> dict[str, object]:
    """Measure retrieval: the share of images whose own caption is the nearest of all captions.

    Per timestep, for trained combinations and for held-out backgrounds.
    """
    clip: NoisyClip = load_clip(folder / "clip.safetensors")
    schedule = model_schedule(load_model(folder / "base.safetensors").config)
    captions = all_captions(sprites)
    results: dict[str, object] = {"captions": len(captions)}
    with torch.no_grad():
        text = in_chunks(
            lambda s: F.normalize(clip.encode_prompts(captions[s])), len(captions), size=256
        )
        for name in ("seen", "unseen-background"):
            scenes = scene_list(sprites, name, count)
            images = render_scenes(scenes, sprites)
            wanted = torch.tensor([captions.index(sprites.caption(scene)) for scene in scenes])
            for timestep in (0, 250, 500, 750):
                t = torch.full((len(scenes),), timestep)
                noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
                image = F.normalize(clip.encode_image(schedule.q_sample(images, t, noise), t))
                rank = (image @ text.T).topk(5, dim=1).indices == wanted[:, None]
                top1, top5 = (float(rank[:, :k].any(dim=1).float().mean()) for k in (1, 5))
                results[f"{name} t={timestep}"] = {"top1": top1, "top5": top5}
    return results


def high_scenes(sprites: Sprites, count: int, seed: int = 1) -> tuple[Tensor, list[str]]:
    """Render drawings outside the upsamplers' training set at 256x256, with captions."""
    rng = torch.Generator().manual_seed(seed)
    rows = sprites.unseen_by_upsamplers
    order = torch.randperm(len(rows), generator=rng)[:count].tolist()
    images, captions = [], []
    for i in order:
        row, colour = rows[i], int(torch.randint(len(sprites.colours), (), generator=rng))
        images.append(over(sprites.layers(row, HIGH, FILL), sprites.palette[colour]))
        noun = ("flat " if sprites.styles[row] == 1 else "") + sprites.labels[row].lower()
        captions.append(fill(TEMPLATES[0], with_article(noun), sprites.colours[colour]))
    return torch.stack(images), captions


def score_upsampler(folder: Path, sprites: Sprites, count: int) -> dict[str, float]:
    """Measure PSNR and edge strength of model and bicubic on held-out drawings."""
    model = load_model(folder / "upsampler.safetensors")
    images, captions = high_scenes(sprites, count)
    low = F.avg_pool2d(images, 4)
    out, enlarged = sample_captions(model, captions, 4, low_res=low), bicubic(low)
    return {
        "n": count,
        "model": psnr(out, images),
        "bicubic": psnr(enlarged, images),
        "model_edges": sharpness(out) / sharpness(images),
        "bicubic_edges": sharpness(enlarged) / sharpness(images),
    }


HALVES = {  # what is erased of [N, 1, 64, 64]
    "left": (..., slice(None), slice(0, 32)),
    "right": (..., slice(None), slice(32, 64)),
    "top": (..., slice(0, 32), slice(None)),
    "bottom": (..., slice(32, 64), slice(None)),
}


def score_inpaint(folder: Path, sprites: Sprites, count: int) -> dict[str, dict[str, float]]:
    """Inpaint each half of a drawing with its own caption.

    Reports the error in the hole (and that of filling it with the background), the largest change
    of a known pixel, and the difference across the mask's edge relative to the drawings.
    """
    model = load_model(folder / "inpaint.safetensors")
    scenes = scene_list(sprites, "seen", count)
    captions, images = [sprites.caption(scene) for scene in scenes], render_scenes(scenes, sprites)
    flat = torch.stack([sprites.palette[scene.background] for scene in scenes])[:, :, None, None]
    results: dict[str, dict[str, float]] = {}
    for half, area in HALVES.items():
        keep = torch.ones(count, 1, 64, 64)
        keep[area] = 0
        out = sample_captions(model, captions, image=images, keep_mask=keep)
        hole = 1 - keep
        across = (lambda x: x) if half in ("left", "right") else (lambda x: x.transpose(-1, -2))
        results[half] = {
            "n": count,
            "hole_mse": float(hole_mse(out, images, hole)),
            "background_mse": float(hole_mse(flat, images, hole)),
            "known_change": float(((out - images).abs() * keep).max()),
            # difference across the mask's edge; 1: as in the drawings
            "seam": float(_step(across(out), 32) / _step(across(images), 32)),
        }
    return results


def score_upsampler_inpaint(folder: Path, sprites: Sprites, count: int) -> dict[str, float]:
    """Measure PSNR of model and bicubic inside random holes, and the change of known pixels.

    low_res is the true 64x64 image.
    """
    model = load_model(folder / "upsampler_inpaint.safetensors")
    images, captions = high_scenes(sprites, count, seed=2)
    keep = random_keep_masks(torch.Generator().manual_seed(2), count, 256)
    low = F.avg_pool2d(images, 4)
    out = sample_captions(model, captions, 4, image=images, keep_mask=keep, low_res=low)
    errors = {"model": hole_mse(out, images, 1 - keep)}
    errors["bicubic"] = hole_mse(bicubic(low), images, 1 - keep)
    inside = {name: float(10 * torch.log10(4 / error)) for name, error in errors.items()}
    return {"n": count, **inside, "known_change": float(((out - images).abs() * keep).max())}


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of images in [-1, 1], mean over the batch."""
    error = (a - b).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


def sharpness(images: Tensor) -> float:
    """Return the mean square difference of neighbouring pixels."""
    across = (images[..., 1:] - images[..., :-1]).square().mean()
    down = (images[..., 1:, :] - images[..., :-1, :]).square().mean()
    return float(across + down)


def _step(images: Tensor, column: int) -> Tensor:
    return (images[..., column] - images[..., column - 1]).abs().mean()


SCORES: dict[str, Callable[[Path, Sprites, int], object]] = {
    "base": score_base,
    "two_stages": lambda folder, sprites, n: score_two_stages(folder, sprites, min(n, 24)),
    "clip": lambda folder, sprites, n: score_clip(folder, sprites, 5 * n),
    "clip_guidance": lambda folder, sprites, n: score_clip_guidance(folder, sprites, min(n, 40)),
    "upsampler": lambda folder, sprites, n: score_upsampler(folder, sprites, min(n, 40)),
    "inpaint": lambda folder, sprites, n: score_inpaint(folder, sprites, min(n, 40)),
    "upsampler_inpaint": lambda folder, sprites, n: score_upsampler_inpaint(
        folder, sprites, min(n, 20)
    ),
}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure the bundled models.")
    parser.add_argument("store", type=Path, help="the store of training drawings (.npz)")
    parser.add_argument(
        "--folder", type=Path, default=BUNDLED, help="folder of the models (default: bundled)"
    )
    parser.add_argument("--count", type=int, default=100, help="samples of the base model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    parser.add_argument("--only", nargs="*", choices=SCORES, help="which scores (default: all)")
    parser.add_argument(
        "--lists", nargs="+", choices=LISTS, default=LISTS, help="of the score base (default: all)"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "int8"), help="only the score base, in this"
    )
    arguments = parser.parse_args(given)
    sprites, folder, count = Sprites(arguments.store), arguments.folder, arguments.count
    only = ["base"] if arguments.dtype else arguments.only
    wanted = [name for name in SCORES if not only or name in only]
    dtype = getattr(torch, arguments.dtype or "float32")
    base = partial(score_base, lists=arguments.lists, dtype=dtype)
    results = {}
    for name in wanted:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        score = base if name == "base" else SCORES[name]
        results[name] = score(folder, sprites, count)
    text = json.dumps(results, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
