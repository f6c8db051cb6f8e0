"""Training settings of the five bundled models: the defaults of `recipes.emoji.train`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from glide_core.training.config import JobName, TrainConfig


@dataclass(frozen=True)
class Preset:
    """Settings of one bundled model."""

    config: TrainConfig
    text_pretraining: int = 0  # text encoder pretraining steps
    init_from: JobName | None = None  # the bundled model whose weights this one starts from


_SCRATCH = TrainConfig("base", lr=2e-3)
_WIDENED = replace(_SCRATCH, lr=1e-3, ema=0.998, warmup=20)
PRESETS: dict[JobName, Preset] = {
    "base": Preset(replace(_SCRATCH, steps=6500, batch=48), text_pretraining=1500),
    "inpaint": Preset(replace(_WIDENED, job="inpaint", steps=900, batch=32), init_from="base"),
    "upsampler": Preset(
        replace(_SCRATCH, job="upsampler", steps=1700, batch=16, ema=0.998, timesteps="lowest")
    ),
    "upsampler-inpaint": Preset(
        replace(_WIDENED, job="upsampler-inpaint", steps=400, batch=16, timesteps="lowest"),
        init_from="upsampler",
    ),
    "clip": Preset(
        replace(_SCRATCH, job="clip", steps=700, batch=192, ema=0.998, weight_decay=0.05)
    ),
}
