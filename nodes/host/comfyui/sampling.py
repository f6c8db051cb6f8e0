"""The exact sampler on a patched MODEL: ComfyUI loads it and runs it, glide_core steps it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch
from torch import Tensor

from glide_core.diffusion.types import Prediction
from glide_core.sampling import ConditionedModel, model_schedule

from ..values import Conditioning
from . import step_events
from .guidance import condition_of, guides_of
from .model import VARIANCE_SINK, VarianceSink, clip_denoised
from .patches import named

NAMES = ("positive", "negative")
logger = logging.getLogger("glide")


class GlideGuider(comfy.samplers.CFGGuider):
    """A ComfyUI guider whose sampler is a job of glide_core.

    ComfyUI's part stays what it is for every sampler: prompts prepared, the model and its
    additional models loaded, wrappers and hooks applied, clean-up at the end.
    """

    def __init__(self, patcher: Any, job: Callable[[ConditionedModel], Tensor]) -> None:
        super().__init__(patcher)
        self.job = job

    def inner_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        device: torch.device,
        sampler: Any,
        sigmas: Tensor,
        *unused: Any,
        **unused_too: Any,
    ) -> Tensor:
        model: Any = self.inner_model
        options = comfy.model_patcher.create_model_options_clone(self.model_options)
        options["transformer_options"]["sample_sigmas"] = sigmas
        loaded = ConditionedModel(
            predict=LoadedModel(model, self.conds, options, device),
            config=model.glide_config,
            device=device,
            has_uncond="negative" in self.conds,
            cond_fn=condition_of(self.model_options),
        )
        if step_events.listening() is not None:
            schedule = model_schedule(model.glide_config)
            watch = step_events.Watch(guides_of(self.model_options), schedule)
            loaded = replace(
                loaded, cond_fn=watch.cond_fn, guidance_callback=watch.record, callback=watch.step
            )
        return self.job(loaded).to(comfy.model_management.intermediate_device())


class LoadedModel:
    """The CondUncondModel of a loaded MODEL: both prompts in one batched, patched call."""

    def __init__(
        self, model: Any, conds: dict[str, Any], options: dict[str, Any], device: Any
    ) -> None:
        self.model, self.options, self.device = model, options, device
        self.conds = conds
        self.shape: torch.Size | None = None  # of x_t; conditions are prepared for it
        self.ready: dict[str, Any] = {}

    def __call__(self, x_t: Tensor, t: Tensor, uncond: bool, /) -> tuple[Prediction, ...]:
        """Predict at x_t [B, C, H, W] and original timesteps t [B]."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        x_t, t = x_t.to(self.device), t.to(self.device)
        self._prepare(x_t)
        sampling = self.model.model_sampling
        sigma = sampling.sigmas.to(x_t.device)[t]
        wide = sigma[:, None, None, None]
        x = x_t.float() * (1 + wide**2).sqrt()  # ComfyUI's variance-exploding coordinates
        asked = [
            self.ready[name] if uncond or name == NAMES[0] else None
            for name in NAMES
            if name in self.ready
        ]
        sink = VarianceSink()
        options = comfy.model_patcher.create_model_options_clone(self.options)
        options["transformer_options"][VARIANCE_SINK] = sink
        clean = self._run(asked, x, sigma, options)
        found = range(2 if uncond else 1)
        return tuple(Prediction((x - clean[i]) / wide, sink.take(i, x.shape)) for i in found)

    def _run(self, conds: list[Any], x: Tensor, sigma: Tensor, options: dict[str, Any]) -> Any:
        replaced = options.get("sampler_calc_cond_batch_function")
        if replaced is None:
            return comfy.samplers.calc_cond_batch(self.model, conds, x, sigma, options)
        args = {"conds": conds, "input": x, "sigma": sigma, "model": self.model}
        return replaced({**args, "model_options": options})

    def _prepare(self, x_t: Tensor) -> None:
        """Prepare prompts, areas and pictures for this size, once: the job alone knows the size."""
        if self.shape == x_t.shape:
            return
        conds = {name: [dict(c) for c in parts] for name, parts in self.conds.items()}
        self.ready = comfy.samplers.process_conds(
            self.model, torch.zeros_like(x_t), conds, self.device
        )
        self.shape = x_t.shape


def sample(
    patcher: Any,
    branches: Sequence[Conditioning],
    job: Callable[[ConditionedModel], Tensor],
    *,
    shape: tuple[int, int, int, int],
) -> Tensor:
    """Run a job with the MODEL loaded; `shape` [B, C, H, W] is for the estimate of memory."""
    warn_of_ignored(patcher.model_options)
    guider = GlideGuider(patcher, job)
    guider.inner_set_conds(dict(zip(NAMES, branches, strict=False)))
    sigmas = patcher.get_model_object("model_sampling").sigmas.flip(0)
    noise = torch.zeros(shape)
    return guider.sample(noise, noise, None, sigmas, disable_pbar=True)


def warn_of_ignored(options: dict[str, Any]) -> None:
    """Say which patches act inside a core sampler's CFG step, which the exact sampler has not."""
    ignored = [
        fn
        for key in ("sampler_pre_cfg_function", "sampler_post_cfg_function")
        for fn in options.get(key, [])
        if fn is not clip_denoised and not hasattr(fn, "glide_guide")
    ]
    if "sampler_cfg_function" in options:
        ignored.append(options["sampler_cfg_function"])
    if ignored:
        logger.warning(
            "the GLIDE sampler does its own guidance and ignores these patches of the MODEL: %s. "
            "Use KSampler to have them.",
            named(ignored),
        )
