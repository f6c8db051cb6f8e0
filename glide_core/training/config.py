"""Training settings and their defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from glide_core.config import GlideConfig, PredictionType
from glide_core.errors import GlideError

JobName = Literal["base", "inpaint", "upsampler", "upsampler-inpaint", "clip"]
JOBS: tuple[JobName, ...] = ("base", "inpaint", "upsampler", "upsampler-inpaint", "clip")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the result of a run; paths and logging are in `RunConfig`."""

    job: JobName
    steps: int = 1100  # optimizer steps in total
    batch: int = 64  # images per optimizer step, over all processes and accumulation steps
    lr: float = 1.5e-3  # peak learning rate
    warmup: int = 50  # steps of linear learning rate warm-up
    final_lr: float = 0.05  # learning rate of the last step, relative to `lr`
    decay_from: float = 0.7  # fraction of the run after which the learning rate decays
    weight_decay: float = 0.0
    clip_grad: float = 1.0  # largest gradient norm
    ema: float = 0.9992  # decay of the weights' exponential moving average
    caption_dropout: float = 0.2
    prior_weight: float = 1.0  # of the loss on images of prior preservation
    vlb_weight: float = 1.0  # weight of the bound per step; reference L_hybrid: 0.001 * T * bound
    seed: int = 0
    bf16: bool = True  # bfloat16 autocast; weights stay float32
    size: int | None = None  # side of the images; None: the model's own
    crop: int = 128  # side of the crops upsamplers are trained on
    prediction: PredictionType | None = None  # from scratch only; None: the architecture's
    weighting: str = "uniform"  # one of names.WEIGHTINGS
    timesteps: str = "uniform"  # one of names.TIMESTEPS
    grad_accum_steps: int = 1  # forward and backward passes per step and process
    gradient_checkpointing: bool = False
    lora: int = 0  # rank; 0 trains all weights
    lora_alpha: float = 0.0  # 0: equal to the rank
    lora_layers: str = "all"  # one of names.LORA_LAYERS
    lora_text: bool = False  # adapt the text encoder, too


_LARGE = 50_000_000  # parameters; the released models have 385 million


def from_scratch(job: JobName) -> TrainConfig:
    """Return the default settings of training a job from random weights."""
    config = TrainConfig(job)
    if job.startswith("upsampler"):
        return replace(config, batch=16, ema=0.998, timesteps="lowest")
    if job == "clip":
        return replace(config, batch=192, ema=0.998, weight_decay=0.05)
    return config


def fine_tuning(config: TrainConfig, parameters: int) -> TrainConfig:
    """Return the default settings of training on from a model of the same kind.

    parameters: size of that model; large models take a smaller learning rate.
    """
    lr = 1e-5 if parameters > _LARGE else 3e-4
    lora_lr = 1e-4 if parameters > _LARGE else 2e-3  # a LoRA starts at zero and has few weights
    return replace(
        config,
        steps=400,
        batch=min(config.batch, 16),
        lr=lora_lr if config.lora else lr,
        warmup=20,
        ema=0.99,
        timesteps="uniform",
    )


def check_side(model: GlideConfig, side: int, setting: str) -> None:
    """Raise GlideError for a side of images or crops that the UNet of a model cannot take."""
    step = max(model.unet.side_multiple, 4 if model.is_upsampler else 1)
    if side < step or side % step:
        raise GlideError(
            f"images of {side}x{side} do not fit this model: expected a multiple of {step}", setting
        )
