"""What `glide train` trains by default: the five bundled models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from glide_core.config import (
    ClipConfig,
    GlideConfig,
    PredictionType,
    ScheduleConfig,
    TextConfig,
    UNetConfig,
)

JobName = Literal["base", "inpaint", "upsampler", "upsampler-inpaint", "clip"]
JOBS: tuple[JobName, ...] = ("base", "inpaint", "upsampler", "upsampler-inpaint", "clip")

_SCHEDULE = ScheduleConfig("squaredcos_cap_v2", prediction_type="v_prediction")

SMALL_BASE = GlideConfig(
    kind="base",
    text=TextConfig(n_vocab=2048, context_length=24, width=128, layers=4, heads=4),
    unet=UNetConfig(
        image_size=64,
        model_channels=48,
        num_res_blocks=1,
        channel_mult=(1, 2, 2),
        attention_factors=(4,),
        num_head_channels=32,
        norm_groups=8,
        patch_size=2,
        coord_channels=4,
    ),
    schedule=_SCHEDULE,
    tokenizer="glide-small",
)
SMALL_UPSAMPLER = GlideConfig(
    kind="upsampler",
    text=TextConfig(n_vocab=2048, context_length=24, width=32, layers=1, heads=1),
    unet=UNetConfig(
        image_size=256,
        model_channels=48,
        num_res_blocks=1,
        channel_mult=(1, 1),
        attention_factors=(),
        num_head_channels=24,
        # 32 groups of one channel each would take every flat colour out of the picture
        norm_groups=8,
        patch_size=4,
        sigma_data=0.025,
    ),
    schedule=replace(_SCHEDULE, noise_schedule="linear"),
    tokenizer="glide-small",
)
SMALL_CLIP = ClipConfig(
    image_size=64,
    patch_size=8,
    embedding=128,
    image_width=128,
    image_heads=4,
    image_layers=3,
    n_vocab=2048,
    context_length=24,
    text_width=128,
    text_heads=4,
    text_layers=2,
    logit_scale=30.0,
    tokenizer="glide-small",
)
SMALL: dict[JobName, GlideConfig] = {
    "base": SMALL_BASE,
    "inpaint": replace(SMALL_BASE, kind="inpaint"),
    "upsampler": SMALL_UPSAMPLER,
    "upsampler-inpaint": replace(SMALL_UPSAMPLER, kind="upsampler-inpaint"),
}


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Everything that decides the result; paths and printing are elsewhere."""

    job: JobName
    steps: int = 1100
    batch: int = 64  # pictures of a step, over all processes and parts
    lr: float = 1.5e-3
    warmup: int = 50
    final_lr: float = 0.05  # share of lr that is left at the end
    decay_from: float = 0.7  # share of the run after which the learning rate falls
    weight_decay: float = 0.0
    clip_grad: float = 1.0
    ema: float = 0.9992
    caption_dropout: float = 0.2
    vlb_weight: float = 1.0  # of the bound per step; reference L_hybrid: 0.001 * T * bound
    seed: int = 0
    bf16: bool = True
    size: int | None = None  # side of the pictures; None: the model's own
    crop: int = 128  # of upsamplers' pictures: they have attention at the lowest levels only
    prediction: PredictionType | None = None  # from scratch; None: the preset's
    weighting: str = "uniform"  # one of weighting.WEIGHTINGS
    timesteps: str = "uniform"  # one of samples.TIMESTEPS
    optimizer: str = "adamw"  # one of optimizers.OPTIMIZERS
    text_warmup: int = 0  # steps that a fresh model's text tower is trained alone for
    accumulate: int = 1  # parts that a process computes its share of the batch in
    checkpointing: bool = False
    lora: int = 0  # rank; 0 trains every weight
    lora_alpha: float = 0.0  # 0: the rank
    lora_layers: str = "all"  # one of lora.CHOICES
    lora_text: bool = False  # the text tower's layers too


_SCRATCH = TrainConfig("base", optimizer="muon", lr=2e-3)
_WIDENED = replace(_SCRATCH, lr=1e-3, ema=0.998, warmup=20)
DEFAULTS: dict[JobName, TrainConfig] = {
    "base": replace(_SCRATCH, steps=6500, batch=48, text_warmup=1500),
    "inpaint": replace(_WIDENED, job="inpaint", steps=900, batch=32),
    "upsampler": replace(
        _SCRATCH, job="upsampler", steps=1700, batch=16, ema=0.998, timesteps="lowest"
    ),
    "upsampler-inpaint": replace(
        _WIDENED, job="upsampler-inpaint", steps=400, batch=16, timesteps="lowest"
    ),
    "clip": replace(_SCRATCH, job="clip", steps=700, batch=192, ema=0.998, weight_decay=0.05),
}
_LARGE = 50_000_000  # parameters; the released models have 385 million


def fine_tuning(config: TrainConfig, parameters: int) -> TrainConfig:
    """The defaults of going on with a trained model of the same kind: short, and with less haste.

    parameters: of that model; the released ones take a hundredth of the small ones' rate.
    """
    lr = 1e-5 if parameters > _LARGE else 3e-4
    rank_lr = 1e-4 if parameters > _LARGE else 2e-3  # a LoRA starts at zero and has few weights
    return replace(
        config,
        steps=400,
        batch=min(config.batch, 16),
        lr=rank_lr if config.lora else lr,
        warmup=20,
        ema=0.99,
        optimizer="adamw",
        timesteps="uniform",
        text_warmup=0,
    )
