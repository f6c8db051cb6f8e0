"""One sampling run of one model, shared by all sampling nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from glide_core.errors import GlideError

from .host import Conditioning, current
from .host.values import check_carried, known_pixels, part

if TYPE_CHECKING:
    from torch import Tensor

    from glide_core.config import GlideConfig, SamplerConfig
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

    known: an image [B, C, *size] and a keep_mask [B, 1, *size] (1 = keep) that every x0 estimate
    and the result are combined with, as ComfyUI's samplers do with a LATENT's noise mask.
    """
    from glide_core import sampling

    if not seeds:
        raise GlideError(f"{prompts.node}: the batch holds 0 images. Expected 1 or more.")
    conds = prompts.conds(settings)
    host = current()
    config: GlideConfig = host.glide_config(model)
    inputs = _with_carried(prompts, inputs, config, len(seeds))
    pairs = [(inputs.image, inputs.keep_mask), known or (None, None)]
    pasted = [
        sampling.inpaint_denoised_fn(image, keep)
        for image, keep in pairs
        if image is not None and keep is not None
    ]

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

    found = host.sample(
        model,
        conds,
        job,
        batch=len(seeds),
        cfg=settings.guidance_scale,
        low_res=inputs.low_res,
        image=inputs.image if config.is_inpaint else None,
        keep_mask=inputs.keep_mask if config.is_inpaint else None,
    )
    return found if known is None else sampling.inpaint_denoised_fn(*known)(found)


def _with_carried(
    prompts: Prompts, inputs: StageInputs, config: GlideConfig, batch: int
) -> StageInputs:
    """Add the image and mask that the positive CONDITIONING carries, unless there are others.

    GlideError for what does not fit the MODEL, the batch, or the size.
    """
    from glide_core.images import cycle

    where = f"{prompts.node}: the CONDITIONING on 'positive'"
    extras = part(prompts.positive, where=where)
    if inputs.image is not None or inputs.low_res is not None:
        return inputs
    check_carried(extras, config, batch, where)
    known = known_pixels(extras)
    if known is None:
        return inputs
    image, keep_mask = known
    if tuple(image.shape[2:]) != inputs.size:
        (height, width), (tall, wide) = image.shape[2:], inputs.size or (0, 0)
        raise GlideError(
            f"{where} carries an image of {width}x{height} pixels, and {wide}x{tall} are to be "
            "sampled. Expected one size: connect the LATENT of the node that added the image."
        )
    return replace(inputs, image=cycle(image, batch), keep_mask=cycle(keep_mask, batch))
