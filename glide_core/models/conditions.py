"""What a UNet is given beside x_t: the masked image and its mask, the low-resolution image.

With `Precondition` an upsampler predicts the residual to the low-resolution image.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from glide_core.config import GlideConfig
from glide_core.errors import GlideError
from glide_core.noise_schedules import named_betas


def spatial_conditions(
    config: GlideConfig,
    x: Tensor,
    low_res: Tensor | None,
    image: Tensor | None,
    keep_mask: Tensor | None,
) -> list[Tensor]:
    """Return the extra channels for x [B, C, H, W], in the order of OpenAI's first convolution:
    masked image and mask, then the resized low_res.

    GlideError if the image size is not supported, or an input is missing or not accepted.
    """
    b, c, height, width = x.shape
    step = config.unet.side_multiple
    if height % step or width % step:
        raise GlideError(
            f"image size {width}x{height} is not supported: width and height must be multiples "
            f"of {step}"
        )
    parts: list[Tensor] = []
    if config.is_inpaint:
        if image is None or keep_mask is None:
            parts.append(x.new_zeros(b, c + 1, height, width))
        else:
            parts += [image * keep_mask, keep_mask]
    elif image is not None or keep_mask is not None:
        raise GlideError(f"{config.kind} models accept no mask: load an inpainting model")
    if config.is_upsampler:
        if low_res is None:
            raise GlideError(
                f"{config.kind} models need a low-resolution image: connect one, or load a base "
                "model for text to image"
            )
        size = (height, width)
        parts.append(F.interpolate(low_res, size, mode="bilinear", align_corners=False))
    elif low_res is not None:
        raise GlideError(f"{config.kind} models accept no low-resolution image: load an upsampler")
    return parts


def joined(x: Tensor, conditions: list[Tensor]) -> Tensor:
    """Concatenate x [B, C, H, W] with its conditions."""
    return torch.cat([x, *(c.to(x.dtype) for c in conditions)], dim=1) if conditions else x


@dataclass(frozen=True)
class Precondition:
    """Scalings around a network F after Karras et al. 2022 (table 1), with low_res as the mean.

    The image is modelled as x0 = low + r, r of standard deviation `sigma_data` (q). From
    x_t = a x0 + s e the best linear estimate of v = a e - s x0 has a closed form; F predicts the
    remaining error at unit variance:

        y = x_t - a low,  v = -s low + c_skip y + c_out F(c_in y, ...),
        c_in = 1 / d,  c_skip = a s (1 - q^2) / d^2,  c_out = -q / d,  d = sqrt(a^2 q^2 + s^2)
    """

    alphas_cumprod: Tensor  # [T], float64
    sigma_data: float
    _on_devices: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def of(config: GlideConfig) -> Precondition:
        """Make the scalings of a model with `sigma_data`."""
        if not config.is_upsampler or config.schedule.prediction_type != "v_prediction":
            raise ValueError("sigma_data is for upsamplers with v_prediction")
        betas = named_betas(config.schedule.noise_schedule, config.schedule.diffusion_steps)
        # on the CPU even inside a "meta" device context: this is not a weight
        table = torch.tensor(1 - betas, dtype=torch.float64, device="cpu").cumprod(0)
        return Precondition(table, config.unet.sigma_data)

    def network_input(self, x_t: Tensor, t: Tensor, low: Tensor) -> Tensor:
        """Return c_in * (x_t - a low): x_t without its mean, at unit variance."""
        a, _, d = self._scales(t, x_t)
        return ((x_t.float() - a * low.float()) / d).to(x_t.dtype)

    def v_prediction(self, raw: Tensor, x_t: Tensor, t: Tensor, low: Tensor) -> Tensor:
        """Turn raw output [B, 2C, H, W] into v and model_var_values."""
        a, s, d = self._scales(t, x_t)
        q = self.sigma_data
        c_skip, c_out = a * s * (1 - q**2) / d**2, -q / d
        residual, model_var_values = raw.chunk(2, dim=1)
        x_t, low = x_t.float(), low.float()
        v = -s * low + c_skip * (x_t - a * low) + c_out * residual
        # the variational bound leads to more variance than beta at edges, where the mean is least
        # accurate; a ddpm step would add it as visible noise
        return torch.cat([v, model_var_values.clamp(-1, 1)], dim=1)

    def weight(self, t: Tensor, like: Tensor) -> Tensor:
        """Return the factor [B, 1, 1, 1] from a squared error of v to one of F."""
        return (self._scales(t, like)[2] / self.sigma_data) ** 2

    def _scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a, s and d at timesteps [B]; fractional ones are interpolated."""
        table = self._table(like.device if like.device.type != "mps" else torch.device("cpu"))
        at = t.to(table.device, torch.float64).clamp(0, len(table) - 1)
        low = at.long()
        high = (low + 1).clamp(max=len(table) - 1)
        alpha_bar = torch.lerp(table[low], table[high], at - low)
        a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        d = (alpha_bar * self.sigma_data**2 + 1 - alpha_bar).sqrt()
        view = (-1,) + (1,) * (like.ndim - 1)
        a, s, d = (v.to(like.device, torch.float32).view(view) for v in (a, s, d))
        return a, s, d

    def _table(self, device: torch.device) -> Tensor:
        """Return the table on a device; it is copied once, so that steps do not synchronise."""
        if device not in self._on_devices:
            with torch.inference_mode(False):  # training uses the same table
                self._on_devices[device] = self.alphas_cumprod.to(device)
        return self._on_devices[device]
