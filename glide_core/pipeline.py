"""The jobs, composed: text to image, upsampling, inpainting at both stages, editing at both stages.

`bind` ties a model to its prompts and pictures; `run` samples what was bound. A host with models of
its own (ComfyUI) calls `run` with its own denoiser; the four functions at the end do both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from glide_core.config import GlideConfig, SamplerConfig
from glide_core.diffusion.types import (
    ConditionFn,
    StepCallback,
)
from glide_core.errors import GlideError
from glide_core.images import quantize_8bit
from glide_core.models.glide import GlideModel
from glide_core.sampling import bind, inpaint_denoised_fn, run, tokenize
from glide_core.tokenizer import Tokens

UPSCALE = 4  # 64x64 becomes 256x256
BASE_SETTINGS = SamplerConfig()
# The released notebooks' upsampling: DDIM on fast27, a slightly cool start, no guidance.
UPSAMPLE_SETTINGS = SamplerConfig(respacing="fast27", guidance_scale=1.0, temperature=0.997)
# ... and their inpainting: ancestral on fast27, so that known pixels and new ones mix.
UPSAMPLE_INPAINT_SETTINGS = replace(UPSAMPLE_SETTINGS, sampler="ancestral")


def text_to_image(
    model: GlideModel,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    negative: str = "",
    settings: SamplerConfig = BASE_SETTINGS,
    size: tuple[int, int] | None = None,
    init: Tensor | None = None,
    strength: float = 1.0,
    cond_fn: ConditionFn | None = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Draw one picture per prompt and seed; with `init` and `strength`, redraw pictures (SDEdit).

    Returns [B, C, 64, 64] in [-1, 1] (or of `size`, multiples of 8 for the released models).
    """
    branches = _branches(model.config, prompts, seeds, negative)
    with torch.inference_mode():
        return run(
            bind(model, branches),
            model.config,
            settings,
            seeds=seeds,
            size=size,
            init=init,
            strength=strength,
            cond_fn=cond_fn,
            callback=callback,
            device=model.device,
        )


def upsample(
    model: GlideModel,
    low_res: Tensor,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    negative: str = "",
    settings: SamplerConfig = UPSAMPLE_SETTINGS,
    init: Tensor | None = None,
    strength: float = 1.0,
    callback: StepCallback | None = None,
) -> Tensor:
    """Enlarge low_res [B, C, h, w] four times; with `init` [B, C, 4h, 4w], redraw that (SDEdit).

    low_res is snapped to 8 bits first, as the model saw it in training (reference notebooks).
    """
    low_res = quantize_8bit(low_res)
    branches = _branches(model.config, prompts, seeds, negative)
    with torch.inference_mode():
        return run(
            bind(model, branches, low_res=low_res),
            model.config,
            settings,
            seeds=seeds,
            size=upsampled_size(low_res),
            init=init,
            strength=strength,
            callback=callback,
            device=model.device,
        )


def inpaint(
    model: GlideModel,
    image: Tensor,
    keep_mask: Tensor,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    negative: str = "",
    low_res: Tensor | None = None,
    settings: SamplerConfig | None = None,
    cond_fn: ConditionFn | None = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Repaint where keep_mask [B, 1, H, W] is 0; image [B, C, H, W] is kept where it is 1.

    low_res: for the upsampler's stage, the whole inpainted picture at a quarter of the size.
    """
    if not model.config.is_inpaint:
        raise GlideError(
            f"this is a {model.config.kind} model: inpainting needs an inpaint checkpoint"
        )
    if settings is None:
        settings = UPSAMPLE_INPAINT_SETTINGS if model.config.is_upsampler else BASE_SETTINGS
    if low_res is not None:
        low_res = quantize_8bit(low_res)
    branches = _branches(model.config, prompts, seeds, negative)
    shape = (len(seeds), -1, -1, -1)
    image, keep_mask = image.expand(*shape), keep_mask.expand(*shape)
    with torch.inference_mode():
        return run(
            bind(model, branches, low_res=low_res, image=image, keep_mask=keep_mask),
            model.config,
            settings,
            seeds=seeds,
            size=(image.shape[2], image.shape[3]),
            denoised_fn=inpaint_denoised_fn(image, keep_mask),
            cond_fn=cond_fn,
            callback=callback,
            device=model.device,
        )


def upsample_respacing(steps: int) -> str:
    """The paper's uneven spacing for its own number of steps, even spacing for any other."""
    return "fast27" if steps == 27 else ""


def upsampled_size(low_res: Tensor) -> tuple[int, int]:
    """(height, width) that an upsampler makes of low_res: four times its sides."""
    return low_res.shape[2] * UPSCALE, low_res.shape[3] * UPSCALE


def _branches(
    config: GlideConfig, prompts: Sequence[str], seeds: Sequence[int], negative: str
) -> list[list[Tokens]]:
    if len(prompts) != len(seeds):
        raise GlideError(
            f"{len(prompts)} prompts for {len(seeds)} seeds: expected one prompt per seed"
        )
    return [tokenize(config, prompts), tokenize(config, [negative]) * len(seeds)]
