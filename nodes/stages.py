"""One sampling run of one model: what every sampling node does between its inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from glide_core.errors import GlideError

from .host import Conditioning, Host
from .host.values import part, spatial

if TYPE_CHECKING:
    from torch import Tensor

    from glide_core.config import SamplerConfig
    from glide_core.diffusion.types import StepCallback
    from glide_core.sampling import ConditionedModel


@dataclass(frozen=True)
class Prompts:
    """Where a picture is pulled to, and what it is pushed from when there is guidance."""

    node: str  # for messages
    positive: Conditioning
    negative: Conditioning | None

    def branches(self, settings: SamplerConfig) -> list[Conditioning]:
        """The prompts to encode: without guidance the negative one is not needed."""
        if self.negative is None or settings.guidance_scale == 1:
            return [self.positive]
        return [self.positive, self.negative]


def sample(
    host: Host,
    model: Any,
    prompts: Prompts,
    settings: SamplerConfig,
    *,
    seed: int,
    batch: int,
    size: tuple[int, int],
    callback: StepCallback,
    low_res: Tensor | None = None,
    image: Tensor | None = None,
    keep_mask: Tensor | None = None,
    init: Tensor | None = None,
    strength: float = 1.0,
) -> Tensor:
    """Sample `batch` pictures [B, C, *size] in [-1, 1]; picture i is what seed + i gives alone."""
    from glide_core import sampling

    if batch < 1:
        raise GlideError(f"{prompts.node}: a batch of 0 pictures came in. Expected 1 or more.")
    branches = prompts.branches(settings)
    extras = part(prompts.positive, where=f"{prompts.node}: 'positive'")
    known = spatial(extras, low_res=low_res, image=image, keep_mask=keep_mask)
    kept, mask = known["image"], known["keep_mask"]
    seeds = [(seed + i) % 2**64 for i in range(batch)]

    def job(loaded: ConditionedModel) -> Tensor:
        if kept is not None and mask is not None:
            loaded = replace(loaded, denoised_fn=sampling.inpaint_denoised_fn(kept, mask))
        return sampling.sample_model(
            loaded,
            settings,
            seeds=seeds,
            size=size,
            init=init,
            strength=strength,
            callback=callback,
        )

    return host.sample(
        model,
        branches,
        job,
        batch=batch,
        cfg=settings.guidance_scale,
        low_res=low_res,
        image=image,
        keep_mask=keep_mask,
    )


def upsample_settings(
    steps: int, *, respacing: str = "", sampler: str = "ddim", cfg: float = 1.0, **more: Any
) -> SamplerConfig:
    """The second stage's settings: for 27 steps the paper's own spacing, else evenly spread."""
    from glide_core.config import SamplerConfig
    from glide_core.request import upsample_respacing

    return SamplerConfig(
        steps=steps,
        respacing=respacing.strip() or upsample_respacing(steps),
        sampler=sampler,
        guidance_scale=cfg,
        **{"temperature": 0.997, **more},
    )
