"""Noise of ComfyUI's built-in samplers, generated for each image separately."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import comfy.k_diffusion.sampling as k_diffusion
import comfy.samplers
import torch
from torch import Tensor

from glide_core.diffusion import SeededNoise
from glide_core.request import image_seed

NoiseSampler = Callable[[Tensor, Tensor], Tensor]  # sigma, next sigma -> [B, C, H, W]


def per_image_noise(
    executor: Any,
    noise: Tensor,
    latent: Tensor,
    sampler: Any,
    sigmas: Tensor,
    *rest: Any,
    **more: Any,
) -> Any:
    """Generate the noise of every step separately for each image of the batch.

    An OUTER_SAMPLE wrapper. The built-in samplers generate it for the whole batch at once, so that
    an image depends on the batch it is in. Its first noise does not (LatentFromBatch keeps it):
    each image's further noise comes from a generator seeded with its own first noise. A
    noise_sampler that is given, and samplers of other packs, stay as they are.
    """
    function = getattr(sampler, "sampler_function", None)
    builtin = getattr(function, "__module__", "") == k_diffusion.__name__
    if builtin and "noise_sampler" in inspect.signature(function).parameters and len(sigmas) > 1:
        device = executor.class_obj.model_patcher.load_device
        signature = inspect.signature(executor.class_obj.outer_sample)
        run = signature.bind(noise, latent, sampler, sigmas, *rest, **more).arguments
        fresh = noise_sampler(function, noise, sigmas, run.get("seed") or 0, device)
        options = {"noise_sampler": fresh, **sampler.extra_options}
        sampler = comfy.samplers.KSAMPLER(function, options, sampler.inpaint_options)
    return executor(noise, latent, sampler, sigmas, *rest, **more)


def noise_sampler(
    function: Callable[..., Any], noise: Tensor, sigmas: Tensor, seed: int, device: Any
) -> NoiseSampler:
    """Give the noise of a sampler function, seeded by each image of `noise` [B, C, H, W].

    The SDE solvers ask for one path of Brownian motion at any two points of it, as in
    ComfyUI; the others for fresh noise at every call.
    """
    seeds = seeds_of(noise, seed)
    if is_brownian(function):
        ends = sigmas[sigmas > 0].min(), sigmas.max()
        like = torch.empty_like(noise)
        return k_diffusion.BrownianTreeNoiseSampler(like, *ends, seed=seeds, cpu=True)
    white, like = SeededNoise(seeds), torch.empty_like(noise, device=device)
    return lambda sigma, sigma_next: white(like)


def is_brownian(function: Callable[..., Any]) -> bool:
    """Whether a sampler takes its noise from a Brownian path, itself or in a sampler it calls."""
    names = inspect.unwrap(function).__code__.co_names
    used = [vars(k_diffusion).get(name) for name in names]
    return k_diffusion.BrownianTreeNoiseSampler in used or any(
        is_brownian(other)
        for other in used
        if inspect.isfunction(other) and "noise_sampler" in inspect.signature(other).parameters
    )


def seeds_of(noise: Tensor, seed: int) -> Sequence[int]:
    """Give one seed per image: from its first noise, or from `seed` where all of it is 0."""
    if not noise.any():
        return [image_seed(seed, i) for i in range(len(noise))]
    prints = (
        hashlib.sha256(part.detach().float().cpu().contiguous().numpy().tobytes()).digest()
        for part in noise
    )
    return [int.from_bytes(found[:8], "big") >> 1 for found in prints]
