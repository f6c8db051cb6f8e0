"""GlidePipeline: text to image, upscaling, inpainting and editing with one set of models.

The parameter names are diffusers'. Every method builds `GenerationRequest`s and calls the one
two-stage loop, `generate`; the command line and the batch driver do the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from glide_core.components import Components, stage_roles
from glide_core.config import SamplerConfig
from glide_core.diffusion.types import ConditionFn, StepInfo
from glide_core.errors import GlideError
from glide_core.guidance import noisy_clip_guide
from glide_core.images import fit, read_image, read_mask, resize, to_output
from glide_core.request import (
    UPSAMPLE_SETTINGS,
    GenerationRequest,
    GlidePipelineOutput,
    RunOptions,
    batches,
    first_size,
    image_requests,
)
from glide_core.sampling import expand_batch
from glide_core.stages import (
    TEXT_ONLY,
    PipelineInputs,
    StageCallback,
    StageInputs,
    edit_inputs,
    inpaint_inputs,
    sample_stage,
    step_bars,
)
from glide_core.tokenizer import warn_about

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from glide_core.request import Generators, Options, OutputType, StepEnd

Image = Any  # PIL image, numpy array [(B,) H, W, 3] or tensor [(B,) 3, H, W] in 0..1, or a file


class _Interrupted(Exception):
    """Leaves the sampler after `GlidePipeline.interrupt`, with the estimate x0."""


class GlidePipeline(Components):
    """GLIDE's models with one method per task. Construct it with `from_pretrained`.

    Methods return a `GlidePipelineOutput`. Images are reproducible one by one: image i of a batch
    with seed N is the image that seed N + i gives alone.
    """

    _interrupt = False
    _progress_bar: Mapping[str, Any] = {}

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str = "",
        *,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        seed: int | None = None,
        output_type: OutputType = "pil",
        callback_on_step_end: StepEnd | None = None,
        clip_guidance_scale: float = 0.0,
        clip_prompt: str | None = None,
        clip_guided: bool = True,
        sampler: str | None = None,
        respacing: str = "",
        eta: float = 0.0,
        upsample: bool = True,
        upsample_steps: int | None = None,
        upsample_guidance_scale: float = 1.0,
        batch_size: int | None = None,
        _inputs: PipelineInputs = TEXT_ONLY,
    ) -> GlidePipelineOutput:
        """Generate images from text.

        prompt: one, or several; `num_images_per_prompt` images of each in turn.
        negative_prompt: what guidance moves away from; without effect at guidance_scale 1.
        height, width: of the output, multiples of 32 (of 8 without `upsample`); default: 256, the
            only size that the bundled and the released models were trained for.

        Options of all methods:

        num_inference_steps: of the first stage; default: the model's own, 12 for the bundled base,
            30 for OpenAI's. respacing: the paper's string instead ("100", "10,10,3,2,2").
        guidance_scale: classifier-free guidance; 1 is off; default: the model's own, 3 for
            OpenAI's and 1.5 for the bundled models.
        generator: gives every image its seed. seed: image i uses seed + i. Without either, seeds
            are random; the output's `seeds` lists them.
        callback_on_step_end: called as (pipeline, step, timestep, values) after each step; values
            are "latents", "x0", "stage" and "num_steps". Returning False or calling `interrupt()`
            ends the run with the unfinished images; an exception ends it and is passed on. Unlike
            in diffusers the values cannot be changed: a returned dict with other values raises
            GlideError.
        clip_guidance_scale: guidance by the noisy CLIP in the first stage; 0 is off.
        clip_prompt: what CLIP guides towards, if not towards the prompt. clip_guided: False does
            not clip its estimates again, as OpenAI's code, and oversaturates.
        sampler: one of `glide_core.names.SAMPLERS`; default: the model's own, with
            CLIP guidance ddpm, as in the paper.
        eta: ddim's share of fresh noise, 0 to 1.
        upsample: False returns the first stage's 64x64. upsample_steps, upsample_guidance_scale:
            of the second stage; default: 6 steps for the bundled upsampler, 27 for OpenAI's.
        batch_size: images computed at once (default: all); does not change them.
        """
        options = RunOptions(
            upsample=upsample,
            num_images_per_prompt=num_images_per_prompt,
            batch_size=batch_size,
            output_type=output_type,
            callback_on_step_end=callback_on_step_end,
        )
        first = SamplerConfig(
            steps=num_inference_steps,
            respacing=respacing,
            sampler=sampler,
            eta=eta,
            guidance_scale=guidance_scale,
            clip_guided=clip_guided,
        )
        second = replace(
            UPSAMPLE_SETTINGS, steps=upsample_steps, guidance_scale=upsample_guidance_scale
        )
        enlarges = _inputs.second.low_res is not None
        if enlarges:
            second = replace(first, temperature=UPSAMPLE_SETTINGS.temperature)
        size = None
        if height is not None or width is not None:
            if _inputs is not TEXT_ONLY:
                raise GlideError("height and width are for text to image: the image sets the size")
            size = first_size(self.model("base").config.unet.image_size, height, width, upsample)
        request = GenerationRequest(
            negative_prompt=negative_prompt,
            size=size,
            base=None if enlarges else first,
            upsampler=second if upsample or enlarges else None,
            clip_guidance_scale=clip_guidance_scale,
            clip_prompt=clip_prompt,
            strength=_inputs.first.strength,
            upsample_strength=_inputs.second.strength,
        )
        requests = image_requests(request, prompt, num_images_per_prompt, seed, generator)
        return self._run(requests, _inputs, options)

    def upscale(
        self,
        image: Image,
        prompt: str | Sequence[str] = "",
        *,
        low_size: int = 64,
        **options: Unpack[Options],
    ) -> GlidePipelineOutput:
        """Enlarge an image four times with the upsampler, which reads the prompt too.

        low_size: the image is first resized so that its shorter side has this many pixels; 0 keeps
        its size (cut to multiples of 8). Further options as in `__call__`, guidance_scale and those
        of the sampler for the upsampler; default: no guidance.
        """
        low_res = fit(read_image(image), low_size)
        given: Options = {"guidance_scale": 1.0, **options}
        inputs = PipelineInputs(second=StageInputs(low_res=low_res))
        return self(prompt, **given, _inputs=inputs)

    def edit(
        self,
        image: Image,
        prompt: str | Sequence[str],
        *,
        strength: float = 0.6,
        upsample_strength: float = 1.0,
        **options: Unpack[Options],
    ) -> GlidePipelineOutput:
        """Change an image by a prompt: noise is added and removed again (SDEdit, Meng et al. 2021).

        strength: 0 keeps the image, 1 ignores it; 0.5 to 0.8 keeps its layout. upsample_strength:
        the same in the second stage, where 1 takes no detail from the image. Further options as in
        `__call__`.
        """
        inputs = edit_inputs(self, read_image(image), strength, upsample_strength)
        return self(prompt, **options, _inputs=inputs)

    def inpaint(
        self,
        image: Image,
        mask: Image,
        prompt: str | Sequence[str],
        *,
        context: float = 0.5,
        feather: int = 8,
        **options: Unpack[Options],
    ) -> GlidePipelineOutput:
        """Replace the masked part of an image of any size; nothing outside the mask changes.

        mask: of the image's size; white (1) is inpainted. context: surroundings that the model
        sees on each side, as a part of the mask's extent. feather: pixels inside the mask over
        which the old image fades into the new one. Further options as in `__call__`.
        """
        upsample = options.get("upsample", True)
        original, marked = read_image(image), read_mask(mask)
        inputs = inpaint_inputs(self, original, marked, upsample, context, feather)
        return self(prompt, **options, _inputs=inputs)

    def generate(
        self,
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
            with self.use(roles[stage]) as model:
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
                    clip, own = stack.enter_context(self.use("clip")), shared.clip_prompt
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
        self, requests: Sequence[GenerationRequest], inputs: PipelineInputs = TEXT_ONLY
    ) -> list[GenerationRequest]:
        """Give requests the models' samplers, guidance scales and steps where they have none.

        Logs warnings about prompts and sizes that the first model will not handle well.
        """
        roles = stage_roles(inputs.first.image is not None)
        used = {s: role for s, role in roles.items() if getattr(requests[0], s) is not None}
        configs = {stage: self.model(role).config for stage, role in used.items()}
        first = next(iter(used))
        warn_about(requests, configs[first], self.metadata(used[first]))

        def settings(request: GenerationRequest, stage: str) -> Any:
            clip = stage == "base" and request.clip_guidance_scale != 0
            return getattr(request, stage).for_model(configs[stage], clip=clip)

        return [replace(r, **{stage: settings(r, stage) for stage in used}) for r in requests]

    def interrupt(self) -> None:
        """Stop the running call after its current step; it returns the unfinished images."""
        self._interrupt = True

    def set_progress_bar_config(self, **tqdm_options: Any) -> None:
        """Options for tqdm, such as disable=True."""
        self._progress_bar = tqdm_options

    def _run(
        self, requests: list[GenerationRequest], inputs: PipelineInputs, options: RunOptions
    ) -> GlidePipelineOutput:
        self._interrupt = False
        requests = self.prepare(requests, inputs)
        done: list[Tensor] = []
        for batch in batches(requests, options.batch_size or len(requests), lambda each: each):
            try:
                with step_bars(**self._progress_bar) as bar:
                    step = partial(self._step, bar, options.callback_on_step_end)
                    done.append(inputs.finish(self.generate(batch, inputs, step)))
            except _Interrupted as interrupted:
                unfinished = inputs.finish(interrupted.args[0].clamp(-1, 1))
                if done:
                    unfinished = resize(unfinished, (done[0].shape[2], done[0].shape[3]))
                done.append(unfinished)
            if self._interrupt:
                break
        images = torch.cat(done)
        output = to_output(images, options.output_type)
        return GlidePipelineOutput(output, requests[: len(images)], self._interrupt)

    def _step(
        self, bar: StageCallback, callback: StepEnd | None, stage: str, info: StepInfo
    ) -> None:
        bar(stage, info)
        if callback is not None:
            images = {"latents": info.x_t, "x0": info.x0}
            values = {**images, "stage": stage, "num_steps": info.total}
            returned = callback(self, info.index, info.timestep, dict(values))
            if returned is False:
                self._interrupt = True
            elif isinstance(returned, dict):
                changed = [str(k) for k in returned if returned[k] is not values.get(k)]
                if changed:
                    raise GlideError(
                        f"callback_on_step_end returned other values for {', '.join(changed)}: "
                        "a run does not use them"
                    )
        if self._interrupt:
            raise _Interrupted(info.x0)
