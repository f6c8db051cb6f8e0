"""The two-stage loop: 64x64 from the base model, 256x256 from the upsampler.

Text to image, upscaling, editing and inpainting differ only in the images that stages start from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glide_core.components import Components, stage_roles
from glide_core.config import SamplerConfig
from glide_core.crop import crop_for_inpainting, stitch
from glide_core.diffusion.types import ConditionFn, StepCallback, StepInfo
from glide_core.errors import GlideError
from glide_core.guidance.clip import noisy_clip_guide
from glide_core.images import (
    SOFT_EDGES,
    fit,
    from_comfy,
    is_soft,
    quantize_8bit,
    resize,
    to_comfy,
)
from glide_core.models.glide import GlideModel
from glide_core.request import UPSAMPLE_SETTINGS, UPSCALE, GenerationRequest, StepEnd
from glide_core.sampling import condition_model, expand_batch, sample_model, tokenize
from glide_core.tokenizer import warn_about

log = logging.getLogger("glide")

StageCallback = Callable[[str, StepInfo], None]  # ("base" or "upsampler", step)


@dataclass(frozen=True)
class StageInputs:
    """Images that one stage starts from or keeps, in [-1, 1]; one row, or one per image."""

    low_res: Tensor | None = None  # [B, C, h, w], what an upsampler enlarges
    init: Tensor | None = None  # [B, C, H, W], noised and denoised again (SDEdit)
    strength: float = 1.0  # share of the steps that `init` is noised for, more than 0, at most 1
    image: Tensor | None = None  # [B, C, H, W], known pixels of an inpainting
    keep_mask: Tensor | None = None  # [B, 1, H, W], 1 = keep, 0 = inpaint
    size: tuple[int, int] | None = None  # (height, width); default: from the images or the model


class PipelineInputs(NamedTuple):
    """Images that a pipeline's stages start from; none for text to image."""

    first: StageInputs = StageInputs()
    second: StageInputs = StageInputs()
    finish: Callable[[Tensor], Tensor] = lambda images: images  # called with the last stage's


TEXT_ONLY = PipelineInputs()


def generate(
    models: Components,
    requests: Sequence[GenerationRequest],
    inputs: PipelineInputs = TEXT_ONLY,
    callback: StageCallback | None = None,
) -> Tensor:
    """Generate one image per request, [B, C, H, W] in [-1, 1].

    The requests may differ in prompt and seed alone (`glide_core.request.batches` groups them).
    callback: called after every step with the stage; raise from it to cancel.
    """
    if len({request.settings for request in requests}) != 1:
        raise GlideError("a batch needs requests, and they may differ in prompt and seed alone")
    shared = requests[0]
    first, second = inputs.first, inputs.second
    prompts, seeds = [r.prompt for r in requests], [r.seed for r in requests]
    roles = stage_roles(first.image is not None)

    def sample(stage: str, own: StageInputs, guide: ConditionFn | None = None) -> Tensor:
        with models.use(roles[stage]) as model:
            return sample_stage(
                model,
                prompts,
                seeds,
                getattr(shared, stage),
                negative=shared.negative_prompt,
                inputs=own,
                cond_fn=guide,
                callback=callback and partial(callback, stage),
            )

    images = second.low_res
    if first.init is not None:
        images = expand_batch(first.init, len(requests), "image")
    if shared.base is not None and shared.strength > 0:
        first = replace(first, size=shared.size, strength=shared.strength)
        with ExitStack() as stack:
            guide = None
            if shared.clip_guidance_scale:
                clip, own = stack.enter_context(models.use("clip")), shared.clip_prompt
                towards = prompts if own is None else [own] * len(prompts)
                with torch.no_grad():
                    text = clip.encode_prompts(towards)
                guide = noisy_clip_guide(clip, text, shared.clip_guidance_scale)
            images = sample("base", first, guide)
    if images is None:
        raise GlideError("the request has no base stage: expected an input image to upscale")
    if shared.upsampler is not None and shared.upsample_strength > 0:
        second = replace(second, low_res=images, strength=shared.upsample_strength)
        images = sample("upsampler", second)
    return images


def prepare(
    models: Components, requests: Sequence[GenerationRequest], inputs: PipelineInputs = TEXT_ONLY
) -> list[GenerationRequest]:
    """Give requests the models' samplers, guidance scales and steps where they have none.

    Logs warnings about prompts and sizes that the first model will not handle well.
    """
    roles = stage_roles(inputs.first.image is not None)
    used = {s: role for s, role in roles.items() if getattr(requests[0], s) is not None}
    configs = {stage: models.model(role).config for stage, role in used.items()}
    first = next(iter(used))
    warn_about(requests, configs[first], models.metadata(used[first]))

    def settings(request: GenerationRequest, stage: str) -> Any:
        clip = stage == "base" and request.clip_guidance_scale != 0
        return getattr(request, stage).for_model(configs[stage], clip=clip)

    return [replace(r, **{stage: settings(r, stage) for stage in used}) for r in requests]


def edit_inputs(
    models: Components, image: Tensor, strength: float, upsample_strength: float
) -> PipelineInputs:
    """The image [B, 3, H, W] in [-1, 1] at the size of each stage, for `generate`."""
    small = fit(image, models.model("base").config.unet.image_size)
    large = resize(image, upsampled_size(small))
    first = StageInputs(init=small, strength=strength)
    return PipelineInputs(first, StageInputs(init=large, strength=upsample_strength))


def inpaint_inputs(
    models: Components, image: Tensor, mask: Tensor, upsample: bool, context: float, feather: int
) -> PipelineInputs:
    """Cut a square around the mask out for each stage, for `generate`, and stitch it back after.

    image: [B, 3, H, W] in [-1, 1]. mask: [B, H, W], 1 = inpaint. feather: in pixels.
    """
    roles = list(stage_roles(inpaint=True).values())[: 2 if upsample else 1]
    sides = tuple(models.model(role).config.unet.image_size for role in roles)
    if image.shape[-2:] != mask.shape[-2:]:
        sizes = [f"{own.shape[-1]}x{own.shape[-2]}" for own in (mask, image)]
        raise GlideError(f"the mask is {sizes[0]} and the image {sizes[1]}: expected one size")
    original = to_comfy(image)
    crop = crop_for_inpainting(original, mask, sides, context)
    if is_soft(mask):
        log.warning(SOFT_EDGES)
    first, second = (
        StageInputs(image=crop.images[i], keep_mask=crop.keep_masks[i]) for i in (0, -1)
    )

    def stitched(patches: Tensor) -> Tensor:
        return from_comfy(stitch(original, patches.cpu(), crop.region, mask, feather))

    return PipelineInputs(first, second, stitched)


def sample_stage(
    model: GlideModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplerConfig | None = None,
    *,
    negative: str = "",
    inputs: StageInputs | None = None,
    cond_fn: ConditionFn | None = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Sample one stage with one model: an image [B, C, H, W] in [-1, 1] per prompt and seed.

    settings: default: the released notebooks' for this kind of model. GlideError where prompts and
    seeds differ in number, or the input images do not fit the model or the seeds.
    """
    config, inputs = model.config, inputs or StageInputs()
    if inputs.image is not None and not config.is_inpaint:
        raise GlideError(f"this is a {config.kind} model: inpainting needs an inpaint checkpoint")
    known = {"low_res": inputs.low_res, "image": inputs.image, "keep_mask": inputs.keep_mask}
    if inputs.low_res is not None:
        known["low_res"] = quantize_8bit(inputs.low_res)  # as the upsampler saw it in training
    default = UPSAMPLE_SETTINGS if config.is_upsampler else SamplerConfig()
    settings = (settings or default).for_model(config)
    if len(prompts) != len(seeds):
        raise GlideError(f"{len(prompts)} prompts for {len(seeds)} seeds: expected one per seed")
    size, image = inputs.size, inputs.init if inputs.image is None else inputs.image
    if size is None and image is not None:
        size = (image.shape[2], image.shape[3])
    elif size is None and inputs.low_res is not None:
        size = upsampled_size(inputs.low_res)
    guided = settings.guidance_scale != 1
    uncond = tokenize(config, [negative]) * len(seeds) if guided else None
    cond = tokenize(config, prompts)
    with torch.inference_mode():
        return sample_model(
            condition_model(model, cond, uncond, cond_fn=cond_fn, **known),
            settings,
            seeds=seeds,
            size=size,
            init=inputs.init,
            strength=inputs.strength,
            callback=callback,
        )


def upsampled_size(low_res: Tensor) -> tuple[int, int]:
    """(height, width) that an upsampler makes of low_res: four times its sides."""
    return low_res.shape[2] * UPSCALE, low_res.shape[3] * UPSCALE


class Interrupted(Exception):
    """Leaves the sampler after `GlidePipeline.interrupt`, with the estimate x0."""


def call_back(callback: StepEnd, pipeline: object, stage: str, info: StepInfo) -> bool:
    """Call a function as diffusers calls callback_on_step_end; True: it asked to stop.

    GlideError where it returned other values: a run does not use them.
    """
    images = {"latents": info.x_t, "x0": info.x0}
    values = {**images, "stage": stage, "num_steps": info.total}
    returned = callback(pipeline, info.index, info.timestep, dict(values))
    if isinstance(returned, dict):
        changed = [str(key) for key in returned if returned[key] is not values.get(key)]
        if changed:
            raise GlideError(
                f"callback_on_step_end returned other values for {', '.join(changed)}: "
                "a run does not use them"
            )
    return returned is False


@contextmanager
def step_bars(**tqdm_options: Any) -> Iterator[StageCallback]:
    """A callback that shows one bar per stage, with the time left; options are tqdm's."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}
    with ExitStack() as stack:

        def step(stage: str, info: StepInfo) -> None:
            if stage not in bars:
                stack.close()  # the bar of the stage before
                options = {"desc": stage, "unit": "step", "total": info.total, **tqdm_options}
                bars[stage] = stack.enter_context(tqdm(**options))
            bars[stage].update(1)

        yield step
