"""Patches of attention and of guidance on the bundled model, under both samplers.

For tools/compatibility.py: each patch at the scale that is useful for the bundled base model, the
same captions and first noise with and without it, as a table and as a sheet of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, ImageDraw
from torch import Tensor

from glide_core.images import to_pil

if TYPE_CHECKING:
    from tools.compatibility import Bench

SHOWN, SIDE, TEXT = 4, 96, 330  # images of a row, their size and the width of the label, in pixels
HEAD = (
    "| node | cfg | KSampler: subject, background | roughness | distance | GLIDE Sampler: subject, "
    "background | roughness | distance |\n|---|---|---|---|---|---|---|---|"
)


class Patch(NamedTuple):
    """A node from MODEL to MODEL; `None` runs without one, as the reference of its cfg."""

    node: str | None
    cfg: float
    inputs: dict[str, Any] = {}

    @property
    def label(self) -> str:
        shown = [f"{name} {value}" for name, value in self.inputs.items() if name != "negative"]
        return ", ".join([self.node or "without a patch", *shown])


PAG: dict[str, Any] = {"scale": 2.0}
PACK: dict[str, Any] = {"unet_block": "middle", "unet_block_id": 0, **PAG}
PATCHES = (
    Patch(None, 1.5),
    Patch("PerturbedAttentionGuidance", 1.5, PAG),
    Patch("SelfAttentionGuidance", 1.5, {"scale": 0.5, "blur_sigma": 2.0}),
    Patch("NAGuidance", 1.5, {"nag_scale": 3.0, "nag_alpha": 0.25, "nag_tau": 1.5}),
    Patch("PerturbedAttention", 1.5, PACK),
    Patch("SmoothedEnergyGuidanceAdvanced", 1.5, PACK),
    Patch(
        "SlidingWindowGuidanceAdvanced",
        1.5,
        {"scale": 1.0, "tile_width": 256, "tile_height": 256, "tile_overlap": 128},
    ),
    Patch("NormalizedAttentionGuidance", 1.5, {"negative": None}),
    Patch("PLADIS", 1.5),
    Patch("TokenPerturbationGuidance", 1.5, {"unet_block_list": ""}),
    Patch(None, 3.0),
    Patch("TomePatchModel", 3.0, {"ratio": 0.3}),
    Patch(
        "HyperTile",
        3.0,
        {"tile_size": 256, "swap_size": 2, "max_depth": 0, "scale_depth": False},
    ),
    Patch(None, 10.0),
    Patch("RescaleCFG", 10.0, {"multiplier": 0.7}),
    Patch("APG", 10.0, {"eta": 0.0, "norm_threshold": 5.0, "momentum": 0.0}),
    Patch("DynamicThresholdingSimple", 10.0, {"mimic_scale": 3.0, "threshold_percentile": 1.0}),
)


class Row(NamedTuple):
    label: str
    images: list[Tensor]  # KSampler's and GLIDE Sampler's


def patches(bench: Bench) -> None:
    """Print the table; keeps the rows for the sheet in `bench.rows`."""
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
        inputs = dict(patch.inputs)
        if "negative" in inputs:
            inputs["negative"] = bench.negative
        model = bench.comfy(patch.node, model=model, **inputs)
    return [
        bench.builtin(model=model, cfg=patch.cfg),
        bench.exact(model=model, cfg=patch.cfg),
    ]


def measured(bench: Bench, samples: Tensor, reference: Tensor) -> list[str]:
    """Give a sampler's three cells of a row; roughness and distance to the run without a patch."""
    rough, usual = (steps_of(x) for x in (samples, reference))
    distance = float((samples - reference).square().mean().sqrt())
    shares = bench.shares(samples).replace(" |", ",")
    return [shares, f"{rough / usual:.2f}", f"{distance:.3f}" if distance else "0"]


def steps_of(samples: Tensor) -> float:
    return float((samples[..., 1:] - samples[..., :-1]).abs().mean())


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
        label = row.label.replace(", ", "\n", 1)
        pen.multiline_text((gap, top + 6), label, fill="black", font_size=13, spacing=4)
        for side, samples in enumerate(row.images):
            for i, tile in enumerate(to_pil(samples.clamp(-1, 1))):
                left = TEXT + side * half + i * SIDE
                page.paste(tile.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, top))
    page.save(path, quality=85)
