"""One sampling run of one model: `bind` ties a model to its prompts, `run` samples.

ComfyUI calls `run` with a denoiser of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glide_core.config import GlideConfig, SamplerConfig
from glide_core.diffusion import Schedule, SeededNoise, sample
from glide_core.diffusion.prediction import split
from glide_core.diffusion.types import (
    BranchDenoiser,
    ConditionFn,
    DenoisedFn,
    Denoiser,
    Prediction,
    StepCallback,
)
from glide_core.errors import GlideError
from glide_core.guidance import GuidanceCallback, classifier_free
from glide_core.memory import keep_freed_memory
from glide_core.models.glide import GlideModel
from glide_core.models.unet import TextContext
from glide_core.tokenizer import Tokens, get_tokenizer


def bind(
    model: GlideModel,
    branches: Sequence[Sequence[Tokens]],
    *,
    low_res: Tensor | None = None,
    image: Tensor | None = None,
    keep_mask: Tensor | None = None,
) -> BranchDenoiser:
    """Tie a model to prompts and pictures: the denoiser of every branch.

    branches: conditional first, then unconditional or negative; one Tokens per image in each. The
        text is encoded here, once per different prompt, and projected once per attention layer.
    low_res [B, C, h, w], image [B, C, H, W], keep_mask [B, 1, H, W] (1 = keep): what the model's
        kind takes, in [-1, 1].
    """
    config, device = model.config, model.device
    schedule = model_schedule(config)
    contexts = [_context(model, tokens) for tokens in branches]
    pictures = {"low_res": low_res, "image": image, "keep_mask": keep_mask}
    given = {k: v.to(device) for k, v in pictures.items() if v is not None}
    repeated: dict[tuple[int, ...], tuple[TextContext, dict[str, Tensor]]] = {}

    def inputs(wanted: tuple[int, ...]) -> tuple[TextContext, dict[str, Tensor]]:
        if wanted not in repeated:  # the same at every step: joined once
            joined = TextContext.cat([contexts[i] for i in wanted])
            repeated[wanted] = joined, {k: v.repeat(len(wanted), 1, 1, 1) for k, v in given.items()}
        return repeated[wanted]

    def denoise(x_t: Tensor, t: Tensor, wanted: tuple[int, ...], /) -> tuple[Prediction, ...]:
        context, extra = inputs(wanted)
        raw = model.unet(x_t.repeat(len(wanted), 1, 1, 1), t.repeat(len(wanted)), context, **extra)
        kind = config.schedule.prediction_type
        return tuple(split(part, x_t, t, schedule, kind) for part in raw.chunk(len(wanted)))

    return denoise


def run(
    denoise: BranchDenoiser,
    config: GlideConfig,
    settings: SamplerConfig,
    *,
    seeds: Sequence[int],
    size: tuple[int, int] | None = None,
    guided: bool = True,
    init: Tensor | None = None,
    strength: float = 1.0,
    denoised_fn: DenoisedFn | None = None,
    cond_fn: ConditionFn | None = None,
    callback: StepCallback | None = None,
    guidance_callback: GuidanceCallback | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Sample pictures [B, C, H, W] in [-1, 1], one per seed.

    size: (height, width); default the model's own. guided: whether branch 1 exists, so that
    classifier-free guidance can be applied. init, strength: start from this picture, noised so far
    that `strength` (0..1] of the steps remain (SDEdit). guidance_callback: called at every step
    with the distance that classifier-free guidance moved x0. GlideError for what does not fit.
    """
    if not seeds:
        raise GlideError("a batch of 0 pictures was asked for: expected 1 or more")
    if not 0 < strength <= 1:
        raise GlideError(f"strength {strength} is out of range: expected more than 0, at most 1")
    trained = config.schedule.diffusion_steps
    if not settings.respacing and not 1 <= settings.steps <= trained:
        raise GlideError(
            f"steps {settings.steps} is out of range: expected 1 to {trained}, the steps that the "
            "model was trained on"
        )
    schedule = model_schedule(config).respaced(settings.respacing or settings.steps)
    if guided and settings.guidance_scale != 1:
        denoiser: Denoiser = classifier_free(
            denoise,
            settings.guidance_scale,
            schedule=schedule,
            rescale=settings.guidance_rescale,
            interval=settings.guidance_interval,
            guidance_callback=guidance_callback,
        )
    else:
        denoiser = _first_branch(denoise)
    noise = SeededNoise(seeds)
    side = config.unet.image_size
    height, width = size or (side, side)
    like = torch.empty(len(seeds), config.unet.channels, height, width, device=device)
    x, start = noise(like) * settings.temperature, None
    if init is not None and strength < 1:
        start = max(1, round(strength * len(schedule))) - 1
        x = schedule.q_sample(init.to(device).expand_as(like), start, x)
    with keep_freed_memory(like.device):
        return sample(
            settings.sampler,
            denoiser,
            x,
            schedule,
            noise=noise,
            eta=settings.eta,
            clip_denoised=settings.clip_denoised,
            denoised_fn=denoised_fn,
            cond_fn=cond_fn,
            callback=callback,
            start=start,
        )


def inpaint_denoised_fn(image: Tensor, keep_mask: Tensor) -> DenoisedFn:
    """Paste known pixels into every x0 estimate; the noised state is never overwritten."""

    def paste(x0: Tensor) -> Tensor:
        mask = keep_mask.to(x0)
        return x0 * (1 - mask) + image.to(x0) * mask

    return paste


def model_schedule(config: GlideConfig) -> Schedule:
    """The schedule that a model was trained on, every step of it."""
    return Schedule.named(config.schedule.noise_schedule, config.schedule.diffusion_steps)


def tokenize(config: GlideConfig, prompts: Sequence[str]) -> list[Tokens]:
    """Prompts as this model reads them."""
    tokenizer = get_tokenizer(config.tokenizer)
    return [tokenizer.encode(prompt, config.text.context_length) for prompt in prompts]


def _context(model: GlideModel, tokens: Sequence[Tokens]) -> TextContext:
    different: dict[str, Tokens] = {t.text: t for t in tokens}
    ids = torch.stack([t.ids for t in different.values()]).to(model.device)
    mask = torch.stack([t.mask for t in different.values()]).to(model.device)
    context = model.unet.context(model.encode(ids, mask))
    rows = [list(different).index(t.text) for t in tokens]
    return context.select(torch.tensor(rows, device=model.device))


def _first_branch(denoise: BranchDenoiser) -> Denoiser:
    def denoiser(x_t: Tensor, t: Tensor, /) -> Prediction:
        return denoise(x_t, t, (0,))[0]

    return denoiser
