"""The paper's questions, asked of the bundled models: what docs/findings.md rests on.

    python -m recipes.emoji.findings STORE.npz OUT --second CLIP --clean CLIP [--only ...]

Every question writes a CSV and a plot (PNG and SVG). Prompts are a seeded list, seeds count from 0.
--second is a noisy CLIP trained from another seed, which guides nothing and only judges; --clean
one that was trained on pictures without noise (docs/findings.md says how both were made).
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

from glide_core.checkpoints.loading import load_clip, load_model
from glide_core.config import SamplerConfig
from glide_core.diffusion.types import ConditionFn
from glide_core.guidance import noisy_clip_guide
from glide_core.guidance.clip import normalize
from glide_core.guidance.condition import clone_if_inference, encode_image_for_grad, gradient
from glide_core.io import atomic_write
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from glide_core.sampling import condition_model, inpaint_denoised_fn, sample_model, tokenize
from glide_core.stages import inpaint, text_to_image
from recipes.emoji.curves import Curve, Point, plot_curves
from recipes.emoji.drawings import Scene, Sprites
from recipes.emoji.scenes import scene_list
from recipes.emoji.score import BUNDLED, draw, in_chunks
from recipes.emoji.subjects import score_scenes

ANCESTRAL = SamplerConfig(steps=25, sampler="ddpm", guidance_scale=1.0)


@dataclass(frozen=True)
class Asked:
    """What is drawn and what judges it."""

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


def judge(asked: Asked, pictures: Tensor) -> dict[str, float]:
    """Shares of right subjects and backgrounds, distance to the asked drawing, CLIP cosines."""
    score = score_scenes(pictures, asked.scenes, asked.sprites)
    truth = draw(asked.scenes, asked.sprites)
    values = {
        "subject": score.subject,
        "background": score.background,
        "distance": float((pictures - truth).square().mean(dim=(1, 2, 3)).sqrt().mean()),
    }
    for name, clip in asked.clips.items():
        values[f"cosine_{name}"] = float(cosine(clip, pictures, asked.captions).mean())
    return values


def cosine(clip: NoisyClip, pictures: Tensor, captions: Sequence[str]) -> Tensor:
    """Cosine [B] of pictures with their captions at t = 0."""
    with torch.no_grad():
        text = normalize(clip.encode_prompts(list(captions)))
        image = normalize(clip.encode_image(pictures, torch.zeros(len(pictures)).long()))
    return (image * text).sum(dim=1)


def clean_clip_guide(clip: NoisyClip, text: Tensor, scale: float, *, on_x0: bool) -> ConditionFn:
    """Guidance by a CLIP that knows no noise: it is told t = 0, and sees x_t or the x0 estimate."""

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


def guided(asked: Asked, clip: NoisyClip, guide: Guide, scale: float, caption: bool) -> Tensor:
    """Draw with a CLIP's guidance, with or without the caption in the model; no other guidance."""
    with torch.no_grad():
        text = clip.encode_prompts(asked.captions)
    prompts = asked.captions if caption else [""] * len(asked.scenes)

    def make(s: slice) -> Tensor:
        cond_fn = guide(clip, text[s], scale) if scale else None
        return text_to_image(
            asked.base, prompts[s], seeds=asked.seeds[s], settings=ANCESTRAL, cond_fn=cond_fn
        )

    return in_chunks(make, len(asked.scenes))


def classifier_free(asked: Asked, settings: SamplerConfig) -> Tensor:
    """Draw the captions with classifier-free guidance."""

    def make(s: slice) -> Tensor:
        return text_to_image(asked.base, asked.captions[s], seeds=asked.seeds[s], settings=settings)

    return in_chunks(make, len(asked.scenes))


def ask_guidance(asked: Asked, out: Path) -> None:
    """Classifier-free against CLIP guidance, and noisy against clean CLIP, scale by scale."""
    own, clean = asked.clips["own"], asked.clips["clean"]
    curves = []
    points = [
        Point(scale, judge(asked, classifier_free(asked, replace(ANCESTRAL, guidance_scale=scale))))
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
            Point(scale, judge(asked, guided(asked, clip, guide, scale, caption)))
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


def ask_steps(asked: Asked, out: Path) -> None:
    """Steps that each sampler needs before it matches 250 steps of the reference's sampler."""
    asked = replace(asked, clips={})
    reference = SamplerConfig(steps=250, sampler="ddpm")
    curves = [Curve("ddpm, 250", [Point(250, judge(asked, classifier_free(asked, reference)))])]
    for sampler in SAMPLERS:
        settings = [SamplerConfig(steps=steps, sampler=sampler) for steps in STEPS]
        points = [Point(one.steps, judge(asked, classifier_free(asked, one))) for one in settings]
        curves.append(Curve(sampler, points))
        write(curves, out / "steps.csv")
    for y in ("subject", "distance"):
        plot_curves(curves, "scale", y, out / f"steps_{y}", log_x=True, x_name="steps")


def ask_inpainting(asked: Asked, out: Path) -> None:
    """Implicit (base model, known pixels pasted) against conditioned inpainting (Appendix E)."""
    model = load_model(BUNDLED / "inpaint.safetensors")
    pictures = draw(asked.scenes, asked.sprites)
    asked, curves = replace(asked, clips={}), []
    for name in ("left half", "middle", "three quarters"):
        keep = _keep(name, len(pictures))

        def implicit(s: slice, keep: Tensor = keep) -> Tensor:
            return _implicit(asked, pictures[s], keep[s], s)

        def conditioned(s: slice, keep: Tensor = keep) -> Tensor:
            return inpaint(model, pictures[s], keep[s], asked.captions[s], seeds=asked.seeds[s])

        for kind, make in (("implicit", implicit), ("conditioned", conditioned)):
            found = in_chunks(make, len(pictures))
            hole = 1 - keep
            error = ((found - pictures).square() * hole).sum() / hole.sum() / 3
            values = {"hole_rms": float(error.sqrt()), "seam": seam(found, pictures, keep)}
            values |= judge(asked, found)
            curves.append(Curve(f"{kind}, {name}", [Point(1, values)]))
    write(curves, out / "inpainting.csv")


def seam(found: Tensor, pictures: Tensor, keep: Tensor) -> float:
    """The mean step across the mask's edge, over the same step in the true pictures."""

    def steps(values: Tensor) -> Tensor:
        across = (values[..., 1:] - values[..., :-1]).abs().mean(dim=1, keepdim=True)
        down = (values[..., 1:, :] - values[..., :-1, :]).abs().mean(dim=1, keepdim=True)
        edge_across = (keep[..., 1:] != keep[..., :-1]).to(values)
        edge_down = (keep[..., 1:, :] != keep[..., :-1, :]).to(values)
        total = edge_across.sum() + edge_down.sum()
        return ((across * edge_across).sum() + (down * edge_down).sum()) / total

    return float(steps(found) / steps(pictures))


def _implicit(asked: Asked, pictures: Tensor, keep: Tensor, part: slice) -> Tensor:
    cond = tokenize(asked.base.config, asked.captions[part])
    uncond = tokenize(asked.base.config, [""]) * len(pictures)
    with torch.inference_mode():
        # the base model, which is not given the image: only its x0 estimates are
        model = replace(
            condition_model(asked.base, cond, uncond),
            denoised_fn=inpaint_denoised_fn(pictures, keep),
        )
        return sample_model(model, SamplerConfig(), seeds=asked.seeds[part])


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
    """Write all points as CSV, whole or not at all."""
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
    parser = argparse.ArgumentParser(description="Ask the paper's questions of the small models.")
    parser.add_argument("store", type=Path, help="the store of training drawings (.npz)")
    parser.add_argument("out", type=Path, help="folder for tables and plots")
    parser.add_argument("--second", type=Path, help="a CLIP that only judges (guidance)")
    parser.add_argument("--clean", type=Path, help="a CLIP that knows no noise (guidance)")
    parser.add_argument("--count", type=int, default=48, help="prompts")
    parser.add_argument("--only", nargs="*", help="guidance steps inpainting")
    given = parser.parse_args()
    wanted = given.only or ("guidance", "steps", "inpainting")
    judges = {"own": BUNDLED / "clip.safetensors", "second": given.second, "clean": given.clean}
    if "guidance" in wanted and None in judges.values():
        parser.error("the question of guidance needs --second and --clean")
    sprites = Sprites(given.store)
    asked = Asked(
        sprites,
        scene_list(sprites, "seen", given.count),
        load_model(BUNDLED / "base.safetensors"),
        {name: load_clip(path) for name, path in judges.items() if path is not None},
    )
    given.out.mkdir(parents=True, exist_ok=True)
    questions = {"guidance": ask_guidance, "steps": ask_steps, "inpainting": ask_inpainting}
    for name, ask in questions.items():
        if name in wanted:
            ask(asked, given.out)
            print(given.out / f"{name}.csv", flush=True)


if __name__ == "__main__":
    main()
