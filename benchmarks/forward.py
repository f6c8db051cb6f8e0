"""Time one denoising step of the released architectures at full size on random weights.

One guided base step (64x64, batch 2: with and without the prompt) and one upsampler step (256x256,
batch 1), in float32, bfloat16 and int8. With --reference DIR, a checkout of openai/glide-text2im
runs the same weights in the same process, alternating with ours, so that other load affects both
equally. --processor-time counts only the time that the process computes, for a busy machine; with
--threads 1.

    python benchmarks/forward.py --reference ../glide-text2im
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glide_core.checkpoints.loading import model_from_state_dict
from glide_core.config import BASE, UPSAMPLER, GlideConfig
from glide_core.devices import keep_freed_memory
from glide_core.models.glide import GlideModel
from glide_core.sampling import tokenize

PROMPT = "an oil painting of a corgi"
CONFIGS: dict[str, GlideConfig] = {"base": BASE, "upsampler": UPSAMPLER}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


@dataclass(frozen=True)
class Contender:
    """A step to time, and the context manager that its sampling loop runs in."""

    step: Callable[[], Tensor]
    loop: Callable[[], AbstractContextManager[None]] = nullcontext


def random_state(config: GlideConfig, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights; no layer is zero, so that each affects the output."""
    torch.manual_seed(seed)
    model = GlideModel(config)
    for table in (model.text.positional_embedding, model.text.padding_embedding):
        torch.nn.init.normal_(table, std=0.02)
    return {key: value.detach() for key, value in model.openai_state_dict().items()}


def step_inputs(config: GlideConfig) -> dict[str, Tensor]:
    """Make one step's inputs as in the notebooks; a base step has cond and uncond."""
    prompts = [PROMPT] if config.is_upsampler else [PROMPT, ""]
    tokens = tokenize(config, prompts)
    batch, side = len(prompts), config.unet.image_size
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, side, side, generator=generator)
    inputs = {
        "x": image.repeat(batch, 1, 1, 1),  # the same x_t for cond and uncond
        "t": torch.full((batch,), 500),
        "ids": torch.stack([t.ids for t in tokens]),
        "mask": torch.stack([t.mask for t in tokens]),
    }
    if config.is_upsampler:
        small = torch.rand(1, 3, side // 4, side // 4, generator=generator)
        inputs["low_res"] = small * 2 - 1
    return inputs


def our_step(
    config: GlideConfig, state: dict[str, Tensor], dtype: torch.dtype, inputs: dict[str, Tensor]
) -> Contender:
    """Make our step: loaded as from a file, the text encoded before the first step."""
    model = model_from_state_dict(state, config, dtype=dtype)
    with torch.inference_mode():
        context = model.unet.context(model.encode(inputs["ids"], inputs["mask"]))

    def step() -> Tensor:
        with torch.inference_mode():
            return model.unet(  # type: ignore[no-any-return]
                inputs["x"], inputs["t"], context, low_res=inputs.get("low_res")
            )

    return Contender(step, lambda: keep_freed_memory(torch.device("cpu")))


def reference_steps(
    directory: Path, config: GlideConfig, state: dict[str, Tensor], inputs: dict[str, Tensor]
) -> dict[str, Contender]:
    """Make the reference's steps as in its notebooks (float32), base also with text cache."""
    model = reference_model(directory, config, state)
    given = {"tokens": inputs["ids"], "mask": inputs["mask"]}
    if config.is_upsampler:
        given["low_res"] = inputs["low_res"]

    def step(cached: bool) -> Tensor:
        model.cache_text_emb = cached
        with torch.no_grad():
            return model(inputs["x"], inputs["t"], **given)  # type: ignore[no-any-return]

    steps = {"reference": Contender(lambda: step(False))}
    if not config.is_upsampler:  # there, the text takes 1 % of a step
        steps["reference, text cached"] = Contender(lambda: step(True))
    return steps


def reference_model(directory: Path, config: GlideConfig, state: dict[str, Tensor]) -> Any:
    """Build the reference's network with the same tensors."""
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    creation = importlib.import_module("glide_text2im.model_creation")
    options = (
        creation.model_and_diffusion_defaults_upsampler()
        if config.is_upsampler
        else creation.model_and_diffusion_defaults()
    )
    options.update(use_fp16=False, inpaint=config.is_inpaint)
    for key in ("diffusion_steps", "noise_schedule", "timestep_respacing"):
        del options[key]
    with torch.device("meta"):
        model = creation.create_model(**options)
    model.load_state_dict(state, assign=True)
    return model.eval()


def interleave(
    contenders: dict[str, Contender], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Time the contenders in turn; each turn is one warm-up step and one measured step.

    Returns the seconds and the output of each contender.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    outputs: dict[str, Tensor] = {}
    for _ in range(repeats):
        for name, contender in contenders.items():
            with contender.loop():
                contender.step()
                start = clock()
                outputs[name] = contender.step()
                seconds[name].append(clock() - start)
    return seconds, outputs


def compare(
    seconds: dict[str, list[float]], outputs: dict[str, Tensor]
) -> dict[str, dict[str, float]]:
    """Return median, minimum, speed-up over the first contender, and error to its output."""
    first = next(iter(seconds))
    expected, rows = outputs[first], {}
    for name, values in seconds.items():
        difference = outputs[name] - expected
        rows[name] = {
            "median_s": statistics.median(values),
            "min_s": min(values),
            "ratio_of_medians": statistics.median(seconds[first]) / statistics.median(values),
            "ratio_of_minima": min(seconds[first]) / min(values),
            "max_abs_error": difference.abs().max().item(),
            "rms_error_over_std": (difference.square().mean().sqrt() / expected.std()).item(),
        }
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    lines = [
        f"  {'':<24}{'median s':>10}{'min s':>10}{'ratio':>8}{'(min)':>8}"
        f"{'max error':>12}{'rms error':>12}"
    ]
    for name, r in rows.items():
        lines.append(
            f"  {name:<24}{r['median_s']:>10.3f}{r['min_s']:>10.3f}{r['ratio_of_medians']:>8.2f}"
            f"{r['ratio_of_minima']:>8.2f}{r['max_abs_error']:>12.2e}"
            f"{r['rms_error_over_std']:>12.3%}"
        )
    return "\n".join(lines)


def contenders_of(args: argparse.Namespace, name: str) -> dict[str, Contender]:
    """Return all contenders for a model's step; the reference, if given, is the first."""
    config = CONFIGS[name]
    state, inputs = random_state(config), step_inputs(config)
    steps: dict[str, Contender] = {}
    if args.reference:
        steps |= reference_steps(args.reference, config, state, inputs)
    for dtype in args.dtypes:
        steps[f"ours, {dtype}"] = our_step(config, state, DTYPES[dtype], inputs)
    return steps


def processor() -> str:
    """Return the processor's name and its instructions for vectors and matrices."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    info = {name.strip(): value.strip() for name, value in pairs}
    known = ["avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"]
    flags = set(info.get("flags", "").split()).intersection(known)
    return f"{info.get('model name', 'unknown')} ({', '.join(sorted(flags))})"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, help="a checkout of openai/glide-text2im")
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds (default 5)")
    parser.add_argument(
        "--processor-time", action="store_true", help="count processor time, not elapsed time"
    )
    parser.add_argument("--json", type=Path, help="also write every number to this file")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {processor()}")
    report: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    for name in args.models:
        steps = contenders_of(args, name)
        clock = time.process_time if args.processor_time else time.perf_counter
        seconds, outputs = interleave(steps, args.repeats, clock)
        rows = compare(seconds, outputs)
        side = CONFIGS[name].unet.image_size
        print(f"{name}: one step at {side}x{side}, batch {1 if 'up' in name else 2}")
        print(table(rows), flush=True)
        report[name] = {key: {**row, "seconds": seconds[key]} for key, row in rows.items()}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
