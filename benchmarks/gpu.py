"""Time one denoising step on a GPU: OpenAI's code against ours, at full size on random weights.

Contenders: the reference in float16 with its own settings (needs --reference DIR), and ours in
float16 and bfloat16: eager (channels_last, as models are loaded), eager without channels_last,
torch.compile, and a CUDA graph of one step. A base step is guided (2 x batch), an upsampler step is
not. Also: memory, and host-device synchronisations per sampling step. What does not fit into
--seconds is listed as skipped. With --tiny it runs on a CPU, in float32, to test the script.

    python benchmarks/gpu.py --reference ../glide-text2im --json gpu.json
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from forward import CONFIGS, PROMPT, processor, random_state, step_inputs
from torch import Tensor

from glide_core.checkpoints.loading import model_from_state_dict
from glide_core.config import GlideConfig, SamplerConfig
from glide_core.models.glide import GlideModel
from glide_core.sampling import condition_model, sample_model, tokenize

Step = Callable[[], Tensor]
_WARM_UP = 3
_SAMPLED = 5  # steps in which synchronisations are counted


def tiny(config: GlideConfig) -> GlideConfig:
    """The same kind of model, small enough for a test on a CPU."""
    unet = replace(
        config.unet,
        image_size=32,
        model_channels=32,
        num_res_blocks=1,
        channel_mult=(1, 1),
        attention_factors=(2,),
        num_head_channels=16,
    )
    return replace(config, unet=unet, text=replace(config.text, width=32, layers=1, heads=2))


def batched(config: GlideConfig, batch: int, device: torch.device) -> dict[str, Tensor]:
    """One step's inputs for `batch` images."""
    return {
        name: value.repeat_interleave(batch, dim=0).to(device)
        for name, value in step_inputs(config).items()
    }


def our_steps(
    config: GlideConfig, state: dict[str, Tensor], dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, Callable[[dict[str, Tensor]], Step]]]:
    """Our contenders: (name, function that makes a step of its inputs)."""
    name = str(dtype).removeprefix("torch.")
    model = model_from_state_dict(state, config, dtype=dtype, device=device)

    def step_of(given: dict[str, Tensor]) -> Step:
        with torch.inference_mode():
            context = model.unet.context(model.encode(given["ids"], given["mask"]))

        def step() -> Tensor:
            with torch.inference_mode():
                out: Tensor = model.unet(given["x"], given["t"], context, **low_res(given))
                return out

        return step

    yield f"ours {name}, eager", step_of
    if device.type == "cuda":
        yield f"ours {name}, CUDA graph", lambda given: captured(step_of(given))
    model.unet.compile(backend="inductor" if device.type == "cuda" else "eager")
    yield f"ours {name}, compiled", step_of
    model = model_from_state_dict(state, config, dtype=dtype, device=device)
    model = model.to(memory_format=torch.contiguous_format)
    yield f"ours {name}, eager, contiguous", step_of


def captured(step: Step) -> Step:
    """Record a step as a CUDA graph; the replay reads and writes the same tensors."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # type: ignore[no-untyped-call]
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


def low_res(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"low_res": given["low_res"]} if "low_res" in given else {}


def reference_steps(
    directory: Path, config: GlideConfig, state: dict[str, Tensor], device: torch.device
) -> Iterator[tuple[str, Callable[[dict[str, Tensor]], Step]]]:
    """The reference as in its notebooks: float16 on a GPU, the text encoded in every step."""
    sys.path.insert(0, str(directory))
    creation = importlib.import_module("glide_text2im.model_creation")
    options = (
        creation.model_and_diffusion_defaults_upsampler()
        if config.is_upsampler
        else creation.model_and_diffusion_defaults()
    )
    names = ("diffusion_steps", "noise_schedule", "timestep_respacing")
    options = {key: value for key, value in options.items() if key not in names}
    model = creation.create_model(**{**options, "use_fp16": True}).eval()
    model.convert_to_fp16()
    model.to(device)
    model.load_state_dict(state)

    def step_of(given: dict[str, Tensor]) -> Step:
        def step() -> Tensor:
            with torch.no_grad():
                out: Tensor = model(
                    given["x"],
                    given["t"],
                    tokens=given["ids"],
                    mask=given["mask"],
                    **low_res(given),
                )
                return out

        return step

    yield "reference float16", step_of


def measure(step: Step, repeats: int, device: torch.device) -> dict[str, float]:
    """Median and minimum seconds of a step, waiting for the device, and its peak memory in GB."""
    cuda = device.type == "cuda"
    wait = torch.cuda.synchronize if cuda else lambda: None
    for _ in range(_WARM_UP):
        step()
    wait()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        wait()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "peak_gb": peak}


def synchronisations(model: GlideModel, device: torch.device) -> float | None:
    """Host-device synchronisations per sampling step, after the first; None on a CPU."""
    if device.type != "cuda":
        return None
    config = model.config
    texts = [tokenize(config, [text]) for text in (PROMPT, "")]
    counts: list[int] = []
    with warnings.catch_warnings(record=True) as caught, torch.inference_mode():
        warnings.simplefilter("always")
        conditioned = condition_model(model, *texts)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            sample_model(
                conditioned,
                SamplerConfig(steps=_SAMPLED, sampler="ddim", guidance_scale=3.0),
                seeds=[0],
                callback=lambda info: counts.append(len(caught)),
            )
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return (counts[-1] - counts[0]) / (len(counts) - 1)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, help="a checkout of openai/glide-text2im")
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--repeats", type=int, default=10, help="measured steps (default 10)")
    parser.add_argument("--seconds", type=float, default=460, help="time limit (default 460)")
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU: a test")
    parser.add_argument("--json", type=Path, help="also write every number to this file")
    args = parser.parse_args(argv)
    if args.tiny and args.reference:
        parser.error("--reference has no tiny models: expected it without --tiny")
    return args


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    started = time.monotonic()
    device = torch.device("cpu" if args.tiny else "cuda")
    if not args.tiny and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here. Expected one, or --tiny for a test on the CPU.")
    dtypes = [torch.float32] if args.tiny else [torch.float16, torch.bfloat16]
    name = processor() if args.tiny else torch.cuda.get_device_name()
    report: dict[str, Any] = {"torch": torch.__version__, "device": name, "skipped": []}
    for kind in args.models:
        config = tiny(CONFIGS[kind]) if args.tiny else CONFIGS[kind]
        state = random_state(config)
        rows = report[kind] = {}
        contenders = [our_steps(config, state, dtype, device) for dtype in dtypes]
        if args.reference:
            contenders.insert(0, reference_steps(args.reference, config, state, device))
        for label, step_of in (pair for each in contenders for pair in each):
            for batch in args.batches:
                if time.monotonic() - started > args.seconds:
                    report["skipped"].append(f"{kind}: {label}, batch {batch}")
                    continue
                try:
                    row = measure(step_of(batched(config, batch, device)), args.repeats, device)
                except torch.cuda.OutOfMemoryError:
                    report["skipped"].append(f"{kind}: {label}, batch {batch}: out of memory")
                    continue
                rows.setdefault(label, {})[str(batch)] = row
                print(f"{kind:<10}{label:<34}batch {batch:<3}{1000 * row['median_s']:9.1f} ms")
        if not config.is_upsampler:
            model = model_from_state_dict(state, config, dtype=dtypes[0], device=device)
            report["synchronisations_per_step"] = synchronisations(model, device)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


if __name__ == "__main__":
    main()
