"""CLIP guidance as a patch on any MODEL, which every sampler of ComfyUI applies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_sampling
import torch
from torch import Tensor

from glide_core.diffusion.schedule import Schedule
from glide_core.diffusion.types import ConditionFn
from glide_core.errors import GlideError
from glide_core.guidance.clip import open_clip_guide
from glide_core.guidance.guides import GuidanceCallback, add_guides

from ..clip_guidance import condition, encode
from ..values import ClipGuide
from . import step_events
from .gradient_patcher import managed_decoder
from .model import GlideBaseModel

# Stable Diffusion's noisiest level. Flow models begin at an infinite one, others at 4500, and the
# shift of x0 grows with it: of models whose x0 is not clipped, above this as at this.
_MAX_LEVEL = 14.6

Push = Callable[[dict[str, Any]], Tensor]  # a post-CFG function: its arguments to a new x0


def guided(patcher: Any, guide: ClipGuide) -> Any:
    """Give a clone of MODEL with a CLIP guide; works for every model that samples images."""
    clip = guide.clip
    models = [clip.patcher]
    comfy.model_management.load_models_gpu(models)
    device = clip.patcher.load_device
    probe, node = step_events.Probe(), step_events.executing_node()
    if isinstance(patcher.model, GlideBaseModel):
        cond_fn = outside_inference(
            condition(guide, patcher.model.glide_config, 1, device, probe.record)
        )
        push = pushed_by(cond_fn, limit=1.0, report=step_events.make_reporter(node, probe, 1.0))
        # for the exact sampler
        push.glide_guide = step_events.WatchedGuide(cond_fn, probe, node)  # type: ignore[attr-defined]
    else:
        decoder = None
        if guide.vae is not None:
            decoder = managed_decoder(guide.vae)
            models.append(decoder)
        cond_fn = decoded_guide(patcher, guide, decoder, device, probe.record)
        push = pushed_by(
            cond_fn,
            interval=guide.interval,
            limit_level=_MAX_LEVEL,
            report=step_events.make_reporter(node, probe, None),
        )
    clone = patcher.clone()
    # A plain function: ComfyUI deep-copies a MODEL's options with everything an object holds.
    clone.set_model_sampler_post_cfg_function(push)
    number = sum(key.startswith("glide_guide") for key in clone.additional_models)
    clone.set_additional_models(f"glide_guide_{number}", models)
    return clone


def guides_of(options: dict[str, Any]) -> list[step_events.WatchedGuide]:
    """Find the guides that `guided` put into a GLIDE MODEL's options."""
    functions = options.get("sampler_post_cfg_function", [])
    return [fn.glide_guide for fn in functions if hasattr(fn, "glide_guide")]


def condition_of(options: dict[str, Any]) -> ConditionFn | None:
    """Sum the guides of a GLIDE MODEL's options."""
    guides = [guide.cond_fn for guide in guides_of(options)]
    return add_guides(*guides) if guides else None


def outside_inference(cond_fn: ConditionFn) -> ConditionFn:
    """Have a guide's own values, its normalised text among them, made where autograd takes them."""

    def outside(x_t: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
        with torch.inference_mode(False):
            return cond_fn(x_t.clone(), t.clone(), x0.clone())

    return outside


def pushed_by(
    cond_fn: ConditionFn,
    *,
    interval: tuple[float, float] | None = None,
    limit: float | None = None,
    limit_level: float = torch.inf,
    report: step_events.Report | None = None,
) -> Push:
    """Turn a gradient at x_t into a shift of x0, which is what a post-CFG function may change.

    eps - sqrt(1 - ab) * gradient (Song et al. 2020) is, in terms of x0 and sigma,
    x0 + sigma^2 / sqrt(1 + sigma^2) * gradient. limit: of the shifted x0. limit_level: the highest
    noise level to compute with. `report` is called after every call.
    """

    def push(args: dict[str, Any]) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        sampling = args["model"].model_sampling
        x, x0, sigma = args["input"], args["denoised"], args["sigma"]
        t = sampling.timestep(sigma).long().flatten()
        flow = isinstance(sampling, comfy.model_sampling.CONST)  # x = (1 - s) x0 + s noise
        level = broad(sigma / (1 - sigma) if flow else sigma, x)
        inside = torch.ones_like(level)
        if interval is not None:
            inside = ((interval[0] <= level) & (level <= interval[1])).to(x0)
            if not inside.any():
                if report is not None:
                    report(args, x0)
                return x0
        level = level.clamp(max=limit_level)
        x = x * (1 + level) if flow else x
        scale = (1 + level**2).sqrt()
        gradient = cond_fn(x / scale, t.expand(len(x)), x0)
        found = x0 + inside * level**2 / scale * gradient.to(x0)
        found = found if limit is None else found.clamp(-limit, limit)
        if report is not None:
            report(args, found)
        return found

    return push


def broad(values: Tensor, like: Tensor) -> Tensor:
    """One value an image (or one for all) against [B, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.device)


def decoded_guide(
    patcher: Any,
    guide: ClipGuide,
    decoder: Any,
    device: Any,
    guidance_callback: GuidanceCallback | None = None,
) -> ConditionFn:
    """Guide a model that is not GLIDE's: CLIP looks at the decoded x0 estimate.

    The gradient goes back through the decoder to the latent; without a decoder the latent must be
    the image.
    """
    latents = patcher.get_model_object("latent_format")
    if guide.clip.kind == "noisy":
        raise GlideError(
            f"the noisy CLIP {guide.clip.name} was trained on GLIDE's noised images only, and the "
            "MODEL is not GLIDE's. Connect a CLIP of GLIDE Open CLIP Loader, and the MODEL's VAE."
        )
    if decoder is None and latents.latent_channels != 3:
        raise GlideError(
            f"the MODEL works in latents of {latents.latent_channels} channels, which CLIP does "
            "not accept. Connect its VAE to the 'vae' input."
        )
    if guide.vae is not None and guide.vae.latent_channels != latents.latent_channels:
        raise GlideError(
            f"the VAE on 'vae' decodes latents of {guide.vae.latent_channels} channels, and the "
            f"MODEL on 'model' works in {latents.latent_channels}. Connect the MODEL's own VAE."
        )
    look = open_clip_guide(
        guide.clip.module,
        encode(guide, device),
        guide.scale,
        schedule=Schedule.named("linear"),  # unused: nothing is blended
        seed=guide.seed,
        cutouts=guide.cutouts,
        blend=False,
        guidance_callback=guidance_callback,
    )

    def cond_fn(x_t: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            latent = x0.detach().clone().float().requires_grad_()
            z = latents.process_out(latent)
            decoded = z
            if decoder is not None:
                weights = next(decoder.model.parameters())
                decoded = decoder.model.decode(z.to(weights.device, weights.dtype)).float()
            seen = decoded.detach()
            direction = look(seen, t, seen)
            (gradient,) = torch.autograd.grad(decoded, latent, direction.to(decoded))
        return gradient.detach().to(x0)

    return cond_fn
