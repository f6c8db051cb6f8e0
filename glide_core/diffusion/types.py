"""Function types shared by models, guidance, samplers and hosts; the noise of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from glide_core.errors import GlideError


class Prediction(NamedTuple):
    """What a model predicts at x_t, [B, C, H, W] float32."""

    eps: Tensor  # the noise
    # raw interpolation value v in about [-1, 1], not clamped; None without a learned variance
    model_var_values: Tensor | None


# x_t [B, C, H, W] float32 and original timesteps t [B] (0..999) to a Prediction. t is int64 and on
# the CPU: reading it from a GPU would wait for everything queued there.
EpsModel = Callable[[Tensor, Tensor], Prediction]
# The same for two prompts: the Prediction of the prompt and, where the last argument is True, that
# of the negative or empty prompt after it, from one forward pass.
CondUncondModel = Callable[[Tensor, Tensor, bool], tuple[Prediction, ...]]
# x_t, t and the sampler's (clipped) estimate of x0 to the gradient of a log-probability with
# respect to x_t, [B, C, H, W] float32.
ConditionFn = Callable[[Tensor, Tensor, Tensor], Tensor]
NoiseSource = Callable[[Tensor], Tensor]  # fresh standard normal noise shaped like its argument
DenoisedFn = Callable[[Tensor], Tensor]  # changes every x0 estimate (inpainting)


class SeededNoise:
    """Standard normal noise from one CPU generator per image, the same in any batch and device."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, like: Tensor, /) -> Tensor:
        """Fresh noise [B, ...] shaped like `like`, float32, on its device; one image per seed."""
        if len(like) != len(self._generators):
            raise GlideError(
                f"{len(self._generators)} seeds for {len(like)} images: expected one per image"
            )
        # dtype and device are named: the process's defaults must not change an image
        noise = [
            torch.randn(like.shape[1:], generator=generator, dtype=torch.float32, device="cpu")
            for generator in self._generators
        ]
        return torch.stack(noise).to(like.device, non_blocking=True)


class StepInfo(NamedTuple):
    """What a sampler passes to its callback after each step."""

    # steps done so far minus one: 0 .. total - 1 (tuple.index, which this hides, is not used)
    index: int  # type: ignore[assignment]
    total: int
    timestep: int  # original timestep that the step started from
    x_t: Tensor  # state after the step
    x0: Tensor  # clean estimate of this step, in [-1, 1] when clipping is on


StepCallback = Callable[[StepInfo], None]  # raise from it to cancel
