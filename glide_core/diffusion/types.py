"""The machine's plugs: what a denoiser, a guide, a noise source and a callback look like."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor


class Prediction(NamedTuple):
    """What a denoiser says of x_t, in float32.

    eps: predicted noise, [B, C, H, W].
    variance: raw interpolation value v in about [-1, 1], same shape, not clamped;
        None when the model has no learned variance.
    """

    eps: Tensor
    variance: Tensor | None


class Denoiser(Protocol):
    """x_t [B, C, H, W] float32 and original timesteps t [B] int64 (0..999) to a Prediction."""

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Prediction: ...


class BranchDenoiser(Protocol):
    """One Prediction per asked text branch (0 = conditional, 1 = unconditional or negative, ...),
    all from one batched forward pass."""

    def __call__(
        self, x_t: Tensor, t: Tensor, branches: tuple[int, ...], /
    ) -> tuple[Prediction, ...]: ...


class ConditionFn(Protocol):
    """Gradient of a log-probability with respect to x_t, [B, C, H, W] float32.

    x0 is the sampler's current (clipped) estimate of the clean picture; guides that look at noised
    pictures ignore it.
    """

    def __call__(self, x_t: Tensor, t: Tensor, x0: Tensor, /) -> Tensor: ...


class NoiseSource(Protocol):
    """Standard normal noise shaped like its argument; every call gives fresh noise."""

    def __call__(self, like: Tensor, /) -> Tensor: ...


class StepInfo(NamedTuple):
    """What a sampler tells its callback after each step."""

    # steps done so far minus one: 0 .. total - 1 (tuple.index, which this hides, is not used)
    index: int  # type: ignore[assignment]
    total: int
    timestep: int  # original timestep of the model call
    x_t: Tensor  # state after the step
    x0: Tensor  # clean estimate of this step, in [-1, 1] when clipping is on


StepCallback = Callable[[StepInfo], None]  # raise from it to cancel
DenoisedFn = Callable[[Tensor], Tensor]  # changes every x0 estimate (inpainting)
