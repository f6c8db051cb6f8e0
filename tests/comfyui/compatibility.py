"""Measure every core sampler and scheduler on the bundled base model, as Markdown tables.

    COMFYUI_PATH=... python -m comfyui.compatibility STORE.npz [--count N]   (from tests/)

Not a test: the tables in docs/compatibility.md come from it. STORE.npz is the training data, which
tells by the nearest drawing whether the asked subject was drawn.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from comfyui.inside import Inside
from comfyui.tiny import Checkpoints, write_checkpoints

from glide_core.evaluation.scenes import scene_list
from glide_core.evaluation.subjects import score_scenes
from glide_core.training.sprites import Sprites

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS, CFG = 20, 3.0


class Bench:
    """The bundled model in ComfyUI, a list of captions, and the pictures to compare with."""

    def __init__(self, comfy: Inside, sprites: Sprites, count: int) -> None:
        self.comfy, self.sprites = comfy, sprites
        self.scenes = scene_list(sprites, "seen", count)
        self.captions = [sprites.caption(scene) for scene in self.scenes]
        self.model, clip, _ = comfy(
            "GlideLoader", checkpoint="bundled/base.safetensors", dtype="float32"
        )
        parts = [comfy.prompt(clip, caption)[0] for caption in self.captions]
        pooled = torch.cat([extras["pooled_output"] for _, extras in parts])
        states = torch.cat([states for states, _ in parts])
        self.positive = [[states, {**parts[0][1], "pooled_output": pooled}]]
        self.negative = comfy.prompt(clip, "")
        self.empty = comfy.empty(count)
        self.reference = self.exact(sampler_name="ddim", steps=100)

    def exact(self, **changes: Any) -> torch.Tensor:
        """GLIDE Sampler's pictures."""
        inputs = {"seed": 0, "steps": STEPS, "sampler_name": "ddim", "cfg": CFG, **changes}
        found = self.comfy(
            "GlideSampler",
            model=self.model,
            positive=self.positive,
            negative=self.negative,
            latent_image=self.empty,
            **inputs,
        )
        return found[1]["samples"].clone()

    def core(self, **changes: Any) -> torch.Tensor:
        inputs = {"steps": STEPS, "cfg": CFG, "latent_image": self.empty, **changes}
        return self.comfy.ksampler(self.model, self.positive, self.negative, **inputs)

    def row(self, name: str, draw: Any) -> str:
        start = time.perf_counter()
        try:
            pictures = draw()
        except Exception as error:  # the table says what failed, and how
            return f"| {name} | failed: {type(error).__name__} | | |"
        seconds = time.perf_counter() - start
        if not torch.isfinite(pictures).all():
            return f"| {name} | not finite | | |"
        pictures = pictures.clamp(-1, 1)
        score = score_scenes(pictures, self.scenes, self.sprites)
        rough = (pictures[..., 1:] - pictures[..., :-1]).abs().mean()
        usual = (self.reference[..., 1:] - self.reference[..., :-1]).abs().mean()
        return (
            f"| {name} | {score.subject:.0%} | {score.background:.0%} | {rough / usual:.2f} | "
            f"{seconds / len(pictures):.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--count", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints: Checkpoints = write_checkpoints(Path(folder))
        comfy = Inside(Path(os.environ["COMFYUI_PATH"]), REPOSITORY, checkpoints)
        bench = Bench(comfy, Sprites(options.store), options.count)
        head = "| {} | subject | background | roughness | s/picture |\n|---|---|---|---|---|"
        print(head.format("GLIDE Sampler"), flush=True)
        for name in ("ancestral", "ddim", "plms", "dpmpp_2m", "unipc", "deis", "heun"):
            print(bench.row(name, lambda name=name: bench.exact(sampler_name=name)), flush=True)
        print("\n" + head.format("KSampler, normal"), flush=True)
        for name in comfy.samplers.SAMPLER_NAMES:
            print(bench.row(name, lambda name=name: bench.core(sampler_name=name)), flush=True)
        print("\n" + head.format("scheduler, dpmpp_2m"), flush=True)
        for name in comfy.samplers.SCHEDULER_NAMES:
            draw = lambda name=name: bench.core(sampler_name="dpmpp_2m", scheduler=name)  # noqa: E731
            print(bench.row(name, draw), flush=True)


if __name__ == "__main__":
    main()
