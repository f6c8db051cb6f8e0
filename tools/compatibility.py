"""Measure ComfyUI's samplers, schedulers and nodes on the bundled base model, as Markdown tables.

    COMFYUI_PATH=... python -m tools.compatibility STORE.npz [TABLE...]

(from the repository's root; --count N, --sheet FILE, --packs FOLDER...). It prints the tables of
docs/compatibility.md. STORE.npz is the bundled models' data (recipes/emoji/README.md): an image's
subject is that of the nearest emoji drawing.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from glide_core.images import to_pil
from recipes.emoji.drawings import Sprites
from recipes.emoji.scenes import SceneList, scene_list
from recipes.emoji.subjects import score_scenes
from tools import compatibility_patches
from tools.comfyui.checkpoints import temporary_checkpoints
from tools.comfyui.inside import Inside
from tools.compatibility_cases import CASES, CFG, STEPS
from tools.compatibility_patches import Row, patches

EXACT = ("ddpm", "ddim", "plms", "dpmpp_2m", "unipc", "deis", "heun")
HEAD = "| {} | subject | background | roughness | distance | s/image |\n|---|---|---|---|---|---|"
# combinations recommended for a sampler instead of normal
PAIRS = (
    ("dpmpp_3m_sde", "exponential", CFG),
    ("dpmpp_3m_sde", "karras", CFG),
    ("dpmpp_2m_sde", "exponential", CFG),
    ("dpmpp_2m_sde_heun", "exponential", CFG),
    ("res_multistep_ancestral", "exponential", CFG),
    ("euler_cfg_pp", "normal", 1.0),
    ("dpmpp_2m_cfg_pp", "normal", 1.0),
    ("res_multistep_cfg_pp", "normal", 1.0),
    ("heun", "simple", CFG),
    ("heun", "karras", CFG),
    ("dpm_2_ancestral", "karras", CFG),
    ("dpm_2_ancestral", "simple", CFG),
    ("dpm_fast", "simple", CFG),
)
Sample = Callable[[], torch.Tensor]


class Bench:
    """The bundled model in ComfyUI, a list of captions, and the reference images."""

    def __init__(
        self, comfy: Inside, sprites: Sprites, count: int, scenes: SceneList = "seen"
    ) -> None:
        self.comfy, self.sprites = comfy, sprites
        self.scenes = scene_list(sprites, scenes, count)
        self.captions = [sprites.caption(scene) for scene in self.scenes]
        self.model, self.clip, self.vae = comfy(
            "GlideLoader", checkpoint="bundled/base.safetensors", dtype="float32"
        )
        self.positive = self.prompts(self.captions)
        self.negative = comfy.prompt(self.clip, "")
        self.empty = comfy.empty(count)
        self.finished: list[tuple[str, torch.Tensor]] = []  # for the sheet
        self.remarks: list[str] = []  # of the current row
        self.rows: list[Row] = []  # for the sheet of patches

    @cached_property
    def reference(self) -> torch.Tensor:
        """GLIDE Sampler's images after 100 steps of ddim."""
        return self.exact(steps=100)

    def prompts(self, captions: Sequence[str]) -> list[Any]:
        """One CONDITIONING with one prompt per image of the batch."""
        parts = [self.comfy.prompt(self.clip, caption)[0] for caption in captions]
        pooled = torch.cat([extras["pooled_output"] for _, extras in parts])
        states = torch.cat([states for states, _ in parts])
        return [[states, {**parts[0][1], "pooled_output": pooled}]]

    def exact(self, **changes: Any) -> torch.Tensor:
        """Return GLIDE Sampler's images."""
        inputs = {"seed": 0, "steps": STEPS, "sampler_name": "ddim", "cfg": CFG, **changes}
        inputs = {"model": self.model, "positive": self.positive, **inputs}
        found = self.comfy(
            "GlideSampler", negative=self.negative, latent_image=self.empty, **inputs
        )
        return found[1]["samples"].clone()

    def builtin(self, **changes: Any) -> torch.Tensor:
        """Return KSampler's images: euler on the normal scheduler unless changed."""
        inputs = {
            "model": self.model,
            "positive": self.positive,
            "negative": self.negative,
            "steps": STEPS,
            "cfg": CFG,
            "latent_image": self.empty,
            **changes,
        }
        return self.comfy.ksampler(**inputs)

    def remark(self, text: str) -> None:
        """Add text to the name of the current row."""
        self.remarks.append(text)

    def shares(self, samples: torch.Tensor) -> str:
        """Return the shares of images with the requested subject and background."""
        score = score_scenes(samples.clamp(-1, 1), self.scenes, self.sprites)
        return f"{score.subject:.0%} | {score.background:.0%}"

    def row(self, name: str, sample: Sample, compare: torch.Tensor | None = None) -> str:
        """One line of a table.

        Roughness: the mean step between neighbouring pixels, over that of the reference. Distance:
        rms over pixels, of images in [-1, 1], to `compare`.
        """
        self.remarks.clear()
        start = time.perf_counter()
        try:
            samples = sample()
        except Exception as error:  # the table names the error
            return f"| {name} | failed: {type(error).__name__}: {error} | | | | |"
        seconds = time.perf_counter() - start
        if not torch.isfinite(samples).all():
            return f"| {name} | not finite | | | | |"
        self.finished.append((name, samples[:3]))
        compare = self.reference if compare is None else compare
        rough = (samples[..., 1:] - samples[..., :-1]).abs().mean()
        usual = (self.reference[..., 1:] - self.reference[..., :-1]).abs().mean()
        distance = (samples - compare).square().mean().sqrt()
        name = "; ".join([name, *self.remarks])
        return (
            f"| {name} | {self.shares(samples)} | {rough / usual:.2f} | {distance:.3f} | "
            f"{seconds / len(samples):.2f} |"
        )


def samplers(bench: Bench) -> None:
    """GLIDE Sampler's and KSampler's samplers, at the same steps.

    Distance to 100 steps of ddim and of euler, each from the same initial noise.
    """
    print(HEAD.format("GLIDE Sampler"))
    for name in EXACT:
        sample = lambda name=name: bench.exact(sampler_name=name)  # noqa: E731
        print(bench.row(f"GLIDE {name}", sample), flush=True)
    print("\n" + HEAD.format("KSampler, normal"))
    reference = bench.builtin(steps=100)
    for name in bench.comfy.samplers.SAMPLER_NAMES:
        sample = lambda name=name: bench.builtin(sampler_name=name)  # noqa: E731
        print(bench.row(name, sample, reference), flush=True)


def schedulers(bench: Bench) -> None:
    """The schedulers, under dpmpp_2m."""
    print(HEAD.format("scheduler, dpmpp_2m"))
    reference = bench.builtin(steps=100)
    for name in bench.comfy.samplers.SCHEDULER_NAMES:
        sample = lambda name=name: bench.builtin(sampler_name="dpmpp_2m", scheduler=name)  # noqa: E731
        print(bench.row(name, sample, reference), flush=True)


def pairs(bench: Bench) -> None:
    """Samplers with a scheduler or a guidance scale of their own."""
    print(HEAD.format("sampler, scheduler, cfg"))
    reference = bench.builtin(steps=100)
    for sampler, scheduler, cfg in PAIRS:
        run = {"sampler_name": sampler, "scheduler": scheduler, "cfg": cfg}
        sample = lambda run=run: bench.builtin(**run)  # noqa: E731
        print(bench.row(f"{sampler}, {scheduler}, {cfg:g}", sample, reference), flush=True)


def nodes(bench: Bench) -> None:
    """ComfyUI's built-in nodes; distance to the same run without the node."""
    plain = bench.builtin()
    print(HEAD.format("node, euler"))
    print(bench.row("(none)", bench.builtin, plain), flush=True)
    for name, case in CASES.items():
        print(bench.row(name, lambda case=case: case(bench), plain), flush=True)


def sheet(finished: Sequence[tuple[str, torch.Tensor]], path: Path, columns: int = 6) -> None:
    """Save the first images of every row of a table, with the row's name below."""
    side, gap, line = 64, 6, 14
    cell = 3 * side + gap, side + line + gap
    rows = -(-len(finished) // columns)
    image = Image.new("RGB", (columns * cell[0] + gap, rows * cell[1] + gap), "white")
    pen = ImageDraw.Draw(image)
    for number, (name, samples) in enumerate(finished):
        left, top = gap + number % columns * cell[0], gap + number // columns * cell[1]
        for i, tile in enumerate(to_pil(samples.clamp(-1, 1))):
            image.paste(tile.resize((side, side)), (left + i * side, top))
        pen.text((left, top + side + 1), name, fill="black")
    image.save(path)


TABLES = {
    "samplers": samplers,
    "schedulers": schedulers,
    "pairs": pairs,
    "nodes": nodes,
    "patches": patches,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], default=list(TABLES))
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--scenes", default="seen", help="kind of captions, see recipes/emoji")
    parser.add_argument("--sheet", type=Path, help="also save images: samplers, patches")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--packs", type=Path, nargs="+", default=[], help="other node packs to try")
    options = parser.parse_args()
    with temporary_checkpoints() as checkpoints:
        comfy = Inside(checkpoints)
        torch.set_num_threads(options.threads)
        for pack in options.packs:
            asyncio.run(comfy.nodes.load_custom_node(str(pack)))
        bench = Bench(comfy, Sprites(options.store), options.count, options.scenes)
        for table in options.tables:
            TABLES[table](bench)
            print(flush=True)
            if table == "samplers" and options.sheet:
                sheet(bench.finished, options.sheet)
            if table == "patches" and options.sheet:
                compatibility_patches.sheet(bench.rows, options.sheet)


if __name__ == "__main__":
    main()
