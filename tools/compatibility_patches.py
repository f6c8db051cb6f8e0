"""Patches of attention and of guidance on the bundled model, under both samplers.

For tools/compatibility.py: each patch at the scale that is useful for the bundled base model, the
same captions and first noise with and without it, as a table and as a sheet of images.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, ImageDraw
from torch import Tensor

from glide_core.images import to_pil
from recipes.emoji.score import render_scenes, rms
from recipes.emoji.subjects import score_scenes

if TYPE_CHECKING:
    from tools.compatibility import Bench

SHOWN, SIDE, TEXT = 4, 96, 330  # images of a row, their size and the width of the label, in pixels
HEAD = (
    "| node | cfg | KSampler: subjects | to the drawing | moved | GLIDE Sampler: subjects | to the "
    "drawing | moved |\n|---|---|---|---|---|---|---|---|"
)


class Patch(NamedTuple):
    """A node from MODEL to MODEL; `None` runs without one, as the reference of its cfg.

    inputs: values; one that begins with @ names a CONDITIONING of the bench.
    """

    node: str | None
    cfg: float
    inputs: dict[str, Any] = {}

    @property
    def label(self) -> str:
        shown = [
            f"{name} {value}"
            for name, value in self.inputs.items()
            if value != "@negative" and self.inputs is not THRESHOLD
        ]
        return ", ".join([self.node or "without a patch", *shown])


PAG: dict[str, Any] = {"scale": 3.0}
PACK: dict[str, Any] = {"unet_block": "middle", "unet_block_id": 0, **PAG}
THRESHOLD: dict[str, Any] = {
    "mimic_scale": 3.0,
    "threshold_percentile": 1.0,
    "mimic_mode": "Half Cosine Up",
    "mimic_scale_min": 1.0,
    "cfg_mode": "Half Cosine Up",
    "cfg_scale_min": 1.0,
    "sched_val": 1.0,
    "separate_feature_channels": "enable",
    "scaling_startpoint": "MEAN",
    "variability_measure": "AD",
    "interpolate_phi": 1.0,
}
PATCHES = (
    Patch(None, 1.5),
    Patch("PerturbedAttentionGuidance", 1.5, PAG),
    Patch("PerturbedAttention", 1.5, PACK),
    Patch("SelfAttentionGuidance", 1.5, {"scale": 1.0, "blur_sigma": 2.0}),
    Patch("NAGuidance", 1.5, {"nag_scale": 3.0, "nag_alpha": 0.25, "nag_tau": 1.5}),
    Patch("SmoothedEnergyGuidanceAdvanced", 1.5, PACK),
    Patch(
        "SlidingWindowGuidanceAdvanced",
        1.5,
        {"scale": 2.0, "tile_width": 256, "tile_height": 256, "tile_overlap": 128},
    ),
    Patch("NormalizedAttentionGuidance", 1.5, {"negative": "@negative", "scale": 3.0}),
    Patch("FrequencyDecoupledGuidance", 1.5, {"strength_high": 3.0}),
    Patch("MomentumGuidance", 1.5, {"momentum": 0.5, "ema": 0.6}),
    Patch("SlidingModeControlCFG", 1.5, {"lambda": 6.0, "k": 0.1}),
    Patch(None, 3.0),
    Patch("TomePatchModel", 3.0, {"ratio": 0.3}),
    Patch(
        "HyperTile",
        3.0,
        {"tile_size": 32, "swap_size": 2, "max_depth": 0, "scale_depth": False},
    ),
    Patch(None, 10.0),
    Patch("DynamicThresholdingSimple", 10.0, {"mimic_scale": 3.0, "threshold_percentile": 1.0}),
    Patch("DynamicThresholdingFull", 10.0, THRESHOLD),
)


class Row(NamedTuple):
    label: str
    images: list[Tensor]  # KSampler's and GLIDE Sampler's


def patches(bench: Bench) -> None:
    """Print the table; keep the rows for the sheet in `bench.rows`."""
    print(HEAD)
    references: list[Tensor] = []
    for patch in PATCHES:
        if patch.node and bench.comfy.find(patch.node) is None:
            print(f"| {patch.label} | {patch.cfg:g} | not installed | | | | | |", flush=True)
            continue
        found = run(bench, patch)
        if patch.node is None:
            references = found
        cells = [
            cell
            for samples, reference in zip(found, references, strict=True)
            for cell in measured(bench, samples, reference)
        ]
        print(f"| {patch.label} | {patch.cfg:g} | {' | '.join(cells)} |", flush=True)
        bench.rows.append(Row(f"{patch.label}\ncfg {patch.cfg:g}", [s[:SHOWN] for s in found]))


def run(bench: Bench, patch: Patch) -> list[Tensor]:
    """Sample with KSampler's euler and with GLIDE Sampler's ddim."""
    model = bench.model
    if patch.node:
        inputs = {
            name: getattr(bench, value[1:]) if str(value).startswith("@") else value
            for name, value in patch.inputs.items()
        }
        model = bench.comfy(patch.node, model=model, **inputs)
    return [
        bench.builtin(model=model, cfg=patch.cfg),
        bench.exact(model=model, cfg=patch.cfg),
    ]


def measured(bench: Bench, samples: Tensor, reference: Tensor) -> list[str]:
    """Give a sampler's three cells of a row.

    The share with the requested subjects, the RMS distance to their drawing, and how far the patch
    moved the images (RMS distance to the run without it).
    """
    found = samples.clamp(-1, 1)
    score = score_scenes(found, bench.scenes, bench.sprites)
    drawing = rms(found, render_scenes(bench.scenes, bench.sprites))
    moved = float((samples - reference).square().mean().sqrt())
    return [f"{score.subject:.0%}", f"{drawing:.3f}", f"{moved:.3f}" if moved > 1e-5 else "0"]


def sheet(rows: Sequence[Row], path: Path) -> None:
    """Save KSampler's images on the left and GLIDE Sampler's on the right, a row a patch."""
    gap, head = 8, 24
    half = SHOWN * SIDE + 2 * gap
    page = Image.new("RGB", (TEXT + 2 * half, head + len(rows) * (SIDE + gap)), "white")
    pen = ImageDraw.Draw(page)
    for number, title in enumerate(("KSampler, euler", "GLIDE Sampler, ddim")):
        pen.text((TEXT + number * half, 6), title, fill="black", font_size=14)
    for number, row in enumerate(rows):
        top = head + number * (SIDE + gap)
        lines = row.label.replace(", ", "\n", 1).splitlines()
        label = "\n".join(textwrap.fill(line, 44) for line in lines)
        pen.multiline_text((gap, top + 6), label, fill="black", font_size=13, spacing=4)
        for side, samples in enumerate(row.images):
            for i, tile in enumerate(to_pil(samples.clamp(-1, 1))):
                left = TEXT + side * half + i * SIDE
                page.paste(tile.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, top))
    page.save(path, quality=85)
