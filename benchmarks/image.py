"""Time a whole 256x256 image with the released architectures at full size on random weights.

Base steps with classifier-free guidance, then the upsampler, with both models loaded from files.
Every run is a separate process, so that peak memory is measured per run.

    python benchmarks/image.py --dtypes int8 float32 --reference ../glide-text2im --steps 10
    python benchmarks/image.py --cold
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from forward import CONFIGS, DTYPES, PROMPT, random_state, reference_model

from glide_core.checkpoints.loading import load_model, model_from_state_dict, save_model
from glide_core.config import SamplerConfig
from glide_core.sampling import tokenize
from glide_core.stages import StageInputs, sample_stage

GUIDANCE = 3.0


def peak_memory() -> float:
    """Highest resident memory of this process in GB (1e9 bytes); 0 without Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


def write_models(folder: Path) -> None:
    """Write both models as float16 files."""
    for name, config in CONFIGS.items():
        save_model(
            model_from_state_dict(random_state(config), config), folder / f"{name}.safetensors"
        )


def upsampler_respacing(steps: int) -> str:
    return "fast27" if steps == 27 else f"ddim{steps}"


def generate(folder: Path, args: argparse.Namespace, dtype: str) -> dict[str, float]:
    """Run our pipeline with the notebook's samplers."""
    clock = Clock()
    base, upsampler = (
        load_model(folder / f"{name}.safetensors", dtype=DTYPES[dtype]) for name in CONFIGS
    )
    clock.lap("load_s")
    settings = SamplerConfig(steps=args.steps, sampler="ddpm", guidance_scale=GUIDANCE)
    small = sample_stage(base, [PROMPT], [0], settings)
    clock.lap("base_s")
    settings = SamplerConfig(
        respacing=upsampler_respacing(args.upsample_steps), guidance_scale=1.0, temperature=0.997
    )
    sample_stage(upsampler, [PROMPT], [0], settings, inputs=StageInputs(low_res=small))
    clock.lap("upsample_s")
    return clock.report()


def generate_reference(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Run the reference's text2im notebook: float32 on a CPU, text encoded in every step."""
    clock = Clock()
    models = {}
    for name, config in CONFIGS.items():
        state = load_model(folder / f"{name}.safetensors").openai_state_dict()
        models[name] = reference_model(args.reference, config, state)
    clock.lap("load_s")
    from glide_text2im.model_creation import (
        create_gaussian_diffusion,
    )  # on sys.path after reference_model

    def text(name: str, prompts: list[str]) -> dict[str, torch.Tensor]:
        tokens = tokenize(CONFIGS[name], prompts)
        stacked = {"tokens": [t.ids for t in tokens], "mask": [t.mask for t in tokens]}
        return {key: torch.stack(rows) for key, rows in stacked.items()}

    def guided(x: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        half = x[: len(x) // 2]
        out = models["base"](torch.cat([half, half]), t, **kwargs)
        eps, rest = out[:, :3], out[:, 3:]
        cond, uncond = eps.chunk(2)
        eps = uncond + GUIDANCE * (cond - uncond)
        return torch.cat([torch.cat([eps, eps]), rest], dim=1)

    diffusion = create_gaussian_diffusion(1000, "squaredcos_cap_v2", str(args.steps))
    options = {"device": "cpu", "clip_denoised": True, "progress": False}
    small = diffusion.p_sample_loop(
        guided, (2, 3, 64, 64), model_kwargs=text("base", [PROMPT, ""]), **options
    )[:1]
    clock.lap("base_s")
    diffusion = create_gaussian_diffusion(1000, "linear", upsampler_respacing(args.upsample_steps))
    low_res = ((small + 1) * 127.5).round() / 127.5 - 1
    diffusion.ddim_sample_loop(
        models["upsampler"],
        (1, 3, 256, 256),
        noise=torch.randn(1, 3, 256, 256) * 0.997,
        model_kwargs={"low_res": low_res, **text("upsampler", [PROMPT])},
        **options,
    )
    clock.lap("upsample_s")
    return clock.report()


class Clock:
    """Measure the seconds of each stage of one process."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now

    def report(self) -> dict[str, float]:
        total = sum(self.seconds.values())
        return {**self.seconds, "total_s": total, "peak_gb": peak_memory()}


def _call(job: Callable[..., Any], threads: int | None, arguments: tuple[Any, ...]) -> Any:
    if threads:
        torch.set_num_threads(threads)
    return job(*arguments)


def in_new_process(job: Callable[..., Any], threads: int | None, *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_call, (job, threads, arguments))


def cold_start(workflow: Path | None) -> str:
    """Time a command with the bundled models, from its start to the written image."""
    command = ["generate", "a fox on a blue background"]
    if workflow is not None:
        command = ["run", str(workflow)]
    with tempfile.TemporaryDirectory() as out:
        start, before = time.perf_counter(), os.times()
        run = [sys.executable, "-m", "glide_core.cli", *command, "--out", out]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds, after = time.perf_counter() - start, os.times()
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    return f"glide {command[0]}, cold: {seconds:.1f} s ({spent:.1f} s of processor time)"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100, help="base steps (default 100)")
    parser.add_argument("--upsample-steps", type=int, default=27, help="default 27: fast27")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32", "int8"])
    parser.add_argument("--reference", type=Path, help="a checkout of openai/glide-text2im")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument(
        "--cold",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="WORKFLOW",
        help="time only `glide generate`, or `glide run` of this workflow",
    )
    parser.add_argument("--json", type=Path, help="also write every number to this file")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.cold is not None:
        print(cold_start(args.cold if args.cold.name else None))
        return
    report = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_new_process(write_models, args.threads, folder)
        for dtype in args.dtypes:
            report[f"ours, {dtype}"] = in_new_process(generate, args.threads, folder, args, dtype)
        if args.reference:
            report["reference"] = in_new_process(generate_reference, args.threads, folder, args)
    print(f"{args.steps} guided base steps and {args.upsample_steps} upsampler steps")
    for label, row in report.items():
        print(f"  {label:<16}" + "  ".join(f"{key} {value:.2f}" for key, value in row.items()))
        if args.reference:
            print(f"    ratio {report['reference']['total_s'] / row['total_s']:.2f}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
