"""Measures of sets of pictures, over features [n, D] that any extractor gave. All in float64.

Each gives a `Value`: the number, its spread where it has one, and the parameters it hangs on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from glide_core.errors import GlideError

_SAME = 1e-12  # squared distances under this part of the squared lengths are rounding: equal
_TIE = 1 + 1e-9  # two ways to the same distance round differently; a point on the edge is inside


@dataclass(frozen=True)
class Value:
    """A number, its spread, and the metric's own parameters."""

    value: float
    std: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def kid(
    features: Tensor, reference: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> Value:
    """Kernel distance: unbiased MMD^2 with the kernel (x.y / D + 1)^3 (Binkowski 2018, eq. 4).

    Mean and std over random subsets of `size` pictures from each set, drawn without replacement.
    With fewer pictures in both sets than `size` there is but one subset, all of them, and no std.
    Near zero for two sets of one kind; it can be negative, for it has no bias.
    """
    x, y = checked_pair(features, reference)
    if subsets < 1 or size < 2:
        raise GlideError(
            f"KID over {subsets} subsets of {size} pictures. Expected at least 1 subset of 2."
        )
    size = min(size, len(x), len(y))
    if len(x) == len(y) == size:
        subsets = 1  # each would hold the same pictures
    rng = torch.Generator().manual_seed(seed)
    found = torch.stack(
        [
            _mmd2(
                x[torch.randperm(len(x), generator=rng)[:size].to(x.device)],
                y[torch.randperm(len(y), generator=rng)[:size].to(y.device)],
            )
            for _ in range(subsets)
        ]
    )
    std = float(found.std(unbiased=False)) if subsets > 1 else None
    return Value(float(found.mean()), std, {"subsets": subsets, "subset_size": size})


def _mmd2(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased MMD^2 of two equally large sets [m, D]: no picture is compared with itself."""
    count, dimension = x.shape

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / dimension + 1) ** 3

    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = xx.sum() - xx.diagonal().sum() + yy.sum() - yy.diagonal().sum()
    return within / (count * (count - 1)) - 2 * xy.mean()


def inception_score(logits: Tensor, *, splits: int = 10, seed: int = 0) -> Value:
    """exp E KL(p(y|x) || p(y)), p the softmax of logits [n, C] (Salimans 2016, section 4).

    Mean and std over `splits` parts of the pictures, shuffled by the seed. From 1 to C.
    """
    logits = checked(logits, "logits")
    check_splits(len(logits), splits)
    count = len(logits)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    log_p = logits[order.to(logits.device)].log_softmax(dim=1)
    scores = []
    for i in range(splits):
        part = log_p[i * count // splits : (i + 1) * count // splits]
        # the log of the mean without leaving logs: a class that no picture is of stays finite
        log_q = part.logsumexp(dim=0) - math.log(len(part))
        scores.append((part.exp() * (part - log_q)).sum(dim=1).mean().exp())
    found = torch.stack(scores)
    std = float(found.std(unbiased=False)) if splits > 1 else None
    return Value(float(found.mean()), std, {"splits": splits, "classes": logits.shape[1]})


def precision_recall(
    features: Tensor, reference: Tensor, *, neighbours: int = 3
) -> tuple[Value, Value]:
    """Improved precision and recall (Kynkaanniemi 2019, eq. 1 and 2).

    Precision: share of the pictures that lie in the reference's manifold, the union of balls round
    its points that reach to their k-th nearest neighbour there. Recall: the other way round.
    """
    x, y = checked_pair(features, reference)
    check_neighbours(min(len(x), len(y)), neighbours)
    centre = y.mean(dim=0)  # distances do not change, and lose fewer digits
    x, y = x - centre, y - centre
    x_radii, y_radii = _radii(x, neighbours), _radii(y, neighbours)
    details = {"neighbours": neighbours}
    precision = Value(_share_inside(x, y, y_radii), None, details)
    return precision, Value(_share_inside(y, x, x_radii), None, details)


def _radii(points: Tensor, neighbours: int) -> Tensor:
    """Squared distance of each point [n, D] to its k-th nearest other one."""
    return torch.cat(
        [
            _squared(rows, points).kthvalue(neighbours + 1).values
            for rows in torch.split(points, 2048)
        ]
    )  # + 1: the nearest is the point itself


def _share_inside(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    inside = [(_squared(p, centres) <= radii * _TIE).any(dim=1) for p in torch.split(points, 2048)]
    return float(torch.cat(inside).double().mean())


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances [n, m] by one matrix product; rounding alone becomes exactly 0."""
    lengths = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
    distances = lengths - 2 * a @ b.T
    return torch.where(distances <= _SAME * lengths, 0.0, distances)


def clip_score(image: Tensor, text: Tensor, *, scale: float = 100.0) -> Value:
    """E[s cos(f(picture), g(caption))], the paper's CLIP score (section 5.2, App. A.2).

    image, text: features [n, D] of pictures and of each one's caption; need not be normalised.
    scale: s, the model's own logit scale; 100 for OpenAI's, where this is the 100 cos form. Nothing
        is clipped at 0, as Hessel 2021 has it (2.5 max(cos, 0)). The std is over pictures.
    """
    image, text = checked(image, "picture features", 1), checked(text, "caption features", 1)
    if image.shape != text.shape:
        raise GlideError(
            f"features of pictures are {list(image.shape)} and those of captions "
            f"{list(text.shape)}. Expected one caption for each picture, by the same model."
        )
    cosine = (_unit(image) * _unit(text)).sum(dim=1)
    mean, std = float(cosine.mean()), float(cosine.std(unbiased=False))
    details = {"form": "mean of s cos", "s": float(scale), "100cos": 100 * mean}
    return Value(scale * mean, scale * std, details)


def retrieval(image: Tensor, text: Tensor, captions: Sequence[str]) -> dict[str, Value]:
    """Share of pictures that find their caption among all, and of captions that find a picture.

    image: features [n, D]. text: features [C, D] of the distinct captions, in the order of
    `distinct(captions)`; captions: each picture's own. A caption finds a picture if one of its own
    is the best (top-1), or among the best five (top-5). A tie with a wrong one counts as a miss.
    """
    known = distinct(captions)
    image, text = checked(image, "picture features", 1), checked(text, "caption features", 1)
    if len(image) != len(captions) or len(text) != len(known) or image.shape[1] != text.shape[1]:
        raise GlideError(
            f"features of {list(image.shape)} for {len(captions)} pictures and {list(text.shape)} "
            f"for {len(known)} distinct captions do not fit. Expected one row for each."
        )
    place = {caption: i for i, caption in enumerate(known)}
    own = torch.tensor([place[caption] for caption in captions], device=image.device)
    scores = _unit(image) @ _unit(text).T  # [n, C]
    mine = torch.nn.functional.one_hot(own, len(known)).bool()
    best_mine = scores.gather(1, own[:, None])
    picture_rank = ((scores >= best_mine) & ~mine).sum(dim=1)
    best_picture = scores.masked_fill(~mine, -torch.inf).amax(dim=0)
    caption_rank = ((scores >= best_picture) & ~mine).sum(dim=0)
    details = {"captions": len(known)}
    return {
        f"retrieval-{name}-top{k}": Value(
            float((rank < k).double().mean()), None, {**details, "chance": min(1.0, k / among)}
        )
        for name, rank, among in (
            ("caption", picture_rank, len(known)),
            ("picture", caption_rank, len(image)),
        )
        for k in (1, 5)
    }


def distinct(captions: Sequence[str]) -> list[str]:
    """The different captions, in the order of their first use."""
    return list(dict.fromkeys(captions))


def class_logits(image: Tensor, text: Tensor, scale: float) -> Tensor:
    """s cos [n, C] of pictures [n, D] with captions [C, D]: CLIP as a classifier over captions."""
    return scale * _unit(checked(image, "picture features", 1)) @ _unit(checked(text, "text", 1)).T


def _unit(features: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / length.clamp(min=torch.finfo(features.dtype).tiny)


def check_splits(count: int, splits: int) -> None:
    """Refuse to split pictures into parts of less than two."""
    if not 1 <= splits <= count // 2:
        raise GlideError(
            f"{count} pictures cannot be split into {splits} parts. Expected two pictures or more "
            "in each: take more pictures, or fewer splits."
        )


def check_neighbours(count: int, neighbours: int) -> None:
    """Refuse to look for more neighbours than there are."""
    if not 1 <= neighbours < count:
        raise GlideError(
            f"{neighbours} nearest neighbours among {count} pictures. Expected 1 or more, and more "
            "pictures than that in both sets."
        )


def checked(features: Tensor, what: str = "features", least: int = 2) -> Tensor:
    """Give finite features [n, D] in float64; GlideError for other shapes, too few, NaN."""
    if features.ndim != 2 or features.shape[1] == 0:
        raise GlideError(f"the {what} are {list(features.shape)}. Expected [pictures, features].")
    if len(features) < least:
        raise GlideError(
            f"the {what} are of {len(features)} picture{'s' if len(features) != 1 else ''}. "
            f"Expected {least} or more: a set has a spread, one picture has none. Take more."
        )
    finite = features.isfinite().all(dim=1)
    if not bool(finite.all()):
        rows = (~finite).nonzero()[:, 0].tolist()
        raise GlideError(
            f"the {what} of picture {rows[0]} (from 0), and of {len(rows) - 1} more, hold NaN or "
            "infinity. Expected finite numbers: look at that picture and at the extractor."
        )
    return features.detach().double()


def checked_pair(features: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Check two sets that are to be compared: each by itself, and equal in dimension."""
    x, y = checked(features), checked(reference, "reference features")
    if x.shape[1] != y.shape[1]:
        raise GlideError(
            f"the pictures have {x.shape[1]} features and the reference {y.shape[1]}. Expected "
            "features of the same extractor: extract both sets with one."
        )
    return x, y.to(x.device)
