"""The Frechet distance of two sets of features, and the statistics that it needs of each."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from glide_core.errors import GlideError
from glide_core.evaluation.metrics import Value, checked

log = logging.getLogger("glide")

_NEGATIVE = 1e-5  # part of the largest eigenvalue: files of statistics may come from float32


@dataclass(frozen=True)
class Statistics:
    """Mean [D] and covariance [D, D] of features, float64, and of how many pictures (0: unknown)"""

    mean: Tensor
    covariance: Tensor
    n: int

    def __post_init__(self) -> None:
        size = len(self.mean) if self.mean.ndim == 1 else 0
        if not size or self.covariance.shape != (size, size):
            raise GlideError(
                f"a mean of shape {list(self.mean.shape)} and a covariance of shape "
                f"{list(self.covariance.shape)} do not belong together. Expected [D] and [D, D]."
            )
        if not bool(self.mean.isfinite().all() and self.covariance.isfinite().all()):
            raise GlideError(
                "the statistics hold NaN or infinity. Expected finite numbers: measure them anew."
            )


def statistics(features: Tensor) -> Statistics:
    """Mean and unbiased covariance (divided by n - 1) of features [n, D]."""
    values = checked(features)
    mean = values.mean(dim=0)
    centred = values - mean
    return Statistics(mean, centred.T @ centred / (len(values) - 1), len(values))


def frechet(one: Statistics, other: Statistics) -> Value:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel 2017, eq. 6; Dowson and Landau 1982).

    With S = L^T L, the trace of the root is the sum of the singular values of L1 L2^T: no root of a
    matrix is taken that need not have one, and nothing is lost where the sets hold fewer pictures
    than features (the covariances are singular then, and the distance is far from its limit: a
    warning says so).
    """
    if one.mean.shape != other.mean.shape:
        raise GlideError(
            f"the pictures have {len(one.mean)} features and the reference {len(other.mean)}. "
            "Expected features of the same extractor: extract both sets with one."
        )
    fewest = min(n for n in (one.n, other.n) if n) if one.n or other.n else 0
    if fewest and fewest <= len(one.mean):
        log.warning(
            "the Frechet distance of %d pictures in %d dimensions is biased upwards by much: "
            "compare it only at the same n, or use kid, which has no such bias",
            fewest,
            len(one.mean),
        )
    mean, covariance = other.mean.to(one.mean), other.covariance.to(one.covariance)
    root = torch.linalg.svdvals(_factor(one.covariance) @ _factor(covariance).T).sum()
    traces = one.covariance.trace() + covariance.trace()
    distance = (one.mean - mean).square().sum() + traces - 2 * root
    return Value(max(float(distance), 0.0))  # a distance; under 0 by rounding alone


def _factor(covariance: Tensor) -> Tensor:
    """L [r, D] with L^T L the covariance; directions that hold rounding alone are left out."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    limit = values.abs().amax() * len(values) * torch.finfo(values.dtype).eps
    if bool(values[0] < -_NEGATIVE * values.abs().amax()):
        raise GlideError(
            f"a covariance has the negative eigenvalue {float(values[0]):.3g}: it is none. "
            "Expected statistics of real features: measure them anew."
        )
    kept = values > limit
    factor: Tensor = values[kept].sqrt()[:, None] * vectors[:, kept].T
    return factor
