"""One sampling run of one model, shared by all sampling nodes."""

from __future__ import annotations

from collections.abc import Sequence
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
    """The prompt to follow, and the one that guidance moves away from."""

    node: str  # for messages
    positive: Conditioning
    negative: Conditioning | None

    def branches(self, settings: SamplerConfig) -> list[Conditioning]:
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
    indices: Sequence[int] | None = None,
    known: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Sample `batch` images [B, C, *size] in [-1, 1]; image i is what seed + i gives alone.

    indices: the number of each image where they are not 0 .. batch - 1. known: an image
    [B, C, *size] and a mask [B, 1, *size] (1 = sample) that every x0 estimate is combined with, as
    ComfyUI's samplers do with a LATENT's noise mask.
    """
    from glide_core import sampling
    from glide_core.images import invert_mask
    from glide_core.request import image_seed

    if batch < 1:
        raise GlideError(f"{prompts.node}: the batch holds 0 images. Expected 1 or more.")
    branches = prompts.branches(settings)
    extras = part(prompts.positive, where=f"{prompts.node}: 'positive'")
    given = spatial(extras, low_res=low_res, image=image, keep_mask=keep_mask)
    kept = [] if known is None else [(known[0], invert_mask(known[1]))]
    if given["image"] is not None and given["keep_mask"] is not None:
        kept.insert(0, (given["image"], given["keep_mask"]))
    pasted = [sampling.inpaint_denoised_fn(*pair) for pair in kept]
    seeds = [image_seed(seed, i) for i in indices or range(batch)]

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
            size=size,
            init=init,
            strength=strength,
            callback=callback,
        )

    found = host.sample(
        model,
        branches,
        job,
        batch=batch,
        cfg=settings.guidance_scale,
        low_res=low_res,
        image=image,
        keep_mask=keep_mask,
    )
    if known is None:
        return found
    image, mask = (value.to(found) for value in known)
    return found * mask + image * (1 - mask)
