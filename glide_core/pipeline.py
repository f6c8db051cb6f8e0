"""GlidePipeline: text to image, upscaling, inpainting and editing with one set of models.

The parameter names are diffusers'. Every method builds `GenerationRequest`s and calls the one
two-stage loop in `glide_core.stages`; the command line and the batch driver do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from glide_core.components import ROLES, Components, Model, Role, Source, find_components
from glide_core.config import SamplerConfig
from glide_core.diffusion.types import StepInfo
from glide_core.errors import GlideError
from glide_core.images import fit, read_image, read_mask, resize, to_output
from glide_core.io import user_path
from glide_core.request import (
    UPSAMPLE_SETTINGS,
    GenerationRequest,
    GlidePipelineOutput,
    RunOptions,
    batches,
    first_size,
    image_requests,
)
from glide_core.stages import (
    TEXT_ONLY,
    Interrupted,
    PipelineInputs,
    StageCallback,
    StageInputs,
    call_back,
    edit_inputs,
    generate,
    inpaint_inputs,
    prepare,
    step_bars,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from glide_core.request import Generators, Options, OutputType, StepEnd

Image = Any  # PIL image, numpy array [(B,) H, W, 3] or tensor [(B,) 3, H, W] in 0..1, or a file


class GlidePipeline:
    """GLIDE's models with one method per task. Construct it with `from_pretrained`.

    Methods return a `GlidePipelineOutput`. Images are reproducible one by one: image i of a batch
    with seed N is the image that seed N + i gives alone.
    """

    def __init__(
        self,
        base: Source | Model | None = None,
        upsampler: Source | Model | None = None,
        inpaint: Source | Model | None = None,
        upsampler_inpaint: Source | Model | None = None,
        clip: Source | Model | None = None,
        *,
        torch_dtype: torch.dtype | str = "auto",
        device: torch.device | str = "auto",
    ) -> None:
        """Each model is a loaded one, a file or a name; see `from_pretrained`."""
        given = zip(ROLES, (base, upsampler, inpaint, upsampler_inpaint, clip), strict=True)
        sources = {role: source for role, source in given if source is not None}
        self.models = Components(sources, device=device, torch_dtype=torch_dtype)
        self._interrupt = False
        self._progress_bar: dict[str, Any] = {}

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | Sequence[str | Path] | None = "bundled",
        *,
        base: Source | None = None,
        upsampler: Source | None = None,
        inpaint: Source | None = None,
        upsampler_inpaint: Source | None = None,
        clip: Source | None = None,
        torch_dtype: torch.dtype | str = "auto",
        device: torch.device | str = "auto",
    ) -> GlidePipeline:
        """Find models; each file is read when it is first used. Nothing is downloaded.

        source: "bundled", "openai", a folder (written by `save_pretrained`, or any folder of
            checkpoint files), a file, or a list of files.
        torch_dtype: of the heavy layers; "auto" is float16 on CUDA and float32 elsewhere.
        base, upsampler, inpaint, upsampler_inpaint, clip: more or other models than those of
            `source`; a file, or a name that `glide models` lists.
        Raises GlideError for what is missing, unreadable or of another kind.
        """
        given = zip(ROLES, (base, upsampler, inpaint, upsampler_inpaint, clip), strict=True)
        chosen = {role: file for role, file in given if file is not None}
        found: Any = {**find_components(source or []), **chosen}
        pipe = cls(torch_dtype=torch_dtype, device=device, **found)
        named = source in ("bundled", "openai")
        for role in ("base", *chosen) if named else tuple(found):
            pipe.models.paths(role)  # reports missing files now, not at first use
        return pipe

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
        inputs: PipelineInputs = TEXT_ONLY,
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
            ends the run with the unfinished images; an exception ends it and is passed on.
            Returning other values is a GlideError: unlike in diffusers they cannot be changed.
        clip_guidance_scale: guidance by the noisy CLIP in the first stage; 0 is off.
        clip_prompt: what CLIP guides towards, if not towards the prompt. clip_guided: False does
            not clip its estimates again, as OpenAI's code, and oversaturates.
        sampler: one of `glide_core.names.SAMPLERS`; default: the model's own, with
            CLIP guidance ddpm, as in the paper.
        eta: ddim's share of fresh noise, 0 to 1.
        upsample: False returns the first stage's 64x64. upsample_steps, upsample_guidance_scale:
            of the second stage; default: 6 steps for the bundled upsampler, 27 for OpenAI's.
        batch_size: images computed at once (default: all); does not change them.
        inputs: images that the stages start from, as `upscale`, `edit` and `inpaint` give them.
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
        enlarges = inputs.second.low_res is not None
        if enlarges:
            second = replace(first, temperature=UPSAMPLE_SETTINGS.temperature)
        size = None
        if height is not None or width is not None:
            if inputs is not TEXT_ONLY:
                raise GlideError("height and width are for text to image: the image sets the size")
            side = self.models.model("base").config.unet.image_size
            size = first_size(side, height, width, upsample)
        request = GenerationRequest(
            negative_prompt=negative_prompt,
            size=size,
            base=None if enlarges else first,
            upsampler=second if upsample or enlarges else None,
            clip_guidance_scale=clip_guidance_scale,
            clip_prompt=clip_prompt,
            strength=inputs.first.strength,
            upsample_strength=inputs.second.strength,
        )
        requests = image_requests(request, prompt, num_images_per_prompt, seed, generator)
        return self._run(requests, inputs, options)

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
        return self(prompt, **given, inputs=inputs)

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
        inputs = edit_inputs(self.models, read_image(image), strength, upsample_strength)
        return self(prompt, **options, inputs=inputs)

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
        inputs = inpaint_inputs(self.models, original, marked, upsample, context, feather)
        return self(prompt, **options, inputs=inputs)

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        inputs: PipelineInputs = TEXT_ONLY,
        callback: StageCallback | None = None,
    ) -> Tensor:
        """Run requests of one batch: [B, C, H, W] in [-1, 1]; see `glide_core.stages.generate`."""
        return generate(self.models, requests, inputs, callback)

    @property
    def components(self) -> dict[str, Model]:
        """All available models by role, loaded; `GlidePipeline(**pipe.components)` shares them."""
        return self.models.components

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self.models.device

    @property
    def dtype(self) -> torch.dtype:
        return self.models.dtype

    def to(
        self, *where: torch.device | str | torch.dtype, dtype: torch.dtype | None = None
    ) -> GlidePipeline:
        """Move all models to a device, and their heavy layers to a dtype; gives the pipeline."""
        self.models.to(*where, dtype=dtype)
        return self

    def enable_model_cpu_offload(self, device: torch.device | str = "auto") -> None:
        """Keep models in CPU memory and each on `device` only while it runs."""
        self.models.offload(device)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write all models and model_index.json to a new folder, for `from_pretrained`."""
        return self.models.save(user_path(folder))

    def load_lora_weights(
        self, path: str | Path, strength: float = 1.0, *, component: Role = "base"
    ) -> None:
        """Merge a LoRA's file into a model; several add up."""
        self.models.add_lora(component, user_path(path), strength)

    def unload_lora_weights(self) -> None:
        """Restore the weights from before `load_lora_weights`, bit for bit."""
        self.models.remove_loras()

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
        requests = prepare(self.models, requests, inputs)
        done: list[Tensor] = []
        for batch in batches(requests, options.batch_size or len(requests), lambda each: each):
            try:
                with step_bars(**self._progress_bar) as bar:
                    step = partial(self._step, bar, options.callback_on_step_end)
                    done.append(inputs.finish(self.generate(batch, inputs, step)))
            except Interrupted as interrupted:
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
        if callback is not None and call_back(callback, self, stage, info):
            self._interrupt = True
        if self._interrupt:
            raise Interrupted(info.x0)
