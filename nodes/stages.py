"""One sampling run of one model, shared by all sampling nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from glide_core.errors import GlideError

from .host import Conditioning, current
from .host.values import part, spatial

if TYPE_CHECKING:
    from torch import Tensor

    from glide_core.config import SamplerConfig
    from glide_core.diffusion.types import StepCallback
    from glide_core.sampling import ConditionedModel
    from glide_core.stages import StageInputs


@dataclass(frozen=True)
class Prompts:
    """The prompt to follow, and the one that guidance moves away from."""

    node: str  # for messages
    positive: Conditioning
    negative: Conditioning | None

    def conds(self, settings: SamplerConfig) -> list[Conditioning]:
        """The prompts to encode: without guidance the negative one is not needed."""
        if settings.guidance_scale == 1:
            return [self.positive]
        if self.negative is None:
            raise GlideError(
                f"{self.node}: cfg is {settings.guidance_scale:g} and nothing is connected to "
                "'negative'. Connect a CONDITIONING (an empty text will do), or set cfg to 1."
            )
        return [self.positive, self.negative]


def sample(
    model: Any,
    prompts: Prompts,
    settings: SamplerConfig,
    seeds: Sequence[int],
    inputs: StageInputs,
    callback: StepCallback,
    *,
    known: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Sample one image per seed, [B, C, *inputs.size] in [-1, 1].

    known: an image [B, C, *size] and a mask [B, 1, *size] (1 = sample) that every x0 estimate is
    combined with, as ComfyUI's samplers do with a LATENT's noise mask.
    """
    from glide_core import sampling
    from glide_core.images import invert_mask

    if not seeds:
        raise GlideError(f"{prompts.node}: the batch holds 0 images. Expected 1 or more.")
    conds = prompts.conds(settings)
    images = {"low_res": inputs.low_res, "image": inputs.image, "keep_mask": inputs.keep_mask}
    given = spatial(part(prompts.positive, where=f"{prompts.node}: 'positive'"), **images)
    kept = [] if known is None else [(known[0], invert_mask(known[1]))]
    if given["image"] is not None and given["keep_mask"] is not None:
        kept.insert(0, (given["image"], given["keep_mask"]))
    pasted = [sampling.inpaint_denoised_fn(*pair) for pair in kept]

    def paste(x0: Tensor) -> Tensor:
        for paste_one in pasted:
            x0 = paste_one(x0)
        return x0

    def job(loaded: ConditionedModel) -> Tensor:
        if pasted:
            loaded = replace(loaded, denoised_fn=paste)
        return sampling.sample_model(
            loaded,
            settings,
            seeds=seeds,
            size=inputs.size,
            init=inputs.init,
            strength=inputs.strength,
            callback=callback,
        )

    found = current().sample(
        model, conds, job, batch=len(seeds), cfg=settings.guidance_scale, **images
    )
    if known is None:
        return found
    image, mask = (value.to(found) for value in known)
    return found * mask + image * (1 - mask)
