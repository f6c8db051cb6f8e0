"""The denoiser: model, clipping and guidance as one function from x_t to an estimate of x0."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

from glide_core.config import PredictionType
from glide_core.diffusion.schedule import Schedule
from glide_core.diffusion.types import ConditionFn, DenoisedFn, EpsModel, Prediction
from glide_core.errors import GlideError

log = logging.getLogger("glide")


@dataclass(frozen=True)
class Denoiser:
    """Estimate x0 from x_t at an original timestep; all that a sampler needs of a model.

    denoised_fn changes every estimate, clip_denoised then clips it to [-1, 1], in the reference's
    order. cond_fn moves it by condition-score, eps - sqrt(1 - ab) * gradient (Song et al. 2020).
    clip_guided: apply denoised_fn and clipping to the moved estimate as well. The reference does
    not, and at the first steps of the cosine schedule, where 1 / sqrt(ab) is 20291, any gradient
    then saturates the image, which later steps do not correct.
    """

    model: EpsModel
    schedule: Schedule  # its respacing does not matter: only original timesteps are looked up
    clip_denoised: bool = True
    denoised_fn: DenoisedFn | None = None
    cond_fn: ConditionFn | None = None
    clip_guided: bool = True

    def __call__(self, x_t: Tensor, timestep: int, /) -> tuple[Tensor, Tensor | None]:
        """x0 from x_t, both [B, C, H, W] float32, and the model's variance, see `Prediction`."""
        t = batch_of(timestep, x_t)
        eps, model_var_values = self.model(x_t, t)
        tables = self.schedule.full.on(x_t.device)
        sigma = tables.sqrt_recipm1_alphas_cumprod[timestep]
        x0 = self.process(tables.sqrt_recip_alphas_cumprod[timestep] * x_t - sigma * eps)
        if self.cond_fn is not None:
            gradient = self.cond_fn(x_t, t, x0).float()
            # the x0 that belongs to eps - sqrt(1 - ab) * gradient
            x0 = x0 + sigma * tables.sqrt_one_minus_alphas_cumprod[timestep] * gradient
            if self.clip_guided:
                x0 = self.process(x0)
        return x0, model_var_values

    def process(self, x0: Tensor) -> Tensor:
        """Apply denoised_fn and clipping to an estimate."""
        if self.denoised_fn is not None:
            x0 = self.denoised_fn(x0)
        return x0.clamp(-1, 1) if self.clip_denoised else x0


@dataclass
class FiniteCheck:
    """A model that remembers whether each output was finite, on its device until the run is over.

    Looking at them after every step would wait for the device each time.
    """

    model: EpsModel
    _finite: list[tuple[int, Tensor]] = field(default_factory=list, init=False)  # with timesteps

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Prediction:
        """Call the model."""
        prediction = self.model(x_t, t)
        self._finite.append((int(t.numpy()[0]), torch.isfinite(prediction.eps).all()))
        return prediction

    def raise_for(self, result: Tensor) -> None:
        """GlideError if an output, or the result of the run, is not finite."""
        for timestep, finite in self._finite:
            if not finite:
                raise GlideError(
                    f"the model's output at timestep {timestep} contains NaN or infinity: its "
                    "weights are damaged or too large for half precision, or guidance is far too "
                    "strong. Load another checkpoint, use float32, or lower cfg and CLIP's scale"
                )
        if not bool(torch.isfinite(result).all()):
            raise GlideError(
                "the sampled image contains NaN or infinity: eta or a guidance scale is out of "
                "range. Lower cfg and CLIP's scale, and use an eta from 0 to 1"
            )


def warn_if_saturated(x0: Tensor) -> None:
    """Log a warning when more than half of the values [B, C, H, W] are at or beyond -1 and 1."""
    share = float((x0.abs() >= 1).float().mean())
    if share > 0.5:
        log.warning(
            "%.0f %% of the sampled values are at the ends of their range: guidance is too strong. "
            "Lower cfg or CLIP's scale",
            100 * share,
        )


def parse_model_output(
    raw: Tensor, x_t: Tensor, t: Tensor, schedule: Schedule, prediction_type: PredictionType
) -> Prediction:
    """Split raw [B, 2C, H, W] at original timesteps t [B] into eps and variance, float32.

    t is on the device of raw. v is sqrt(ab) * eps - sqrt(1 - ab) * x0 (Salimans and Ho 2022), hence
    eps = sqrt(ab) * v + sqrt(1 - ab) * x_t.
    """
    channels = x_t.shape[1]
    out, model_var_values = raw.float().tensor_split([channels], dim=1)
    if prediction_type == "v_prediction":
        a, s = schedule.alpha_sigma(t, x_t.ndim)
        out = a * out + s * x_t.float()
    return Prediction(out, model_var_values if model_var_values.shape[1] else None)


def batch_of(timestep: int, x_t: Tensor) -> Tensor:
    """One original timestep for a whole batch, int64 [B] on the CPU."""
    return torch.full((len(x_t),), timestep, dtype=torch.int64, device="cpu")
