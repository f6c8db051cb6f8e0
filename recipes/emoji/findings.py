"""Experiments of docs/findings.md: the paper's comparisons, repeated on the bundled models.

    python -m recipes.emoji.findings STORE.npz OUT --second CLIP --clean CLIP [--only ...]

Every experiment writes a CSV and plots (PNG and SVG). Prompts are a seeded list; image i has seed
i. --second is a noisy CLIP trained from another seed and used for scoring only; --clean is a CLIP
trained on images without noise. docs/findings.md has the commands that train both.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from glide_core.checkpoints.loading import load_clip, load_model
from glide_core.config import SamplerConfig
from glide_core.diffusion.types import ConditionFn
from glide_core.guidance.clip import (
    clone_if_inference,
    encode_image_for_grad,
    gradient,
    noisy_clip_guide,
)
from glide_core.io import atomic_write
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from glide_core.sampling import condition_model, inpaint_denoised_fn, sample_model, tokenize
from glide_core.stages import StageInputs, sample_stage
from recipes.emoji.curves import Curve, Point, plot_curves
from recipes.emoji.drawings import Scene, Sprites
from recipes.emoji.scenes import scene_list
from recipes.emoji.score import BUNDLED, hole_mse, in_chunks, render_scenes
from recipes.emoji.subjects import score_scenes

ANCESTRAL = SamplerConfig(steps=25, sampler="ddpm", guidance_scale=1.0)


@dataclass(frozen=True)
class Setup:
    """Prompts, the model that samples them and the CLIPs that score the images."""

    sprites: Sprites
    scenes: list[Scene]
    base: GlideModel
    clips: dict[str, NoisyClip]  # own, second, clean

    @property
    def captions(self) -> list[str]:
        return [self.sprites.caption(scene) for scene in self.scenes]

    @property
    def seeds(self) -> list[int]:
        return list(range(len(self.scenes)))


def measure(setup: Setup, images: Tensor) -> dict[str, float]:
    """Measure subject and background accuracy, distance to the drawing and CLIP cosines."""
    score = score_scenes(images, setup.scenes, setup.sprites)
    drawings = render_scenes(setup.scenes, setup.sprites)
    values = {
        "subject": score.subject,
        "background": score.background,
        "distance": float((images - drawings).square().mean(dim=(1, 2, 3)).sqrt().mean()),
    }
    for name, clip in setup.clips.items():
        values[f"cosine_{name}"] = float(cosine(clip, images, setup.captions).mean())
    return values


def cosine(clip: NoisyClip, images: Tensor, captions: Sequence[str]) -> Tensor:
    """Return the cosine [B] of images and captions at t = 0."""
    with torch.no_grad():
        text = normalize(clip.encode_prompts(list(captions)))
        image = normalize(clip.encode_image(images, torch.zeros(len(images)).long()))
    return (image * text).sum(dim=1)


def clean_clip_guide(clip: NoisyClip, text: Tensor, scale: float, *, on_x0: bool) -> ConditionFn:
    """Guide by a CLIP trained without noise, called with t = 0 on x_t or on the x0 estimate."""

    def cond_fn(x_t: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
        wanted = clone_if_inference(normalize(text.detach().float()))

        def score(x: Tensor) -> Tensor:
            image = normalize(
                encode_image_for_grad(clip, x, clone_if_inference(torch.zeros_like(t))).float()
            )
            return clip.config.logit_scale * (wanted * image).sum(-1)

        return gradient(score, x0 if on_x0 else x_t) * scale

    return cond_fn


Guide = Callable[[NoisyClip, Tensor, float], ConditionFn]


def guided(setup: Setup, clip: NoisyClip, guide: Guide, scale: float, caption: bool) -> Tensor:
    """Sample with CLIP guidance only; `caption` selects the caption or an empty prompt."""
    with torch.no_grad():
        text = clip.encode_prompts(setup.captions)
    prompts = setup.captions if caption else [""] * len(setup.scenes)

    def make(s: slice) -> Tensor:
        cond_fn = guide(clip, text[s], scale) if scale else None
        return sample_stage(setup.base, prompts[s], setup.seeds[s], ANCESTRAL, cond_fn=cond_fn)

    return in_chunks(make, len(setup.scenes))


def classifier_free(setup: Setup, settings: SamplerConfig) -> Tensor:
    """Sample the captions with classifier-free guidance."""

    def make(s: slice) -> Tensor:
        return sample_stage(setup.base, setup.captions[s], setup.seeds[s], settings)

    return in_chunks(make, len(setup.scenes))


def compare_guidance(setup: Setup, out: Path) -> None:
    """Compare classifier-free guidance, noisy CLIP and clean CLIP at several scales."""
    own, clean = setup.clips["own"], setup.clips["clean"]
    curves = []
    points = [
        Point(
            scale, measure(setup, classifier_free(setup, replace(ANCESTRAL, guidance_scale=scale)))
        )
        for scale in (1.0, 1.5, 2.0, 3.0, 5.0)
    ]
    curves.append(Curve("classifier-free", points))
    guides: list[tuple[str, NoisyClip, Guide, bool]] = [
        ("noisy CLIP, no caption", own, noisy_clip_guide, False),
        ("noisy CLIP, with caption", own, noisy_clip_guide, True),
        ("clean CLIP on x0, no caption", clean, _on_x0, False),
        ("clean CLIP on x_t, no caption", clean, _on_x_t, False),
    ]
    for name, clip, guide, caption in guides:
        points = [
            Point(scale, measure(setup, guided(setup, clip, guide, scale, caption)))
            for scale in (0.0, 1.0, 3.0, 6.0, 12.0)
        ]
        curves.append(Curve(name, points))
        write(curves, out / "guidance.csv")
    plot_curves(curves, "cosine_own", "cosine_second", out / "guidance_own_second")
    plot_curves(curves, "scale", "distance", out / "guidance_distance", log_x=True)


def _on_x0(clip: NoisyClip, text: Tensor, scale: float) -> ConditionFn:
    return clean_clip_guide(clip, text, scale, on_x0=True)


def _on_x_t(clip: NoisyClip, text: Tensor, scale: float) -> ConditionFn:
    return clean_clip_guide(clip, text, scale, on_x0=False)


STEPS = (4, 8, 12, 20, 30)
SAMPLERS = ("ddpm", "ddim", "plms", "dpmpp_2m", "unipc", "euler_ancestral", "heun")


def compare_steps(setup: Setup, out: Path) -> None:
    """Compare samplers at several step counts with 250 steps of the reference's sampler."""
    setup = replace(setup, clips={})
    reference = SamplerConfig(steps=250, sampler="ddpm")
    curves = [Curve("ddpm, 250", [Point(250, measure(setup, classifier_free(setup, reference)))])]
    for sampler in SAMPLERS:
        settings = [SamplerConfig(steps=steps, sampler=sampler) for steps in STEPS]
        points = [Point(one.steps, measure(setup, classifier_free(setup, one))) for one in settings]
        curves.append(Curve(sampler, points))
        write(curves, out / "steps.csv")
    for y in ("subject", "distance"):
        plot_curves(curves, "scale", y, out / f"steps_{y}", log_x=True, x_name="steps")


def compare_inpainting(setup: Setup, out: Path) -> None:
    """Compare inpainting by the base model and by the inpainting model (paper, Appendix E).

    implicit: the base model, with the known pixels copied into each x0 estimate.
    """
    model = load_model(BUNDLED / "inpaint.safetensors")
    images = render_scenes(setup.scenes, setup.sprites)
    setup, curves = replace(setup, clips={}), []
    for name in ("left half", "middle", "three quarters"):
        keep = _keep(name, len(images))

        def implicit(s: slice, keep: Tensor = keep) -> Tensor:
            return _implicit(setup, images[s], keep[s], s)

        def conditioned(s: slice, keep: Tensor = keep) -> Tensor:
            return sample_stage(
                model,
                setup.captions[s],
                setup.seeds[s],
                inputs=StageInputs(image=images[s], keep_mask=keep[s]),
            )

        for kind, make in (("implicit", implicit), ("conditioned", conditioned)):
            found = in_chunks(make, len(images))
            error = hole_mse(found, images, 1 - keep)
            values = {"hole_rms": float(error.sqrt()), "seam": seam(found, images, keep)}
            values |= measure(setup, found)
            curves.append(Curve(f"{kind}, {name}", [Point(1, values)]))
    write(curves, out / "inpainting.csv")


def seam(found: Tensor, images: Tensor, keep: Tensor) -> float:
    """Mean difference across the mask's edge, divided by that of the true images."""

    def steps(values: Tensor) -> Tensor:
        across = (values[..., 1:] - values[..., :-1]).abs().mean(dim=1, keepdim=True)
        down = (values[..., 1:, :] - values[..., :-1, :]).abs().mean(dim=1, keepdim=True)
        edge_across = (keep[..., 1:] != keep[..., :-1]).to(values)
        edge_down = (keep[..., 1:, :] != keep[..., :-1, :]).to(values)
        total = edge_across.sum() + edge_down.sum()
        return ((across * edge_across).sum() + (down * edge_down).sum()) / total

    return float(steps(found) / steps(images))


def _implicit(setup: Setup, images: Tensor, keep: Tensor, part: slice) -> Tensor:
    cond = tokenize(setup.base.config, setup.captions[part])
    uncond = tokenize(setup.base.config, [""]) * len(images)
    with torch.inference_mode():
        # the base model has no image input: the known pixels enter its x0 estimates only
        model = replace(
            condition_model(setup.base, cond, uncond),
            denoised_fn=inpaint_denoised_fn(images, keep),
        )
        return sample_model(model, SamplerConfig(), seeds=setup.seeds[part])


def _keep(name: str, count: int) -> Tensor:
    keep = torch.ones(count, 1, 64, 64)
    if name == "left half":
        keep[..., :32] = 0
    elif name == "middle":
        keep[..., 16:48, 16:48] = 0
    else:
        keep[..., 16:, :] = 0
    return keep


def write(curves: Sequence[Curve], path: Path) -> None:
    """Write all points as CSV, atomically."""
    names = ["curve", "value", *curves[0].points[0].values]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for curve in curves:
        for point in curve.points:
            row = [f"{value:.4f}" for value in point.values.values()]
            writer.writerow([curve.name, f"{point.scale:g}", *row])
    with atomic_write(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the experiments of docs/findings.md.")
    parser.add_argument("store", type=Path, help="the store of training drawings (.npz)")
    parser.add_argument("out", type=Path, help="folder for tables and plots")
    parser.add_argument("--second", type=Path, help="a CLIP used for scoring only (guidance)")
    parser.add_argument("--clean", type=Path, help="a CLIP trained without noise (guidance)")
    parser.add_argument("--count", type=int, default=48, help="prompts")
    parser.add_argument("--only", nargs="*", help="guidance steps inpainting")
    given = parser.parse_args()
    wanted = given.only or ("guidance", "steps", "inpainting")
    clips = {"own": BUNDLED / "clip.safetensors", "second": given.second, "clean": given.clean}
    if "guidance" in wanted and None in clips.values():
        parser.error("the guidance experiment needs --second and --clean")
    sprites = Sprites(given.store)
    setup = Setup(
        sprites,
        scene_list(sprites, "seen", given.count),
        load_model(BUNDLED / "base.safetensors"),
        {name: load_clip(path) for name, path in clips.items() if path is not None},
    )
    given.out.mkdir(parents=True, exist_ok=True)
    experiments = {
        "guidance": compare_guidance,
        "steps": compare_steps,
        "inpainting": compare_inpainting,
    }
    for name, run in experiments.items():
        if name in wanted:
            run(setup, given.out)
            print(given.out / f"{name}.csv", flush=True)


if __name__ == "__main__":
    main()
