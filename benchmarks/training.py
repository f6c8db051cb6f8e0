"""Time training steps of the bundled models: images per second.

Variants of the same step are measured one after the other, each in its own process, with random
weights and random images held in memory; "disk" reads JPEGs from a folder:

    python -m benchmarks.training --job base --batch 32 --threads 1
    python -m benchmarks.training --job base --ways disk,kept --workers 0,1
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from glide_core.data.source import Batch, Source, open_source
from glide_core.training.config import JOBS
from glide_core.training.trainer import RunConfig, Trainer, make_adamw
from recipes.emoji import fused_norm
from recipes.emoji.muon import make_muon
from recipes.emoji.presets import RUNS

WAYS = {
    "float32": "float32",
    "bfloat16": "bfloat16 autocast: what `glide train` does",
    "fused": "with the fused norm of recipes/emoji",
    "compile": "with torch.compile",
    "disk": "JPEGs of 1024x768 from disk, decoded at every use",
    "kept": "JPEGs of 1024x768 from disk, decoded once and kept in memory",
}


class Noise:
    """A Source of random images and one caption each."""

    def batch(
        self, rng: torch.Generator, size: int, *, side: int, crop: int = 0, distinct: bool = False
    ) -> Batch:
        side = crop or side
        images = torch.rand(size, 3, side, side, generator=rng) * 2 - 1
        names = torch.randint(10**6, (size,), generator=rng).tolist()
        return Batch(images, [f"a fox on a blue background {name}" for name in names])


def write_photos(folder: Path, count: int = 64) -> Path:
    """Write smooth random JPEGs of 1024x768 with captions."""
    rng = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize((1024, 768), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=92)
        (folder / f"{i}.txt").write_text(f"image number {i}")
    return folder


def measure(args: argparse.Namespace, way: str, workers: int, folder: str, queue: Any) -> None:
    """Measure one variant in its own process: two warm-up steps, then `--repeats` timed steps."""
    torch.set_num_threads(args.threads)
    config = replace(
        RUNS[args.job].config, batch=args.batch, bf16=way != "float32" and not args.fp32
    )
    source: Source = Noise()
    if way in ("disk", "kept"):
        side = 256 if args.job.startswith("upsampler") else 64
        memory = {"disk": 0, "kept": 1024}[way]
        source = open_source(write_photos(Path(folder)), side=side, memory_mb=memory)
    run = RunConfig(Path(folder) / "run", sample_every=0, workers=workers)
    factory = make_muon if args.optimizer == "muon" else make_adamw
    trainer = Trainer(config, run, source, optimizer_factory=factory)
    if way == "fused" and not fused_norm.install(trainer.model):
        raise SystemExit("no C compiler: the fused norm cannot be built")
    if way == "compile":
        trainer.model.unet = torch.compile(trainer.model.unet)
    trainer.one_step()
    trainer.one_step()
    times = []
    for _ in range(args.repeats):
        started = time.perf_counter()
        trainer.one_step()
        times.append(time.perf_counter() - started)
    middle = sorted(times)[len(times) // 2]
    found = {"way": way, "workers": workers, "step_s": round(middle, 3), "least_s": min(times)}
    queue.put({**found, "images_per_s": round(args.batch / middle, 1)})


def main() -> None:
    parser = argparse.ArgumentParser(description="Time training steps of the bundled models.")
    parser.add_argument("--job", choices=JOBS, default="base")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", default="0", help="numbers of workers, comma separated")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    parser.add_argument("--ways", default="float32,bfloat16,fused", help=", ".join(WAYS))
    fp32 = "float32 in all ways, for processors without bfloat16 (default: bfloat16)"
    parser.add_argument("--fp32", action="store_true", help=fp32)
    parser.add_argument("--json", action="store_true", help="one JSON line per measurement")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for way in args.ways.split(","):
        if way not in WAYS:
            parser.error(f"unknown way {way!r}: expected {', '.join(WAYS)}")
        for workers in map(int, args.workers.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                queue = context.Queue()
                given = (args, way, workers, folder, queue)
                process = context.Process(target=measure, args=given)
                process.start()
                found = queue.get()
                process.join()
            if args.json:
                print(json.dumps(found), flush=True)
                continue
            line = f"{found['images_per_s']:7.1f} images/s  {found['step_s']:7.3f} s"
            print(f"{line}  {way}, {workers} workers: {WAYS[way]}", flush=True)


if __name__ == "__main__":
    main()
