"""What a UNet is given beside x_t: the masked image and its mask, the low-resolution image.

With `Precondition` an upsampler predicts the residual to the low-resolution image.
"""

from __future__ import annotations

import numpy as np
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
    step, models = config.unet.side_multiple, f"{config.kind} models"
    if height % step or width % step:
        raise GlideError(f"image size {width}x{height}: expected multiples of {step}")
    parts: list[Tensor] = []
    if config.is_inpaint:
        if image is None or keep_mask is None:
            parts.append(x.new_zeros(b, c + 1, height, width))
        else:
            parts += [image * keep_mask, keep_mask]
    elif image is not None or keep_mask is not None:
        raise GlideError(f"{models} accept no mask: load an inpainting model")
    if config.is_upsampler:
        if low_res is None:
            raise GlideError(f"{models} need a low-resolution image: connect one, or load a base")
        size = (height, width)
        parts.append(F.interpolate(low_res, size, mode="bilinear", align_corners=False))
    elif low_res is not None:
        raise GlideError(f"{models} accept no low-resolution image: load an upsampler")
    return parts


class Precondition:
    """Scalings around a network F after Karras et al. 2022 (table 1), with low_res as the mean.

    The image is modelled as x0 = low + r, r of standard deviation `sigma_data` (q). From
    x_t = a x0 + s e the best linear estimate of v = a e - s x0 has a closed form; F predicts the
    remaining error at unit variance:

        y = x_t - a low,  v = -s low + c_skip y + c_out F(c_in y, ...),
        c_in = 1 / d,  c_skip = a s (1 - q^2) / d^2,  c_out = -q / d,  d = sqrt(a^2 q^2 + s^2)
    """

    def __init__(self, config: GlideConfig) -> None:
        self.sigma_data = q = config.unet.sigma_data
        betas = named_betas(config.schedule.noise_schedule, config.schedule.diffusion_steps)
        ab = np.cumprod(1 - betas)
        tables = np.sqrt(np.stack([ab, 1 - ab, ab * q**2 + 1 - ab]))
        self.tables = torch.from_numpy(tables).float()  # a, s, d of every timestep, [3, T]

    def network_input(self, x_t: Tensor, t: Tensor, low: Tensor) -> Tensor:
        """Return c_in * (x_t - a low): x_t without its mean, at unit variance."""
        a, _, d = self._scales(t)
        return ((x_t.float() - a * low.float()) / d).to(x_t.dtype)

    def v_prediction(self, raw: Tensor, x_t: Tensor, t: Tensor, low: Tensor) -> Tensor:
        """Turn raw output [B, 2C, H, W] into v and model_var_values."""
        (a, s, d), q = self._scales(t), self.sigma_data
        c_skip, c_out = a * s * (1 - q**2) / d**2, -q / d
        residual, model_var_values = raw.chunk(2, dim=1)
        x_t, low = x_t.float(), low.float()
        v = -s * low + c_skip * (x_t - a * low) + c_out * residual
        # the variational bound leads to more variance than beta at edges, where the mean is least
        # accurate; a ddpm step would add it as visible noise
        return torch.cat([v, model_var_values.clamp(-1, 1)], dim=1)

    def _scales(self, t: Tensor) -> tuple[Tensor, ...]:
        """Return a, s and d at timesteps [B], interpolated: each [B, 1, 1, 1]."""
        tables = self.tables.to(t.device, non_blocking=True)
        last = tables.shape[1] - 1
        t = t.float().clamp(0, last)
        low = t.long()
        scales = torch.lerp(tables[:, low], tables[:, (low + 1).clamp(max=last)], t - low)
        return scales[..., None, None, None].unbind()
