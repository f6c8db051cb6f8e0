"""Time a training step of the bundled models: images per second, and where the time goes.

Ways to take the same step are tried in turn, one process each, with fresh weights and made-up
pictures, so that the data costs next to nothing:

    python benchmarks/training.py --job base --batch 32 --threads 1
    python benchmarks/training.py --job upsampler --batch 16 --ways eager,product --profile
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from glide_core.data.types import Batch
from glide_core.training.config import JOBS
from glide_core.training.jobs import make_job
from glide_core.training.loop import make_adamw
from glide_core.training.samples import Share
from recipes.emoji import fused_norm
from recipes.emoji.muon import make_muon
from recipes.emoji.presets import PRESETS

WAYS = {
    "float32": "eager, float32",
    "eager": "eager, bfloat16 autocast",
    "channels_last": "... in channels_last",
    "product": "... with the fused norm of recipes/emoji",
    "compile": "eager bfloat16, torch.compile",
}


class Noise:
    """A Source of random pictures and one caption each."""

    def batch(
        self,
        rng: torch.Generator,
        size: int,
        *,
        side: int,
        crop: int | None = None,
        distinct: bool = False,
    ) -> Batch:
        side = crop or side
        pictures = torch.rand(size, 3, side, side, generator=rng) * 2 - 1
        names = torch.randint(10**6, (size,), generator=rng).tolist()
        return Batch(pictures, [f"a fox on a blue background {name}" for name in names])


def make_step(args: argparse.Namespace, way: str) -> Callable[[int], None]:
    """A whole step: data, forward, backward, clipping, optimiser."""
    config = replace(PRESETS[args.job].config, batch=args.batch, bf16=way != "float32")
    job = make_job(config, Noise())
    if way in ("channels_last", "product"):
        job.model.to(memory_format=torch.channels_last)
    if way == "product" and not fused_norm.install(job.model):
        raise SystemExit("no C compiler here: the fused norm cannot be built")
    if way == "compile":
        job.model.unet = torch.compile(job.model.unet)
    optimizers = (make_muon if args.optimizer == "muon" else make_adamw)(job.model, config)
    share = Share.of(config.batch, 0, 1, 1)
    parameters = [p for p in job.model.parameters() if p.requires_grad]

    def step(index: int) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        job.backward(index, share)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()

    return step


def measure(args: argparse.Namespace, way: str, queue: Any) -> None:
    """Run in a process of its own: settle, then the least of `--repeats` steps."""
    torch.set_num_threads(args.threads)
    step = make_step(args, way)
    started = time.perf_counter()
    step(0)
    first = time.perf_counter() - started
    step(1)
    times = []
    for index in range(args.repeats):
        started = time.perf_counter()
        step(2 + index)
        times.append(time.perf_counter() - started)
    found: dict[str, Any] = {
        "way": way,
        "images_per_s": round(args.batch / min(times), 1),
        "step_s": round(min(times), 3),
        "first_step_s": round(first, 1),
    }
    if args.profile:
        found["profile"] = profile(step)
    queue.put(found)


def profile(step: Callable[[int], None], rows: int = 8) -> list[str]:
    """The operations that take most of a step's time, with their shares."""
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as found:
        step(99)
    events = found.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    events = sorted(events, key=lambda event: -event.self_cpu_time_total)
    return [f"{e.key} {e.self_cpu_time_total / whole:.0%}" for e in events[:rows]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a training step of the bundled models.")
    parser.add_argument("--job", choices=JOBS, default="base")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    parser.add_argument("--ways", default="float32,eager,channels_last,product")
    parser.add_argument("--profile", action="store_true", help="say which operations take it")
    parser.add_argument("--json", action="store_true", help="one JSON line a way")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for way in args.ways.split(","):
        if way not in WAYS:
            parser.error(f"unknown way {way!r}: expected {', '.join(WAYS)}")
        queue = context.Queue()
        process = context.Process(target=measure, args=(args, way, queue))
        process.start()
        found = queue.get()
        process.join()
        if args.json:
            print(json.dumps(found), flush=True)
            continue
        line = f"{found['images_per_s']:7.1f} images/s  {found['step_s']:7.3f} s"
        print(f"{line}  {way}: {WAYS[way]}", flush=True)
        for row in found.get("profile", []):
            print(f"{'':22}{row}")


if __name__ == "__main__":
    main()
