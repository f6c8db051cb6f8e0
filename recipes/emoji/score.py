"""Measure the bundled models: `python -m recipes.emoji.score STORE.npz [--folder DIR]`.

Prompts are not picked: every score walks a seeded random list of scenes at default settings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from glide_core.checkpoints.loading import load_clip, load_model
from glide_core.config import SamplerConfig
from glide_core.guidance import noisy_clip_guide
from glide_core.guidance.clip import normalise
from glide_core.models.noisy_clip import NoisyClip
from glide_core.pipeline import UPSAMPLE_SETTINGS, inpaint, text_to_image, upsample
from glide_core.sampling import model_schedule
from glide_core.training.masks import random_keep_masks
from recipes.emoji.drawings import FILL, HIGH, Scene, Sprites, over
from recipes.emoji.scenes import LISTS, scene_list
from recipes.emoji.subjects import SceneScore, score_scenes
from recipes.emoji.vocabulary import TEMPLATES, fill, with_article

BUNDLED = Path(__file__).parent.parent / "checkpoints" / "bundled"
# ancestral, as the paper: DDIM does not weigh the gradient by the variance, and burns
CLIP_ALONE = SamplerConfig(sampler="ancestral", guidance_scale=1.0)


def draw(scenes: Sequence[Scene], sprites: Sprites) -> Tensor:
    """The scenes as training shows them: [B, 3, 64, 64]."""
    return torch.stack([sprites.render(scene) for scene in scenes])


def in_chunks(make: Callable[[slice], Tensor], count: int, size: int = 20) -> Tensor:
    return torch.cat([make(slice(i, min(i + size, count))) for i in range(0, count, size)])


def score_base(
    folder: Path, sprites: Sprites, count: int, lists: Sequence[str] = LISTS
) -> dict[str, object]:
    """Shares of right subjects, backgrounds and styles, for seen and for held-out scenes."""
    model = load_model(folder / "base.safetensors")
    results: dict[str, object] = {}
    for name in LISTS:
        if name not in lists:
            continue
        scenes = scene_list(sprites, name, count)
        captions = [sprites.caption(scene) for scene in scenes]
        seeds = list(range(len(scenes)))
        out = in_chunks(lambda s: text_to_image(model, captions[s], seeds=seeds[s]), len(scenes))  # noqa: B023
        results[name] = _shares(score_scenes(out, scenes, sprites), scenes, sprites)
    return results


def _shares(score: SceneScore, scenes: Sequence[Scene], sprites: Sprites) -> dict[str, object]:
    misses = [
        f"{sprites.caption(scene)} -> {' and '.join(found)}"
        for scene, found, right in zip(scenes, score.nearest, score.right_subject, strict=True)
        if not right
    ]
    shares = {"subject": score.subject, "background": score.background, "style": score.style}
    return {"n": len(scenes), **shares, "misses": misses}


def score_clip_guidance(folder: Path, sprites: Sprites, count: int) -> dict[str, object]:
    """CLIP guidance alone: the base model without a caption, pulled by the noisy CLIP."""
    model = load_model(folder / "base.safetensors")
    clip = load_clip(folder / "clip.safetensors")
    scenes = scene_list(sprites, "seen", count)
    captions = [sprites.caption(scene) for scene in scenes]
    results: dict[str, object] = {}
    for scale in (0.0, 1.0, 3.0, 10.0):
        with torch.no_grad():
            text = clip.encode_prompts(captions)

        def make(s: slice, scale: float = scale, text: Tensor = text) -> Tensor:
            empty = [""] * len(captions[s])
            guide = noisy_clip_guide(clip, text[s], scale) if scale else None
            seeds = list(range(count))[s]
            return text_to_image(model, empty, seeds=seeds, settings=CLIP_ALONE, cond_fn=guide)

        score = score_scenes(in_chunks(make, count), scenes, sprites)
        results[f"scale {scale:g}"] = {
            key: value for key, value in _shares(score, scenes, sprites).items() if key != "misses"
        }
    return results


def all_captions(sprites: Sprites) -> list[str]:
    """The plain caption of every subject in every style on every background."""
    pool = scene_list(sprites, "seen", 10**6) + scene_list(sprites, "unseen-background", 10**6)
    return [sprites.caption(scene) for scene in pool + scene_list(sprites, "unseen-style", 10**6)]


def score_clip(folder: Path, sprites: Sprites, count: int) -> dict[str, object]:
    """Share of pictures whose own caption is the nearest of all plain captions, per timestep; the
    pictures show trained subjects, on trained backgrounds and on ones never seen with them."""
    clip: NoisyClip = load_clip(folder / "clip.safetensors")
    schedule = model_schedule(load_model(folder / "base.safetensors").config)
    captions = all_captions(sprites)
    results: dict[str, object] = {"captions": len(captions)}
    with torch.no_grad():
        text = torch.cat(
            [
                normalise(clip.encode_prompts(captions[i : i + 256]))
                for i in range(0, len(captions), 256)
            ]
        )
        for name in ("seen", "unseen-background"):
            scenes = scene_list(sprites, name, count)
            pictures = draw(scenes, sprites)
            wanted = torch.tensor([captions.index(sprites.caption(scene)) for scene in scenes])
            for timestep in (0, 250, 500, 750):
                t = torch.full((len(scenes),), timestep)
                noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
                image = normalise(clip.encode_image(schedule.q_sample(pictures, t, noise), t))
                rank = (image @ text.T).topk(5, dim=1).indices == wanted[:, None]
                top1, top5 = (float(rank[:, :k].any(dim=1).float().mean()) for k in (1, 5))
                results[f"{name} t={timestep}"] = {"top1": top1, "top5": top5}
    return results


def high_scenes(sprites: Sprites, count: int, seed: int = 1) -> tuple[Tensor, list[str]]:
    """Drawings that no upsampler was trained on, at 256x256, and their captions."""
    rng = torch.Generator().manual_seed(seed)
    rows = sprites.unseen_by_upsamplers
    order = torch.randperm(len(rows), generator=rng)[:count].tolist()
    pictures, captions = [], []
    for i in order:
        row, colour = rows[i], int(torch.randint(len(sprites.colours), (), generator=rng))
        pictures.append(over(sprites.layers(row, HIGH, FILL), sprites.palette[colour]))
        noun = ("flat " if sprites.styles[row] == 1 else "") + sprites.labels[row].lower()
        captions.append(fill(TEMPLATES[0], with_article(noun), sprites.colours[colour]))
    return torch.stack(pictures), captions


def score_upsampler(
    folder: Path, sprites: Sprites, count: int, settings: SamplerConfig = UPSAMPLE_SETTINGS
) -> dict[str, float]:
    """PSNR and edge strength on drawings never trained on, of the model and of bicubic."""
    model = load_model(folder / "upsampler.safetensors")
    pictures, captions = high_scenes(sprites, count)
    low = F.avg_pool2d(pictures, 4)
    seeds = list(range(count))
    out = in_chunks(
        lambda s: upsample(model, low[s], captions[s], seeds=seeds[s], settings=settings), count, 4
    )
    bicubic = F.interpolate(low, scale_factor=4, mode="bicubic").clamp(-1, 1)
    return {
        "n": count,
        "model": psnr(out, pictures),
        "bicubic": psnr(bicubic, pictures),
        "model_edges": sharpness(out) / sharpness(pictures),
        "bicubic_edges": sharpness(bicubic) / sharpness(pictures),
    }


def score_inpaint(folder: Path, sprites: Sprites, count: int) -> dict[str, float]:
    """Erase the right half of a drawing and ask for its subject again: error in the hole, against
    filling the hole with the background; the known pixels' largest change; the seam."""
    model = load_model(folder / "inpaint.safetensors")
    scenes = scene_list(sprites, "seen", count)
    captions, pictures = [sprites.caption(scene) for scene in scenes], draw(scenes, sprites)
    keep = torch.ones(count, 1, 64, 64)
    keep[..., 32:] = 0
    seeds = list(range(count))
    out = in_chunks(
        lambda s: inpaint(model, pictures[s], keep[s], captions[s], seeds=seeds[s]), count
    )
    flat = torch.stack([sprites.palette[scene.background] for scene in scenes])[:, :, None, None]
    hole = 1 - keep
    return {
        "n": count,
        "hole_mse": float(((out - pictures).square() * hole).sum() / hole.sum() / 3),
        "background_mse": float(((flat - pictures).square() * hole).sum() / hole.sum() / 3),
        "known_change": float(((out - pictures).abs() * keep).max()),
        # the step across the mask's edge; 1: as large as in the drawings themselves
        "seam": float(_step(out, 32) / _step(pictures, 32)),
    }


def score_upsampler_inpaint(folder: Path, sprites: Sprites, count: int) -> dict[str, float]:
    """PSNR inside random holes, of the model and of bicubic enlargement, with the true 64x64
    picture as low_res; and the known pixels' largest change."""
    model = load_model(folder / "upsampler_inpaint.safetensors")
    pictures, captions = high_scenes(sprites, count, seed=2)
    keep = random_keep_masks(torch.Generator().manual_seed(2), count, 256)
    low = F.avg_pool2d(pictures, 4)
    seeds = list(range(count))
    out = in_chunks(
        lambda s: inpaint(
            model,
            pictures[s],
            keep[s],
            captions[s],
            low_res=low[s],
            seeds=seeds[s],
        ),
        count,
        4,
    )
    bicubic = F.interpolate(low, scale_factor=4, mode="bicubic").clamp(-1, 1)
    hole = 1 - keep

    def inside(picture: Tensor) -> float:
        error = ((picture - pictures).square() * hole).sum() / hole.sum() / 3
        return float(10 * torch.log10(4 / error))

    change = float(((out - pictures).abs() * keep).max())
    return {"n": count, "model": inside(out), "bicubic": inside(bicubic), "known_change": change}


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal to noise ratio in dB of pictures in [-1, 1], mean over the batch."""
    error = (a - b).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


def sharpness(pictures: Tensor) -> float:
    """Mean square step between neighbouring pixels: edges weigh most."""
    across = (pictures[..., 1:] - pictures[..., :-1]).square().mean()
    down = (pictures[..., 1:, :] - pictures[..., :-1, :]).square().mean()
    return float(across + down)


def _step(pictures: Tensor, column: int) -> Tensor:
    return (pictures[..., column] - pictures[..., column - 1]).abs().mean()


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure the bundled models.")
    parser.add_argument("store", type=Path, help="the store of training drawings (.npz)")
    parser.add_argument("--folder", type=Path, default=BUNDLED, help="where the models are")
    parser.add_argument("--count", type=int, default=100, help="samples of the base model")
    parser.add_argument("--only", nargs="*", help="base clip clip_guidance upsampler inpaint")
    parser.add_argument("--lists", nargs="*", default=LISTS, help=f"of base: {' '.join(LISTS)}")
    arguments = parser.parse_args(given)
    sprites, folder, count = Sprites(arguments.store), arguments.folder, arguments.count
    scores: dict[str, Callable[[], object]] = {
        "base": lambda: score_base(folder, sprites, count, arguments.lists),
        "clip": lambda: score_clip(folder, sprites, 5 * count),
        "clip_guidance": lambda: score_clip_guidance(folder, sprites, min(count, 40)),
        "upsampler": lambda: score_upsampler(folder, sprites, min(count, 40)),
        "inpaint": lambda: score_inpaint(folder, sprites, min(count, 40)),
        "upsampler_inpaint": lambda: score_upsampler_inpaint(folder, sprites, min(count, 20)),
    }
    for name, score in scores.items():
        if not arguments.only or name in arguments.only:
            print(json.dumps({name: score()}), flush=True)


if __name__ == "__main__":
    main()
