"""Time and peak memory of a base step against batch size and image size, as JSON and as a plot.

The released base at full size on random weights, without guidance: a batch of N is N images. Every
contender runs in a process of its own. A point that would need more than --limit GB for attention
scores is left out; the reference keeps those of all heads.

    python benchmarks/scale.py --reference ../glide-text2im --json scale.json --plot scale.png
    python benchmarks/scale.py --from scale.json --plot scale.png
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from forward import DTYPES, PROMPT, processor, random_state, reference_model
from image import in_new_process, peak_memory
from torch import Tensor

from glide_core.checkpoints.loading import model_from_state_dict
from glide_core.config import BASE
from glide_core.devices import keep_freed_memory
from glide_core.sampling import tokenize

Step = Callable[[], Tensor]
_SHORT = 4.0  # seconds; a shorter step is run a second time, which counts


def reset_peak() -> None:
    """Start a new measurement of this process's peak memory (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def scores_gb(batch: int, side: int) -> float:
    """Attention scores of the largest layer of all heads and images in float32, twice (softmax)."""
    pixels = (side // 2) ** 2
    heads = 2 * BASE.unet.model_channels // BASE.unet.num_head_channels
    return 2 * 4 * batch * heads * pixels * (pixels + BASE.text.context_length) / 1e9


def our_step_of(dtype: str) -> Callable[[int, int], Step]:
    """Make our step for a batch and an image size."""
    model = model_from_state_dict(random_state(BASE), BASE, dtype=DTYPES[dtype])

    def make(batch: int, side: int) -> Step:
        x, t, ids, mask = inputs(batch, side)
        with torch.inference_mode():
            context = model.unet.context(model.encode(ids, mask))

        def step() -> Tensor:
            with torch.inference_mode(), keep_freed_memory(torch.device("cpu")):
                out: Tensor = model.unet(x, t, context)
                return out

        return step

    return make


def reference_step_of(directory: Path) -> Callable[[int, int], Step]:
    """Make the reference's step in float32, its text cached."""
    model = reference_model(directory, BASE, random_state(BASE))
    model.cache_text_emb = True

    def make(batch: int, side: int) -> Step:
        model.del_cache()
        x, t, ids, mask = inputs(batch, side)

        def step() -> Tensor:
            with torch.no_grad():
                out: Tensor = model(x, t, tokens=ids, mask=mask)
                return out

        return step

    return make


def inputs(batch: int, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noise [B, 3, side, side], timesteps, and the tokens of one prompt."""
    tokens = tokenize(BASE, [PROMPT] * batch)
    ids, mask = torch.stack([t.ids for t in tokens]), torch.stack([t.mask for t in tokens])
    return torch.randn(batch, 3, side, side), torch.full((batch,), 500), ids, mask


def measure(name: str, points: list[tuple[int, int]], args: argparse.Namespace) -> list[Any]:
    """Seconds and peak memory of one contender at (batch, side) points."""
    make = reference_step_of(args.reference) if name == "reference" else our_step_of(name)
    clock = time.process_time if args.processor_time else time.perf_counter
    rows = []
    for batch, side in points:
        if name == "reference" and scores_gb(batch, side) > args.limit:
            continue
        step = make(batch, side)
        reset_peak()
        start = clock()
        step()
        seconds = clock() - start
        if seconds < _SHORT:
            start = clock()
            step()
            seconds = clock() - start
        row = {"batch": batch, "side": side, "seconds": seconds, "peak_gb": peak_memory()}
        print(f"{name:<10} batch {batch} side {side:<4}{seconds:8.2f} s{row['peak_gb']:8.2f} GB")
        rows.append(row)
    return rows


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw time over batch size, time over image size, and memory over image size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    panels = [
        ("batch", "seconds", "images in a batch (64x64)", "seconds per step"),
        ("side", "seconds", "side of the image (batch 1)", "seconds per step"),
        ("side", "peak_gb", "side of the image (batch 1)", "peak memory, GB"),
    ]
    for axis, (x, y, across, up) in zip(axes, panels, strict=True):
        other, fixed = ("side", 64) if x == "batch" else ("batch", 1)
        for name, rows in report["rows"].items():
            chosen = sorted((row[x], row[y]) for row in rows if row[other] == fixed)
            label = name if name == "reference" else f"ours, {name}"
            axis.plot(*zip(*chosen, strict=True), marker="o", label=label)
            axis.set_xticks(sorted({row[x] for each in report["rows"].values() for row in each}))
        axis.set(xlabel=across, ylabel=up)
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
    axes[1].set_yscale("log")
    axes[0].legend()
    figure.savefig(path, dpi=80)


def table(report: dict[str, Any]) -> str:
    """The rows as a Markdown table."""
    rows = report["rows"]
    points = {(row["batch"], row["side"]) for each in rows.values() for row in each}
    lines = ["| batch | size | " + " | ".join(rows) + " |", "|---" * (2 + len(rows)) + "|"]
    for batch, side in sorted(points, key=lambda point: (point[1], point[0])):
        cells = []
        for each in rows.values():
            found = [r for r in each if (r["batch"], r["side"]) == (batch, side)]
            text = [f"{r['seconds']:.2f} s, {r['peak_gb']:.1f} GB" for r in found]
            cells.append(text[0] if text else "-")
        lines.append(f"| {batch} | {side}x{side} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, help="a checkout of openai/glide-text2im")
    parser.add_argument("--dtypes", nargs="*", choices=DTYPES, default=["float32", "int8"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8], help="at 64x64")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 96, 128, 192, 256])
    parser.add_argument("--limit", type=float, default=6.0, metavar="GB", help="default 6")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument(
        "--processor-time", action="store_true", help="count processor time, not elapsed time"
    )
    parser.add_argument("--from", dest="source", type=Path, metavar="JSON", help="measure nothing")
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a plot (.png)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.source:
        report = json.loads(args.source.read_text())
    else:
        points = [(1, side) for side in sorted(args.sizes)]
        points += [(batch, 64) for batch in args.batches if (batch, 64) not in points]
        report = {"torch": torch.__version__, "processor": processor(), "rows": {}}
        for name in [*["reference"] * bool(args.reference), *args.dtypes]:
            report["rows"][name] = in_new_process(measure, args.threads, name, points, args)
            if args.json:
                args.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))
    if args.plot:
        plot(report, args.plot)


if __name__ == "__main__":
    main()
