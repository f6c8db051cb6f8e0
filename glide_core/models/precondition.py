"""Preconditioning of an upsampler: the network predicts what the low-resolution picture lacks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glide_core.config import GlideConfig
from glide_core.diffusion.schedule import named_betas


@dataclass(frozen=True)
class Precondition:
    """Scalings around a network F after Karras et al. 2022 (table 1), with low_res as the mean.

    The picture is taken as x0 = low + r, r of standard deviation `sigma_data` (q). From
    x_t = a x0 + s e the best linear guess of v = a e - s x0 is known in closed form, and F adds
    to it in units of what is left to guess:

        y = x_t - a low,  d = sqrt(a^2 q^2 + s^2)
        v = -s low + a s (1 - q^2) / d^2 y - q / d F(y / d, ...)
    """

    alphas_cumprod: Tensor  # [T], float64
    sigma_data: float

    @staticmethod
    def of(config: GlideConfig) -> Precondition:
        """Make the scalings of a model with `sigma_data`."""
        if not config.is_upsampler or config.schedule.prediction_type != "v_prediction":
            raise ValueError("sigma_data is for upsamplers with v_prediction")
        betas = named_betas(config.schedule.noise_schedule, config.schedule.diffusion_steps)
        # made outside any "meta" device context: this is arithmetic, not a weight
        table = torch.tensor(1 - betas, dtype=torch.float64, device="cpu").cumprod(0)
        return Precondition(table, config.unet.sigma_data)

    def scaled(self, x_t: Tensor, t: Tensor, low: Tensor) -> Tensor:
        """The network's input: x_t without its mean, at unit spread."""
        a, _, d = self._scales(t, x_t)
        return ((x_t.float() - a * low.float()) / d).to(x_t.dtype)

    def velocity(self, raw: Tensor, x_t: Tensor, t: Tensor, low: Tensor) -> Tensor:
        """Turn raw output [B, 2C, H, W] into v and the variance fraction."""
        a, s, d = self._scales(t, x_t)
        q = self.sigma_data
        residual, fraction = raw.chunk(2, dim=1)
        x_t, low = x_t.float(), low.float()
        y = x_t - a * low
        v = -s * low + a * s * (1 - q**2) / d**2 * y - q / d * residual
        # the bound wants more variance than beta at edges, where the mean is furthest off, and an
        # ancestral step would put that there as speckle
        return torch.cat([v, fraction.clamp(-1, 1)], dim=1)

    def weight(self, t: Tensor, like: Tensor) -> Tensor:
        """Factor [B, 1, 1, 1] that turns a square error of v into one of F."""
        return (self._scales(t, like)[2] / self.sigma_data) ** 2

    def _scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """a, s and d at timesteps [B], fractional ones between their neighbours."""
        table = self.alphas_cumprod.to(like.device if like.device.type != "mps" else "cpu")
        at = t.to(table.device, torch.float64).clamp(0, len(table) - 1)
        low = at.long()
        high = (low + 1).clamp(max=len(table) - 1)
        alpha_bar = torch.lerp(table[low], table[high], at - low)
        a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        d = (alpha_bar * self.sigma_data**2 + 1 - alpha_bar).sqrt()
        view = (-1,) + (1,) * (like.ndim - 1)
        a, s, d = (v.to(like.device, torch.float32).view(view) for v in (a, s, d))
        return a, s, d
