"""The training runs of the five bundled models: the defaults of `recipes.emoji.train`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from glide_core.training.config import TrainConfig


@dataclass(frozen=True)
class Run:
    """One training run. Its folder has its name, its weights the name of its job."""

    config: TrainConfig
    text_pretraining: int = 0  # text encoder pretraining steps
    init_from: str | None = None  # the run whose weights this one starts from
    base_samples: bool = False  # upsamplers: also train on samples of the base


_SCRATCH = TrainConfig("base", lr=2e-3, batch=32, ema=0.998, decay_from=1.0)
_TUNING = replace(_SCRATCH, lr=1e-3, warmup=20, decay_from=0.7)
# In the order in which they are trained. The base learns layouts at high noise first; its lattice
# of 2x2 pixels fades when low noise has its share of the timesteps.
RUNS: dict[str, Run] = {
    "base-layout": Run(
        replace(_SCRATCH, steps=12_000, caption_dropout=0.1, timesteps="high"),
        text_pretraining=1500,
    ),
    "base": Run(
        replace(_TUNING, steps=5000, caption_dropout=0.1, decay_from=0.1), init_from="base-layout"
    ),
    "inpaint": Run(replace(_TUNING, job="inpaint", steps=900), init_from="base"),
    "upsampler": Run(
        replace(
            _SCRATCH, job="upsampler", steps=2500, batch=16, timesteps="lowest", decay_from=0.7
        ),
        base_samples=True,
    ),
    "upsampler-inpaint": Run(
        replace(_TUNING, job="upsampler-inpaint", steps=400, batch=16, timesteps="lowest"),
        init_from="upsampler",
        base_samples=True,
    ),
    "clip": Run(
        replace(_SCRATCH, job="clip", steps=5000, batch=192, weight_decay=0.05, decay_from=0.7),
    ),
}
