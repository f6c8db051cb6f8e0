"""Noise that core's samplers add on their way, drawn for each picture by itself."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import comfy.k_diffusion.sampling as k_diffusion
import comfy.samplers
import torch
from torch import Tensor

from glide_core.diffusion.noise import SeededNoise

NoiseSampler = Callable[[Tensor, Tensor], Tensor]  # sigma, next sigma -> [B, C, H, W]


def own_noise(
    executor: Any,
    noise: Tensor,
    latent: Tensor,
    sampler: Any,
    sigmas: Tensor,
    *rest: Any,
    **more: Any,
) -> Any:
    """Have a sampler draw the noise of every step for each picture by itself.

    An OUTER_SAMPLE wrapper. Core's samplers draw it for the whole batch at once, so that a picture
    changes with its neighbours. Its first noise does not (LatentFromBatch keeps it): each picture's
    further noise comes from a generator that its own first noise seeds. A noise_sampler that is
    given, and samplers of other packs, stay as they are.
    """
    function = getattr(sampler, "sampler_function", None)
    core = getattr(function, "__module__", "") == k_diffusion.__name__
    if core and "noise_sampler" in inspect.signature(function).parameters and len(sigmas) > 1:
        device = executor.class_obj.model_patcher.load_device
        seed = more.get("seed", rest[3] if len(rest) > 3 else None)
        drawn = noise_sampler(function.__name__, noise, sigmas, seed or 0, device)
        options = {"noise_sampler": drawn, **sampler.extra_options}
        sampler = comfy.samplers.KSAMPLER(function, options, sampler.inpaint_options)
    return executor(noise, latent, sampler, sigmas, *rest, **more)


def noise_sampler(name: str, noise: Tensor, sigmas: Tensor, seed: int, device: Any) -> NoiseSampler:
    """Give the noise of a sampler of this name, seeded by each picture of `noise` [B, C, H, W].

    The SDE solvers ask for one path of Brownian motion at any two points of it, as in core; the
    others for fresh noise at every call.
    """
    seeds = picture_seeds(noise, seed)
    if name.startswith("sample_dpmpp") and "sde" in name:
        ends = sigmas[sigmas > 0].min(), sigmas.max()
        like = torch.empty_like(noise)
        return k_diffusion.BrownianTreeNoiseSampler(like, *ends, seed=seeds, cpu=True)
    white, like = SeededNoise(seeds), torch.empty_like(noise, device=device)
    return lambda sigma, sigma_next: white(like)


def picture_seeds(noise: Tensor, seed: int) -> Sequence[int]:
    """One seed a picture, from its first noise; from its place where that was switched off."""
    if not noise.any():
        return [(seed + i) % 2**63 for i in range(len(noise))]
    prints = (
        hashlib.sha256(part.detach().float().cpu().contiguous().numpy().tobytes()).digest()
        for part in noise
    )
    return [int.from_bytes(found[:8], "big") >> 1 for found in prints]
