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
from comfy.patcher_extension import WrappersMP, get_all_wrappers
from torch import Tensor

from glide_core.diffusion.types import Prediction
from glide_core.errors import GlideError
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

    def __init__(self, patcher: Any, job: Callable[[ConditionedModel], Tensor], cfg: float) -> None:
        super().__init__(patcher)
        self.job = job
        self.set_cfg(cfg)

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
            predict=LoadedModel(model, self.conds, options, device, self.cfg),
            config=model.glide_config,
            device=device,
            has_uncond="negative" in self.conds,
            cond_fn=condition_of(self.model_options),
        )
        if step_events.connected_server() is not None:
            schedule = model_schedule(model.glide_config)
            watch = step_events.Watch(guides_of(self.model_options), schedule)
            loaded = replace(
                loaded, cond_fn=watch.cond_fn, guidance_callback=watch.record, callback=watch.step
            )
        return self.job(loaded).to(comfy.model_management.intermediate_device())


class LoadedModel:
    """The CondUncondModel of a loaded MODEL: both prompts in one batched, patched call.

    Where the MODEL carries CFG patches, both predictions are the one that they made of the two:
    glide_core's own guidance between equal predictions changes nothing.
    """

    def __init__(
        self,
        model: Any,
        conds: dict[str, Any],
        options: dict[str, Any],
        device: Any,
        cfg: float,
    ) -> None:
        self.model, self.options, self.device = model, cfg_options(options), device
        self.conds, self.cfg = conds, cfg
        self.patched = has_cfg_patches(self.options)
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
        sink, options = VarianceSink(), self.options  # one dict for all steps: patches write to it
        options["transformer_options"][VARIANCE_SINK] = sink
        clean = self._run(asked, x, sigma, options)
        wanted = range(2 if uncond else 1)  # conditioned, unconditioned
        variances = [sink.take(i, x.shape) for i in wanted]
        if self.patched:
            sink.close()
            guided = self._guide(asked, clean, x, sigma, options)
            clean = [guided] * len(asked)
        return tuple(
            Prediction((x - clean[i]) / wide, variance)
            for i, variance in zip(wanted, variances, strict=True)
        )

    def _guide(
        self, conds: list[Any], clean: Any, x: Tensor, sigma: Tensor, options: dict[str, Any]
    ) -> Tensor:
        """Combine conditioned and unconditioned x0, as ComfyUI's `sampling_function` does."""
        both = len(conds) > 1 and conds[1] is not None
        cfg, found = (self.cfg if both else 1.0), list(clean)
        conds = [conds[0], conds[1] if both else None]
        if not both:
            if options.get("disable_cfg1_optimization"):
                raise GlideError(
                    "a patch of this MODEL needs the negative prompt at every step, and without "
                    "guidance GLIDE Sampler does not compute it. Set cfg above 1 and leave "
                    "cfg_sigma_min and cfg_sigma_max as they are."
                )
            found = [clean[0], torch.zeros_like(clean[0])]
        args = {
            "conds": conds,
            "cond_scale": cfg,
            "timestep": sigma,
            "sigma": sigma,
            "input": x,
            "model": self.model,
            "model_options": options,
        }
        for function in options.get("sampler_pre_cfg_function", []):
            found = function({**args, "conds_out": found})
        guided = comfy.samplers.cfg_function(
            self.model, found[0], found[1], cfg, x, sigma, model_options=options,
            cond=conds[0], uncond=conds[1],
        )  # fmt: skip
        assert isinstance(guided, Tensor)
        return guided

    def _run(self, conds: list[Any], x: Tensor, sigma: Tensor, options: dict[str, Any]) -> Any:
        replaced = options.get("sampler_calc_cond_batch_function")
        if replaced is None:
            return comfy.samplers.calc_cond_batch(self.model, conds, x, sigma, options)
        args = {"conds": conds, "input": x, "sigma": sigma, "model": self.model}
        return replaced({**args, "model_options": options})

    def _prepare(self, x_t: Tensor) -> None:
        """Prepare prompts, areas and images for this size, once: the job alone knows the size."""
        if self.shape == x_t.shape:
            return
        conds = {name: [dict(c) for c in parts] for name, parts in self.conds.items()}
        self.ready = comfy.samplers.process_conds(
            self.model, torch.zeros_like(x_t), conds, self.device
        )
        self.shape = x_t.shape


def sample(
    patcher: Any,
    conds: Sequence[Conditioning],
    job: Callable[[ConditionedModel], Tensor],
    *,
    shape: tuple[int, int, int, int],
    cfg: float = 1.0,
) -> Tensor:
    """Run a job with the MODEL loaded.

    shape: [B, C, H, W], for the estimate of memory. cfg: the guidance scale of the job, for CFG
    patches of the MODEL.
    """
    warn_of_ignored(patcher)
    guider = GlideGuider(patcher, job, cfg)
    guider.inner_set_conds(dict(zip(NAMES, conds, strict=False)))
    sigmas = patcher.get_model_object("model_sampling").sigmas.flip(0)
    noise = torch.zeros(shape)
    return guider.sample(noise, noise, None, sigmas, disable_pbar=True)


def cfg_options(options: dict[str, Any]) -> dict[str, Any]:
    """Copy a MODEL's options without its CLIP guides, which the job applies itself.

    `clip_denoised` stays: the functions after it get the clipped estimate, as in KSampler.
    """
    kept = [
        function
        for function in options.get("sampler_post_cfg_function", [])
        if not hasattr(function, "glide_guide")
    ]
    return {**options, "sampler_post_cfg_function": kept}


def has_cfg_patches(options: dict[str, Any]) -> bool:
    """Whether options from `cfg_options` change what guidance makes of the predictions."""
    after = [fn for fn in options["sampler_post_cfg_function"] if fn is not clip_denoised]
    return bool(
        options.get("sampler_cfg_function") or options.get("sampler_pre_cfg_function") or after
    )


def warn_of_ignored(patcher: Any) -> None:
    """Name the patches that act inside ComfyUI's samplers, which a job of glide_core replaces."""
    kinds = (WrappersMP.PREDICT_NOISE, WrappersMP.SAMPLER_SAMPLE)
    ignored = [
        fn
        for kind in kinds
        for fn in get_all_wrappers(kind, patcher.model_options, is_model_options=True)
    ]
    ignored += [
        fn for kind in kinds for found in patcher.wrappers.get(kind, {}).values() for fn in found
    ]
    if "denoise_mask_function" in patcher.model_options:
        ignored.append(patcher.model_options["denoise_mask_function"])
    if ignored:
        logger.warning(
            "GLIDE Sampler ignores these patches of the MODEL: %s. Use KSampler to have them.",
            named(ignored),
        )
