"""LATENTs on their way in and out of GLIDE's own sampler, with KSampler's conventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from glide_core.errors import GlideError, shorten

from . import inputs

if TYPE_CHECKING:
    from torch import Tensor

    from glide_core.config import GlideConfig

RATIO = "downscale_ratio_spacial"  # ComfyUI's key (and spelling), 0.16 and newer


@dataclass(frozen=True)
class Start:
    """What a LATENT asks for: size and batch, content, mask, and the number of each image."""

    samples: Tensor  # [B, C, H, W]
    keep_mask: Tensor | None  # [B, 1, H, W] in 0..1, 1 = keep; None keeps nothing
    indices: tuple[int, ...]  # image i is sampled with seed + indices[i]

    @property
    def size(self) -> tuple[int, int]:
        return self.samples.shape[2], self.samples.shape[3]


def read(latent: dict[str, Any], config: GlideConfig, *, content: bool, node: str) -> Start:
    """Read a LATENT as KSampler does; GlideError, naming 'latent_image', for what does not fit.

    content: whether the samples themselves are used, and not only their size. An empty LATENT of
    another kind of model takes GLIDE's channels, and its size in pixels where it says its ratio.
    """
    import torch

    where = f"{node}: the LATENT on 'latent_image'"
    samples: Any = latent.get("samples") if isinstance(latent, dict) else None
    plain = isinstance(samples, torch.Tensor) and not samples.is_nested
    shape = list(samples.shape) if plain else type(samples).__name__
    if not plain or samples.ndim != 4:
        raise GlideError(
            f"{where} has the shape {shape}. Expected [batch, channels, height, "
            "width], as GLIDE Empty Latent makes it."
        )
    if len(samples) < 1:
        raise GlideError(f"{where} holds 0 images. Expected 1 or more.")
    inputs.require_finite(samples, where)
    channels, mask = config.unet.channels, latent.get("noise_mask")
    if not samples.any():
        samples = _empty(samples, channels, latent.get(RATIO), where)
    elif (content or mask is not None) and samples.shape[1] != channels:
        raise GlideError(
            f"{where} has {samples.shape[1]} channels. Expected GLIDE's {channels} (RGB). Encode "
            "an image with the VAE of GLIDE Loader, or use GLIDE Empty Latent with denoise 1."
        )
    height, width = samples.shape[2:]
    least = config.unet.image_size // 2
    if min(height, width) < least:
        raise GlideError(
            f"{where} is {width}x{height} pixels. Expected at least {least}x{least}: GLIDE samples "
            f"pixels, at {config.unet.image_size}x{config.unet.image_size}. Use GLIDE Empty Latent."
        )
    return Start(samples, _keep_mask(mask, samples, where), _indices(latent, len(samples), where))


def write(latent: dict[str, Any], samples: Tensor) -> dict[str, Any]:
    """Give a LATENT with new samples and everything else that came with the old one."""
    return {**{key: v for key, v in latent.items() if key != RATIO}, "samples": samples}


def _empty(samples: Tensor, channels: int, ratio: Any, where: str) -> Tensor:
    if not isinstance(ratio, (int, float, type(None))) or not 0 <= (ratio or 1) <= 64:
        shown = shorten(repr(ratio))
        raise GlideError(f"{where} has the {RATIO} {shown}. Expected a number up to 64.")
    sides = (round(side * (ratio or 1)) for side in samples.shape[2:])
    return samples.new_zeros(len(samples), channels, *sides)


def _keep_mask(mask: Any, samples: Tensor, where: str) -> Tensor | None:
    """Convert a noise mask (1 = sample); not rounded: ComfyUI's samplers blend at soft edges."""
    if mask is None:
        return None
    from torch.nn import functional as F

    from glide_core.images import cycle, invert_mask

    mask = inputs.require_mask(mask, node=where, name="noise_mask")[:, None].float()
    if mask.shape[2:] != samples.shape[2:]:
        mask = F.interpolate(mask, samples.shape[2:], mode="bilinear")  # as ComfyUI resizes it
    return invert_mask(cycle(mask, len(samples)).clamp(0, 1))


def _indices(latent: dict[str, Any], batch: int, where: str) -> tuple[int, ...]:
    try:
        indices = tuple(int(i) for i in latent.get("batch_index") or range(batch))
    except (TypeError, ValueError) as error:
        raise GlideError(f"{where} has a 'batch_index' that is not a list of numbers.") from error
    if len(indices) != batch:
        raise GlideError(
            f"{where} holds {batch} images and {len(indices)} numbers in 'batch_index'. Expected "
            "one per image."
        )
    return indices
