"""Train the bundled models from the store of drawings.

    python -m recipes.emoji.train all sprites.npz
    python -m recipes.emoji.train inpaint sprites.npz --init-from runs/base/base.safetensors

Settings come from `recipes.emoji.presets`. The same command resumes what it finds in --runs;
SIGINT and SIGTERM save and stop. `accelerate launch -m recipes.emoji.train RUN ...` uses several
processes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from glide_core.errors import GlideError
from glide_core.training.config import TrainConfig
from recipes.emoji.presets import RUNS

_FIELDS = ("steps", "batch", "lr", "seed", "grad_accum_steps", "timesteps")


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the bundled models.")
    parser.add_argument("run", choices=(*RUNS, "all"), help="run of recipes.emoji.presets")
    parser.add_argument("store", type=Path, help="the store of training drawings (.npz)")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        help="folder of all runs (default: runs)",
    )
    parser.add_argument("--init-from", type=Path, help="checkpoint to start from")
    parser.add_argument(
        "--base-samples",
        type=Path,
        help="upsamplers: file of recipes.emoji.base_samples (default: samples.npz in --runs)",
    )
    parser.add_argument("--steps", type=int, help="optimizer steps in total")
    parser.add_argument("--batch", type=int, help="images per step")
    parser.add_argument("--lr", type=float, help="peak learning rate")
    parser.add_argument("--seed", type=int, help="random seed of weights, data and noise")
    parser.add_argument("--grad-accum", dest="grad_accum_steps", type=int, help="parts of a batch")
    parser.add_argument("--timesteps", help="timestep sampling distribution")
    parser.add_argument("--text-pretraining", type=int, help="text encoder pretraining steps")
    parser.add_argument("--fp32", action="store_true", help="train in float32, not bfloat16")
    parser.add_argument(
        "--fused-norm", action="store_true", help="use the fused C kernel (CPU, needs gcc)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps (default: a GPU if any)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--workers", type=int, default=0, help="processes that render examples")
    parser.add_argument("--log-every", type=int, default=20, help="steps between log rows")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--sample-every", type=int, default=1000, help="0 disables sample grids")
    return parser.parse_args(given)


def configure(arguments: argparse.Namespace) -> TrainConfig:
    """Return the run's settings with the given options applied."""
    given = {name: getattr(arguments, name) for name in _FIELDS}
    config = replace(
        RUNS[arguments.run].config, **{k: v for k, v in given.items() if v is not None}
    )
    return replace(config, bf16=not arguments.fp32)


def weights_of(run: str, runs: Path) -> Path:
    """The weights that a run writes."""
    return runs / run / f"{RUNS[run].config.job.replace('-', '_')}.safetensors"


def run_all(arguments: argparse.Namespace, options: Sequence[str]) -> int:
    """Train every run in a process of its own, and collect the weights; returns the exit status.

    options: what the runs are called with. A finished run is loaded and left as it is.
    """
    store, runs = arguments.store, arguments.runs
    samples = runs / "samples.npz"
    for name, run in RUNS.items():
        if run.base_samples and not samples.exists():
            base = weights_of("base", runs)
            _call("recipes.emoji.base_samples", store, base, samples)
        _call("recipes.emoji.train", name, *options)
        (runs / "weights").mkdir(exist_ok=True)
        shutil.copy(weights_of(name, runs), runs / "weights")
    print(runs / "weights")
    return 0


def _call(module: str, *options: object) -> None:
    done = subprocess.run([sys.executable, "-m", module, *map(str, options)], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def run(arguments: argparse.Namespace) -> int:
    """Train; returns the exit status."""
    import torch
    from tqdm import tqdm

    from glide_core.cli.train import graceful_stop
    from glide_core.devices import free_cores
    from glide_core.models.glide import GlideModel
    from glide_core.training.distributed import make_accelerator
    from glide_core.training.trainer import RunConfig, Trainer
    from recipes.emoji import fused_norm
    from recipes.emoji.drawings import Sprites
    from recipes.emoji.muon import make_muon
    from recipes.emoji.text_pretraining import Stopped, any_process, pretrain_text

    torch.set_num_threads(arguments.threads or free_cores())
    config, preset = configure(arguments), RUNS[arguments.run]
    steps = preset.text_pretraining
    if arguments.text_pretraining is not None:
        steps = arguments.text_pretraining
    samples = arguments.base_samples
    if samples is None and preset.base_samples:
        samples = arguments.runs / "samples.npz"
    source = Sprites(arguments.store, samples)
    start = arguments.init_from
    if start is None and preset.init_from:
        start = weights_of(preset.init_from, arguments.runs)
    where = RunConfig(
        folder=arguments.runs / arguments.run,
        log_every=arguments.log_every,
        save_every=arguments.save_every,
        sample_every=arguments.sample_every,
        init_from=[start] if start else [],
        workers=arguments.workers,
    )
    accelerator = make_accelerator(config, arguments.device)
    main = accelerator.is_main_process
    try:
        with graceful_stop() as signals:

            def pretrain(trainer: Trainer) -> None:
                if not steps or not isinstance(trainer.model, GlideModel):
                    return
                with tqdm(total=steps, desc="text encoder", disable=not main) as bar:
                    pretrain_text(
                        trainer.model,
                        source,
                        steps,
                        seed=config.seed,
                        bf16=config.bf16,
                        report=lambda step, loss: bar.update(1) and None,
                        stop=lambda: any_process(accelerator, bool(signals)),
                    )

            try:
                trainer = Trainer(
                    config,
                    where,
                    source,
                    optimizer_factory=make_muon,
                    on_start=pretrain,
                    accelerator=accelerator,
                )
            except Stopped:
                print("stopped during text encoder pretraining; nothing was saved")
                return 128 + (signals or [2])[0]
            if arguments.fused_norm and not fused_norm.install(trainer.model):
                raise GlideError("--fused-norm needs a C compiler (gcc or cc)")
            trainer.train(lambda: bool(signals))
    finally:
        accelerator.end_training()
    if main:
        print(trainer.exported)
    return 128 + signals[0] if signals else 0


if __name__ == "__main__":
    given = parse()
    try:
        if given.run == "all":
            raise SystemExit(run_all(given, [a for a in sys.argv[1:] if a != "all"]))
        raise SystemExit(run(given))
    except GlideError as error:
        raise SystemExit(f"error: {error}") from error
