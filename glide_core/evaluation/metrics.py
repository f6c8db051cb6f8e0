"""Metrics of sets of images over features [n, D] of any extractor, computed in float64."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from glide_core.errors import GlideError

log = logging.getLogger("glide")

_SAME = 1e-12  # squared distances below this part of the squared lengths are rounding: equal
_TIE = 1 + 1e-9  # equal distances round differently; a point on the edge counts as inside
_NEGATIVE = 1e-5  # part of the largest eigenvalue: statistics files may come from float32


@dataclass(frozen=True)
class Value:
    """A metric's value, its standard deviation where it has one, and its parameters."""

    value: float
    std: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Statistics:
    """Mean [D] and covariance [D, D] of features in float64, and the image count (0: unknown)."""

    mean: Tensor
    covariance: Tensor
    n: int


def statistics(features: Tensor) -> Statistics:
    """Return mean and unbiased covariance (divided by n - 1) of features [n, D]."""
    values = checked(features)
    shape = 2 * values.shape[1:]  # of one feature, cov returns a scalar
    return Statistics(values.mean(dim=0), torch.cov(values.T).reshape(shape), len(values))


def frechet(one: Statistics, other: Statistics) -> Value:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel 2017, eq. 6; Dowson and Landau 1982).

    With S = L^T L, the trace of the root is the sum of the singular values of L1 L2^T. This needs
    no matrix root and is exact for singular covariances. Those of fewer images than features give a
    distance far above its limit, which a warning says.
    """
    check_dimensions(len(one.mean), len(other.mean))
    fewest = min((n for n in (one.n, other.n) if n), default=0)
    if fewest and fewest <= len(one.mean):
        bias = (
            "frechet of %d images in %d dimensions is far too high: compare at equal n or use kid"
        )
        log.warning(bias, fewest, len(one.mean))
    root = torch.linalg.svdvals(_factor(one.covariance) @ _factor(other.covariance).T).sum()
    traces = one.covariance.trace() + other.covariance.trace()
    distance = (one.mean - other.mean).square().sum() + traces - 2 * root
    return Value(max(float(distance), 0.0))  # below 0 only by rounding


def _factor(covariance: Tensor) -> Tensor:
    """Return L [r, D] with L^T L the covariance, without directions that are only rounding."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    limit = values.abs().amax() * len(values) * torch.finfo(values.dtype).eps
    if bool(values[0] < -_NEGATIVE * values.abs().amax()):
        raise GlideError(f"A covariance has the negative eigenvalue {float(values[0]):.3g}.")
    kept = values > limit
    factor: Tensor = values[kept].sqrt()[:, None] * vectors[:, kept].T
    return factor


def kid(
    features: Tensor, reference: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> Value:
    """Kernel distance: unbiased MMD^2 with the kernel (x.y / D + 1)^3 (Binkowski 2018, eq. 4).

    Mean and std over random subsets of `size` images from each set, without replacement. If both
    sets fit into one subset there is only one, and no std. Unbiased, so it can be negative.
    """
    x, y = checked_pair(features, reference)
    if subsets < 1 or size < 2:
        raise GlideError(f"KID needs 1 subset of 2 images or more, not {subsets} of {size}.")
    size = min(size, len(x), len(y))
    if len(x) == len(y) == size:
        subsets = 1  # all subsets would be equal
    rng = torch.Generator().manual_seed(seed)

    def some(rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=rng)[:size]]

    found = torch.stack([_mmd2(some(x), some(y)) for _ in range(subsets)])
    std = float(found.std(unbiased=False)) if subsets > 1 else None
    return Value(float(found.mean()), std, {"subsets": subsets, "subset_size": size})


def _mmd2(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased MMD^2 of two sets of equal size [m, D], without self-comparisons."""
    count, dimension = x.shape

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / dimension + 1) ** 3

    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = xx.sum() - xx.diagonal().sum() + yy.sum() - yy.diagonal().sum()
    return within / (count * (count - 1)) - 2 * xy.mean()


def inception_score(logits: Tensor, *, splits: int = 10, seed: int = 0) -> Value:
    """exp E KL(p(y|x) || p(y)), p the softmax of logits [n, C] (Salimans 2016, section 4).

    Mean and std over `splits` parts of the images, shuffled by the seed. Between 1 and C.
    """
    logits = checked(logits, "logits")
    count = len(logits)
    check_splits(count, splits)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    log_p = logits[order].log_softmax(dim=1)
    scores = []
    for i in range(splits):
        part = log_p[i * count // splits : (i + 1) * count // splits]
        # mean in log space: a class without any image stays finite
        log_q = part.logsumexp(dim=0) - math.log(len(part))
        scores.append((part.exp() * (part - log_q)).sum(dim=1).mean().exp())
    found = torch.stack(scores)
    std = float(found.std(unbiased=False)) if splits > 1 else None
    return Value(float(found.mean()), std, {"splits": splits, "classes": logits.shape[1]})


def precision(features: Tensor, reference: Tensor, *, neighbours: int = 3) -> Value:
    """Improved precision (Kynkaanniemi 2019, eq. 1 and 2); recall is it with the sets exchanged.

    The share of images inside the k-NN manifold of the reference: the union of balls around its
    points with the distance to their k-th nearest neighbour as radius.
    """
    x, y = checked_pair(features, reference)
    check_neighbours(min(len(x), len(y)), neighbours)
    centre = y.mean(dim=0)  # does not change distances and loses fewer digits
    x, y = x - centre, y - centre
    # squared; + 1: the nearest is the point itself
    nearest = [_squared(p, y).kthvalue(neighbours + 1).values for p in torch.split(y, 2048)]
    radii = torch.cat(nearest) * _TIE
    inside = [(_squared(part, y) <= radii).any(dim=1) for part in torch.split(x, 2048)]
    return Value(float(torch.cat(inside).double().mean()), None, {"neighbours": neighbours})


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Return squared distances [n, m] from one matrix product, with rounding set to exactly 0."""
    lengths = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
    distances = lengths - 2 * a @ b.T
    return torch.where(distances <= _SAME * lengths, 0.0, distances)


def clip_score(image: Tensor, text: Tensor, *, scale: float = 100.0) -> Value:
    """E[s cos(f(image), g(caption))], the paper's CLIP score (section 5.2, App. A.2).

    image, text: features [n, D] of images and of the caption of each; need not be normalised.
    scale: s, the logit scale of the model, 100 for OpenAI's. Not clipped at 0, unlike Hessel 2021
        (2.5 max(cos, 0)). The std is over images.
    """
    cosine = F.cosine_similarity(image.double(), text.double())
    mean, std = float(cosine.mean()), float(cosine.std(unbiased=False))
    details = {"form": "mean of s cos", "s": float(scale), "100cos": 100 * mean}
    return Value(scale * mean, scale * std, details)


def retrieval(image: Tensor, text: Tensor, own: Tensor) -> dict[str, Value]:
    """Share of images that find their caption among all, and of captions that find an image.

    image: features [n, D]. text: features [C, D] of the distinct captions. own [n]: the index of
    each image's caption. A caption finds an image if one of its own is the best (top-1) or among
    the best five (top-5). A tie with a wrong one counts as a miss.
    """
    scores = cosines(image, text)
    correct = F.one_hot(own, len(text)).bool()
    caption_rank = ((scores >= scores.gather(1, own[:, None])) & ~correct).sum(dim=1)  # [n]
    best_image = scores.masked_fill(~correct, -torch.inf).amax(dim=0)
    image_rank = ((scores >= best_image) & ~correct).sum(dim=0)  # [C]
    ranks = {"caption": (caption_rank, len(text)), "image": (image_rank, len(image))}
    found = {}
    for name, (rank, among) in ranks.items():
        for k in (1, 5):
            details = {"captions": len(text), "chance": min(1.0, k / among)}
            share = float((rank < k).double().mean())
            found[f"retrieval-{name}-top{k}"] = Value(share, None, details)
    return found


def cosines(image: Tensor, text: Tensor) -> Tensor:
    """Return the cosine [n, C] of each image [n, D] with each caption [C, D]."""
    return F.normalize(image.double()) @ F.normalize(text.double()).T


def check_splits(count: int, splits: int) -> None:
    if not 1 <= splits <= count // 2:
        raise GlideError(f"{count} images cannot be split into {splits} parts of 2 or more.")


def check_neighbours(count: int, neighbours: int) -> None:
    """count: images of the smaller set."""
    if not 1 <= neighbours < count:
        allowed = f"expected 1 to {count - 1}"
        raise GlideError(f"{neighbours} nearest neighbours among {count} images: {allowed}.")


def check_dimensions(own: int, reference: int) -> None:
    if own != reference:
        raise GlideError(f"The images have {own} features and the reference {reference}.")


def checked(features: Tensor, what: str = "features") -> Tensor:
    """Return features [n, D] in float64 on the CPU; GlideError if they cannot be measured."""
    if features.ndim != 2 or len(features) < 2 or features.shape[1] == 0:
        raise GlideError(
            f"The {what} are {list(features.shape)}. Expected [images, D] of 2 or more images."
        )
    if not features.isfinite().all():
        raise GlideError(f"The {what} contain NaN or infinity.")
    return features.detach().cpu().double()


def checked_pair(features: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Check two sets to be compared: each by itself, and equal in dimension."""
    x, y = checked(features), checked(reference, "reference features")
    check_dimensions(x.shape[1], y.shape[1])
    return x, y
