"""The two-stage loop: 64x64 from the base model, 256x256 from the upsampler.

Text to image, upscaling, editing and inpainting differ only in the stages and input images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from glide_core.config import GlideConfig, SamplerConfig
from glide_core.diffusion.types import ConditionFn, StepCallback, StepInfo
from glide_core.errors import GlideError
from glide_core.guidance import noisy_clip_guide
from glide_core.images import quantize_8bit
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from glide_core.request import (
    BASE_SETTINGS,
    UPSAMPLE_INPAINT_SETTINGS,
    UPSAMPLE_SETTINGS,
    UPSCALE,
    GenerationRequest,
    shared_settings,
)
from glide_core.sampling import condition_model, sample_model, tokenize

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


@dataclass(frozen=True)
class PipelineInputs:
    """Input images of a two-stage run; everything is absent in text to image."""

    low_res: Tensor | None = None  # upscale: enlarged by the upsampler, without a base stage
    init: Tensor | None = None  # edit: the image at the first stage's size
    upsample_init: Tensor | None = None  # edit: the image at the second stage's size
    images: tuple[Tensor, ...] = ()  # inpaint: one per stage
    keep_masks: tuple[Tensor, ...] = ()  # inpaint: one per stage, 1 = keep


class Components(Protocol):
    """Where the loop gets its models from; each is used inside a `with` block (offloading)."""

    def use_model(self, stage: str, inpaint: bool) -> AbstractContextManager[GlideModel]: ...

    def use_clip(self) -> AbstractContextManager[NoisyClip]: ...


@dataclass(frozen=True)
class LoadedModels:
    """Models that are loaded and stay where they are."""

    base: GlideModel | None = None
    upsampler: GlideModel | None = None
    clip: NoisyClip | None = None

    def use_model(self, stage: str, inpaint: bool) -> AbstractContextManager[GlideModel]:
        model: GlideModel | None = getattr(self, stage)
        if model is None:
            raise GlideError(f"the request has a stage {stage!r}, but no model for it is loaded")
        return nullcontext(model)

    def use_clip(self) -> AbstractContextManager[NoisyClip]:
        if self.clip is None:
            raise GlideError("the request asks for CLIP guidance, but no noisy CLIP is loaded")
        return nullcontext(self.clip)


def generate(
    components: Components,
    requests: Sequence[GenerationRequest],
    inputs: PipelineInputs | None = None,
    callback: StageCallback | None = None,
) -> Tensor:
    """Generate one image per request, [B, C, H, W] in [-1, 1].

    The requests may differ in prompt and seed alone (`glide_core.request.batches` groups them).
    callback: called after every step with the stage; raise from it to cancel.
    """
    shared, inputs = shared_settings(requests), inputs or PipelineInputs()
    batch = _Batch(
        [r.prompt for r in requests], [r.seed for r in requests], shared.negative_prompt, callback
    )
    inpaint = bool(inputs.images)
    images = inputs.low_res
    if inputs.init is not None:
        images = inputs.init.expand(len(requests), -1, -1, -1)
    if shared.base is not None and (inputs.init is None or shared.strength > 0):
        stage = StageInputs(
            init=inputs.init,
            strength=shared.strength if inputs.init is not None else 1.0,
            size=shared.size,
        )
        stage = _with_known(stage, inputs, 0)
        with components.use_model("base", inpaint) as model:
            if shared.clip_guidance_scale:
                with components.use_clip() as clip:
                    guide = clip_guide(clip, batch.prompts, shared.clip_guidance_scale)
                    images = batch.sample(model, "base", shared.base, stage, guide)
            else:
                images = batch.sample(model, "base", shared.base, stage)
    if images is None:
        raise GlideError("the request has no base stage: expected an input image to upscale")
    edit = inputs.upsample_init is not None
    if shared.upsampler is not None and not (edit and shared.upsample_strength == 0):
        stage = StageInputs(
            low_res=images,
            init=inputs.upsample_init,
            strength=shared.upsample_strength if edit else 1.0,
        )
        stage = _with_known(stage, inputs, -1)
        with components.use_model("upsampler", inpaint) as model:
            images = batch.sample(model, "upsampler", shared.upsampler, stage)
    return images


@dataclass(frozen=True)
class _Batch:
    prompts: Sequence[str]
    seeds: Sequence[int]
    negative: str
    callback: StageCallback | None

    def sample(
        self,
        model: GlideModel,
        stage: str,
        settings: SamplerConfig,
        inputs: StageInputs,
        guide: ConditionFn | None = None,
    ) -> Tensor:
        callback = self.callback

        def step(info: StepInfo) -> None:
            if callback is not None:
                callback(stage, info)

        return sample_stage(
            model,
            self.prompts,
            self.seeds,
            settings,
            negative=self.negative,
            inputs=inputs,
            cond_fn=guide,
            callback=None if callback is None else step,
        )


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

    settings: default: the paper's for this kind of model. GlideError where prompts and seeds
    differ in number, or the input images do not fit the model or the seeds.
    """
    config, inputs = model.config, inputs or StageInputs()
    if inputs.image is not None and not config.is_inpaint:
        raise GlideError(f"this is a {config.kind} model: inpainting needs an inpaint checkpoint")
    low_res, image, keep_mask = (
        _rows(x, len(seeds)) for x in (inputs.low_res, inputs.image, inputs.keep_mask)
    )
    if low_res is not None:
        low_res = quantize_8bit(low_res)  # as the upsampler saw it in training
    known = {"low_res": low_res, "image": image, "keep_mask": keep_mask}
    settings = settings or default_settings(config)
    if len(prompts) != len(seeds):
        raise GlideError(
            f"{len(prompts)} prompts for {len(seeds)} seeds: expected one prompt per seed"
        )
    uncond = None  # not needed without guidance
    if settings.guidance_scale != 1:
        uncond = tokenize(config, [negative]) * len(seeds)
    cond = tokenize(config, prompts)
    with torch.inference_mode():
        return sample_model(
            condition_model(model, cond, uncond, cond_fn=cond_fn, **known),
            settings,
            seeds=seeds,
            size=inputs.size or _size(low_res, image if image is not None else inputs.init),
            init=inputs.init,
            strength=inputs.strength,
            callback=callback,
        )


def default_settings(config: GlideConfig) -> SamplerConfig:
    """The released notebooks' settings for a model of this kind."""
    if not config.is_upsampler:
        return BASE_SETTINGS
    return UPSAMPLE_INPAINT_SETTINGS if config.is_inpaint else UPSAMPLE_SETTINGS


def clip_guide(clip: NoisyClip, prompts: Sequence[str], scale: float) -> ConditionFn:
    """The noisy CLIP's gradient towards one prompt per image."""
    with torch.no_grad():
        return noisy_clip_guide(clip, clip.encode_prompts(prompts), scale)


def upsampled_size(low_res: Tensor) -> tuple[int, int]:
    """(height, width) that an upsampler makes of low_res: four times its sides."""
    return low_res.shape[2] * UPSCALE, low_res.shape[3] * UPSCALE


def _with_known(stage: StageInputs, inputs: PipelineInputs, index: int) -> StageInputs:
    if not inputs.images:
        return stage
    return replace(stage, image=inputs.images[index], keep_mask=inputs.keep_masks[index])


def _rows(images: Tensor | None, count: int) -> Tensor | None:
    """One row per image: a single one is repeated."""
    if images is None or len(images) == count:
        return images
    if len(images) != 1:
        raise GlideError(f"{len(images)} input images for {count} seeds: expected 1 or {count}")
    return images.expand(count, -1, -1, -1)


def _size(low_res: Tensor | None, image: Tensor | None) -> tuple[int, int] | None:
    if image is not None:
        return image.shape[2], image.shape[3]
    return None if low_res is None else upsampled_size(low_res)


def text_to_image(
    model: GlideModel, prompts: Sequence[str], *, seeds: Sequence[int], **options: Any
) -> Tensor:
    """Call `sample_stage`; `options` may also hold fields of `StageInputs`."""
    return sample_stage(model, prompts, seeds, **_inputs(options))


def upsample(
    model: GlideModel,
    low_res: Tensor,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    **options: Any,
) -> Tensor:
    """Enlarge low_res [B, C, h, w] in [-1, 1] four times; see `sample_stage`."""
    return sample_stage(model, prompts, seeds, **_inputs({**options, "low_res": low_res}))


def inpaint(
    model: GlideModel,
    image: Tensor,
    keep_mask: Tensor,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    **options: Any,
) -> Tensor:
    """Inpaint where keep_mask [B, 1, H, W] is 0; see `sample_stage`."""
    known = {"image": image, "keep_mask": keep_mask}
    return sample_stage(model, prompts, seeds, **_inputs({**options, **known}))


def _inputs(options: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(StageInputs)} & options.keys()
    inputs = StageInputs(**{k: options.pop(k) for k in names})
    return {**options, "inputs": inputs}
