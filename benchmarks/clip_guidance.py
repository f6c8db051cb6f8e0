"""Measure CLIP guidance on the bundled models: sampler and scale against what the images show.

    python -m benchmarks.clip_guidance sprites.npz --out docs/clip_guidance.md

(from the repository's root; `recipes/emoji/README.md` says how sprites.npz is made). The guiding
CLIP cannot judge its own effect, so the images are compared with the drawings that the prompts
describe, which no CLIP had a part in: the nearest of all subjects, the background colour, and the
distance to the right drawing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from glide_core.checkpoints.catalog import find_model
from glide_core.checkpoints.loading import load_clip, load_model
from glide_core.config import SamplerConfig
from glide_core.guidance.clip import noisy_clip_guide
from glide_core.stages import sample_stage
from recipes.emoji.drawings import Sprites
from recipes.emoji.scenes import scene_list
from recipes.emoji.score import render_scenes, rms
from recipes.emoji.subjects import score_scenes

SAMPLERS = (("ddpm", True), ("ddim", True), ("dpmpp_2m", True), ("ddim", False))
SCALES = (1.0, 2.0, 4.0, 8.0)

TEXT = """# CLIP guidance: samplers and scales

Written by `python -m benchmarks.clip_guidance` (bundled models, {count} prompts of trained
scenes, one seed each, {steps} steps, cfg 1, 64x64; one image is {step:.3g} %).

"With caption": the base model has the prompt too, as in `glide generate PROMPT --clip-scale`.
"CLIP alone": the base model has an empty caption, and only the gradient knows the prompt.
*Subject*, *background*: share of images whose nearest drawing, and whose border colour, are those of
the prompt. *Distance*: root mean square difference to the drawing of the prompt, images in [-1, 1];
it takes the place of a second CLIP's score. *Saturated*: share of values at or beyond -1 and 1.
"ddim, unclipped" is the reference's behaviour (`--no-clip-guided`, `clip_guided=False`): estimates
are not clipped after the gradient has moved them. A drawing itself has {drawn:.0%} saturated values.

| sampler | scale | subject | background | distance | saturated | background, CLIP alone | distance, CLIP alone | saturated, CLIP alone |
|---|---|---|---|---|---|---|---|---|
{rows}

Chosen from this table: estimates are clipped by default; GLIDE CLIP Guidance starts at scale 4, and
2 to 8 is usual. A prompt that the model follows by itself is not changed at these scales: to add
what the prompt leaves out, give CLIP a text of its own (`--clip-prompt`) and a scale of about 30
with ddim, which works at the first steps too, while ddpm weights the gradient by each step's variance.
"""  # noqa: E501


def measure(images: Tensor, scenes: Sequence[object], sprites: Sprites) -> list[str]:
    """Subject, background, distance and saturated share of images [B, 3, 64, 64], as cells."""
    score = score_scenes(images, scenes, sprites)
    saturated = float((images.abs() >= 1).float().mean())
    distance = rms(images.clamp(-1, 1), render_scenes(scenes, sprites))
    shares = (f"{score.subject:.0%}", f"{score.background:.0%}")
    return [*shares, f"{distance:.3f}", f"{saturated:.1%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sprites", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=8, help="prompts")
    parser.add_argument("--steps", type=int, default=15)
    arguments = parser.parse_args()
    sprites = Sprites(arguments.sprites)
    scenes = scene_list(sprites, "seen", arguments.count)
    captions = [sprites.caption(scene) for scene in scenes]
    seeds = list(range(len(scenes)))
    model, clip = load_model(find_model("base")), load_clip(find_model("clip"))
    with torch.no_grad():
        text = clip.encode_prompts(captions)

    def images(sampler: str, clipped: bool, scale: float, prompts: Sequence[str]) -> Tensor:
        settings = SamplerConfig(
            steps=arguments.steps, sampler=sampler, guidance_scale=1.0, clip_guided=clipped
        )
        guide = noisy_clip_guide(clip, text, scale) if scale else None
        return sample_stage(model, prompts, seeds, settings, cond_fn=guide)

    rows = []
    runs = [(name, clipped, scale) for name, clipped in SAMPLERS for scale in SCALES]
    for name, clipped, scale in [("ddpm", True, 0.0), ("ddim", True, 0.0), *runs]:
        with_caption = measure(images(name, clipped, scale, captions), scenes, sprites)
        alone = measure(images(name, clipped, scale, [""] * len(seeds)), scenes, sprites)
        shown = name if clipped else f"{name}, unclipped"
        rows.append(f"| {shown} | {scale:g} | {' | '.join([*with_caption, *alone[1:]])} |")
        print(rows[-1], flush=True)
    drawn = float((render_scenes(scenes, sprites).abs() >= 1).float().mean())
    count = len(scenes)
    page = TEXT.format(
        count=count, steps=arguments.steps, step=100 / count, drawn=drawn, rows="\n".join(rows)
    )
    if arguments.out is not None:
        arguments.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
