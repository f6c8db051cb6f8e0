"""Train one of the bundled models from the store of drawings.

    python -m recipes.emoji.train base sprites.npz
    python -m recipes.emoji.train inpaint sprites.npz --init-from runs/base/base.safetensors

Settings come from `recipes.emoji.presets`. The same command resumes a run found in --out; SIGINT
and SIGTERM save and stop. `accelerate launch -m recipes.emoji.train ...` uses several processes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from glide_core.errors import GlideError
from glide_core.training.config import JOBS, JobName, TrainConfig
from recipes.emoji.presets import PRESETS

_FIELDS = ("steps", "batch", "lr", "seed", "grad_accum_steps", "timesteps")


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train one of the bundled models.")
    parser.add_argument("job", choices=JOBS, help="model to train")
    parser.add_argument("store", type=Path, help="the store of training drawings (.npz)")
    parser.add_argument("--out", type=Path, help="run folder (default: runs/JOB)")
    parser.add_argument("--init-from", type=Path, help="checkpoint to start from")
    parser.add_argument(
        "--base-samples", type=Path, help="upsamplers: file of recipes.emoji.base_samples"
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
    """Return the job's preset with the given options applied."""
    given = {name: getattr(arguments, name) for name in _FIELDS}
    config = replace(
        PRESETS[arguments.job].config, **{k: v for k, v in given.items() if v is not None}
    )
    return replace(config, bf16=not arguments.fp32)


def starting_points(arguments: argparse.Namespace) -> list[Path]:
    """Return --init-from, or the run of the model that the job's preset starts from."""
    if arguments.init_from:
        return [arguments.init_from]
    name: JobName | None = PRESETS[arguments.job].init_from
    return [Path("runs") / name / f"{name}.safetensors"] if name else []


def run(arguments: argparse.Namespace) -> int:
    """Train; returns the exit status."""
    import torch
    from tqdm import tqdm

    from glide_core.cli.train import graceful_stop, train
    from glide_core.devices import free_cores
    from glide_core.models.glide import GlideModel
    from glide_core.training import distributed
    from glide_core.training.trainer import RunConfig, Trainer
    from recipes.emoji import fused_norm
    from recipes.emoji.drawings import Sprites
    from recipes.emoji.muon import make_muon
    from recipes.emoji.text_pretraining import Stopped, pretrain_text

    torch.set_num_threads(arguments.threads or free_cores())
    config = configure(arguments)
    steps = PRESETS[config.job].text_pretraining
    if arguments.text_pretraining is not None:
        steps = arguments.text_pretraining
    source = Sprites(arguments.store, arguments.base_samples)
    where = RunConfig(
        folder=arguments.out or Path("runs") / arguments.job,
        log_every=arguments.log_every,
        save_every=arguments.save_every,
        sample_every=arguments.sample_every,
        init_from=starting_points(arguments),
        device=arguments.device,
        workers=arguments.workers,
    )
    try:
        with graceful_stop() as signals:

            def pretrain(trainer: Trainer) -> None:
                if not steps or not isinstance(trainer.model, GlideModel):
                    return
                main = trainer.accelerator.is_main_process
                with tqdm(total=steps, desc="text encoder", disable=not main) as bar:
                    pretrain_text(
                        trainer.model,
                        source,
                        steps,
                        seed=config.seed,
                        bf16=config.bf16,
                        report=lambda step, loss: bar.update(1) and None,
                        stop=lambda: distributed.any_process(trainer.accelerator, bool(signals)),
                    )

            try:
                trainer = Trainer(
                    config, where, source, optimizer_factory=make_muon, on_start=pretrain
                )
            except Stopped:
                print("stopped during text encoder pretraining; nothing was saved")
                return 128 + (signals or [2])[0]
            main = trainer.accelerator.is_main_process
            if arguments.fused_norm and not fused_norm.install(trainer.model):
                raise GlideError("--fused-norm needs a C compiler (gcc or cc)")
            train(trainer, lambda: bool(signals), show=main)
    finally:
        distributed.leave()
    if main:
        print(trainer.exported)
    return 128 + signals[0] if signals else 0


if __name__ == "__main__":
    try:
        raise SystemExit(run(parse()))
    except GlideError as error:
        raise SystemExit(f"error: {error}") from error
