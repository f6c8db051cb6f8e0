"""One sampling run: `condition_model` binds prompts and images, `sample_model` samples.

A host with models of its own (ComfyUI) builds a ConditionedModel around its own `predict`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glide_core.config import GlideConfig, SamplerConfig
from glide_core.devices import keep_freed_memory
from glide_core.diffusion import Schedule, SeededNoise, sample
from glide_core.diffusion.denoiser import parse_model_output
from glide_core.diffusion.types import (
    ConditionFn,
    CondUncondModel,
    DenoisedFn,
    Prediction,
    StepCallback,
    StepInfo,
)
from glide_core.errors import GlideError
from glide_core.guidance.guides import GuidanceCallback, classifier_free
from glide_core.models.glide import GlideModel
from glide_core.models.unet import TextContext
from glide_core.tokenizer import Tokens, get_tokenizer


@dataclass(frozen=True)
class ConditionedModel:
    """A model with its prompts, images and guides: all that a run needs of it."""

    predict: CondUncondModel
    config: GlideConfig
    device: torch.device | str = "cpu"  # where x_t is to be
    has_uncond: bool = True  # whether classifier-free guidance is possible
    cond_fn: ConditionFn | None = None  # the sum of all guides
    denoised_fn: DenoisedFn | None = None
    # Called at every step: with the distance that classifier-free guidance moved x0, and at the end
    # of the step, before the run's own callback.
    guidance_callback: GuidanceCallback | None = None
    callback: StepCallback | None = None


def condition_model(
    model: GlideModel,
    cond: Sequence[Tokens],
    uncond: Sequence[Tokens] | None = None,
    *,
    low_res: Tensor | None = None,
    image: Tensor | None = None,
    keep_mask: Tensor | None = None,
    cond_fn: ConditionFn | None = None,
) -> ConditionedModel:
    """Bind a model to prompts and images.

    cond, uncond: one Tokens per image; uncond (negative or empty prompts) may be left out where
        nothing is guided by it. The text is encoded here, once per different prompt.
    low_res [B, C, h, w], image [B, C, H, W], keep_mask [B, 1, H, W] (1 = keep): what the model's
        kind takes, in [-1, 1]; one serves all images. Known pixels are pasted into every x0
        estimate.
    """
    config, device = model.config, model.device
    schedule = model_schedule(config)
    contexts = [_context(model, tokens) for tokens in (cond, uncond) if tokens is not None]
    given = {"low_res": low_res, "image": image, "keep_mask": keep_mask}
    extra = {
        name: expand_batch(value.to(device), len(cond), name)
        for name, value in given.items()
        if value is not None
    }

    @functools.cache  # the same at every step
    def inputs(count: int) -> tuple[TextContext, dict[str, Tensor]]:
        repeated = {name: value.repeat(count, 1, 1, 1) for name, value in extra.items()}
        return TextContext.cat(contexts[:count]), repeated

    def predict(x_t: Tensor, t: Tensor, uncond: bool, /) -> tuple[Prediction, ...]:
        count = 2 if uncond else 1
        context, images = inputs(count)
        t = t.to(device, non_blocking=True)
        raw = model.unet(x_t.repeat(count, 1, 1, 1), t.repeat(count), context, **images)
        kind = config.schedule.prediction_type
        return tuple(parse_model_output(half, x_t, t, schedule, kind) for half in raw.chunk(count))

    denoised_fn = None
    if image is not None and keep_mask is not None:
        denoised_fn = inpaint_denoised_fn(extra["image"], extra["keep_mask"])
    return ConditionedModel(
        predict,
        config,
        device,
        has_uncond=uncond is not None,
        cond_fn=cond_fn,
        denoised_fn=denoised_fn,
    )


def sample_model(
    model: ConditionedModel,
    settings: SamplerConfig,
    *,
    seeds: Sequence[int],
    size: tuple[int, int] | None = None,
    init: Tensor | None = None,
    strength: float = 1.0,
    callback: StepCallback | None = None,
) -> Tensor:
    """Sample images [B, C, H, W] in [-1, 1], one per seed.

    size: (height, width); default the model's own. init [B, C, H, W] or [1, C, H, W], strength:
    start from this image, noised so far that `strength` (0..1] of the steps remain (SDEdit).
    GlideError for what does not fit.
    """
    config = model.config
    if not seeds:
        raise GlideError("the list of seeds is empty: expected one seed per image, 1 or more")
    if not 0 < strength <= 1:
        raise GlideError(f"strength {strength} is out of range: expected more than 0, at most 1")
    settings = settings.for_model(config)
    steps, scale = settings.respacing or settings.steps, settings.guidance_scale
    sampler = settings.sampler
    assert steps is not None and scale is not None and sampler is not None  # since for_model
    schedule = model_schedule(config).respaced(steps)
    noise = SeededNoise(seeds)
    side = config.unet.image_size
    shape = (len(seeds), config.unet.channels, *(size or (side, side)))
    temperature = settings.temperature * config.temperature
    x = noise(torch.empty(shape, dtype=torch.float32, device=model.device)) * temperature
    start = None
    if init is not None and strength < 1:
        start = max(1, round(strength * len(schedule))) - 1
        init = expand_batch(init.to(model.device), len(seeds), "init")
        x = schedule.q_sample(init, start, x)
    scale = scale if model.has_uncond else 1.0
    guided = classifier_free(
        model.predict,
        scale,
        schedule=schedule,
        rescale=settings.guidance_rescale,
        interval=settings.guidance_interval,
        guidance_callback=None if scale == 1 else model.guidance_callback,
    )

    def step(info: StepInfo) -> None:
        for each in (model.callback, callback):
            if each is not None:
                each(info)

    with keep_freed_memory(x.device):
        return sample(
            sampler,
            guided,
            x,
            schedule,
            noise=noise,
            eta=settings.eta,
            clip_denoised=settings.clip_denoised,
            denoised_fn=model.denoised_fn,
            cond_fn=model.cond_fn,
            clip_guided=settings.clip_guided,
            callback=step,
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
    """Encode prompts with a model's tokenizer, to its context length."""
    tokenizer = get_tokenizer(config.tokenizer)
    return [tokenizer.encode(prompt, config.text.context_length) for prompt in prompts]


def expand_batch(value: Tensor, batch: int, name: str) -> Tensor:
    """Repeat [1, ...] for a batch; GlideError if the input has neither 1 nor `batch` images."""
    if len(value) not in (1, batch):
        raise GlideError(f"{name} has {len(value)} images: expected 1, or {batch} as the prompts")
    return value.expand(batch, *value.shape[1:])


def _context(model: GlideModel, tokens: Sequence[Tokens]) -> TextContext:
    """Encode one prompt per image: each different one once, and alone, so that its numbers are the
    same in any batch."""
    encoded: dict[str, TextContext] = {}
    for each in tokens:
        if each.text not in encoded:
            ids, mask = each.ids[None].to(model.device), each.mask[None].to(model.device)
            encoded[each.text] = model.unet.context(model.encode(ids, mask))
    return TextContext.cat([encoded[each.text] for each in tokens])
