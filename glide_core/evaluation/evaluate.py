"""Measure sets of images: metrics over their features, and the provenance of every value."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from glide_core import __version__
from glide_core.errors import GlideError
from glide_core.evaluation import metrics
from glide_core.evaluation.features import FeatureExtractor
from glide_core.evaluation.image_set import FeatureSet, ImageSet
from glide_core.evaluation.metrics import Statistics, Value
from glide_core.names import METRICS, REFERENCE_METRICS

log = logging.getLogger("glide")


@dataclass(frozen=True)
class MetricParams:
    """Parameters of the metrics; the defaults are those of the papers."""

    subsets: int = 100  # KID
    subset_size: int = 1000
    neighbours: int = 3  # precision and recall
    splits: int = 10  # inception score


@dataclass(frozen=True)
class Measurement(Value):
    """The value of one metric. Values compare only if their provenance is equal."""

    metric: str = ""
    # n, n_reference (None: no reference), crop, size, extractor with sha256, dimension and resize,
    # seed (of the image selection, the KID subsets and the splits), skipped (unreadable images),
    # versions, command
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """Return name, value and the metric's own parameters in one line."""
        std = "" if self.std is None else f" +- {self.std:.4g}"
        shown = [
            f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.details.items()
        ]
        details = f"  ({', '.join(shown)})" if shown else ""
        return f"{self.metric:<22} {self.value:.6g}{std}{details}"

    def provenance_line(self) -> str:
        """Return everything but the command in one line."""
        how = self.provenance
        skipped = f" ({how['skipped']} unreadable)" if how["skipped"] else ""
        against = "" if how["n_reference"] is None else f" against {how['n_reference']}"
        weights = f" (sha256 {how['sha256'][:12]})" if how["sha256"] else ""
        versions = "; ".join(f"{name} {number}" for name, number in how["versions"].items())
        return (
            f"{how['n']} images{skipped}{against}; crop {how['crop']}; size {how['size']}; "
            f"{how['extractor']}{weights}, {how['dimension']} features, {how['resize']}; "
            f"seed {how['seed']}; {versions}"
        )


def check_metrics(
    wanted: Sequence[str],
    extractor: FeatureExtractor,
    images: ImageSet | FeatureSet,
    reference: ImageSet | FeatureSet | Statistics | None = None,
    params: MetricParams = MetricParams(),
) -> bool:
    """Return whether these metrics need a caption for every image.

    GlideError for metrics that the extractor or the sets rule out, also before the sets are read.
    """
    captions = False
    for metric in wanted:
        if metric not in METRICS:
            raise GlideError(f"Unknown metric {metric!r}. Allowed: {', '.join(METRICS)}.")
        if metric in REFERENCE_METRICS:
            if reference is None:
                raise GlideError(f"{metric} needs a second set of images.", "reference")
            if isinstance(reference, Statistics):
                if metric != "frechet":
                    raise GlideError(f"{metric} needs features, not only mean and covariance.")
            elif metric in ("precision", "recall"):
                metrics.check_neighbours(min(len(images), len(reference)), params.neighbours)
        if metric in ("clip-score", "retrieval") or (metric == "is" and extractor.logits is None):
            captions = True
            if extractor.encode_text is None:
                needed = "a classifier or a CLIP" if metric == "is" else "a CLIP"
                raise GlideError(f"{metric} needs {needed}, not {extractor.name}.", "features")
        if metric == "is":
            metrics.check_splits(len(images), params.splits)
    if isinstance(reference, FeatureSet):
        theirs, own = reference.extractor, extractor.identity
        if {**theirs, "name": ""} != {**own, "name": ""}:
            shown = [f"{x.get('name')} {str(x.get('sha256'))[:12]}" for x in (theirs, own)]
            raise GlideError(f"The reference was measured with {shown[0]}, not {shown[1]}.")
    return captions


def measure(
    wanted: Sequence[str],
    extractor: FeatureExtractor,
    found: FeatureSet,
    reference: FeatureSet | Statistics | None = None,
    *,
    seed: int = 0,
    params: MetricParams = MetricParams(),
    command: str = "",
) -> Iterator[Measurement]:
    """Compute metrics one after the other, each with its provenance."""
    captions = check_metrics(wanted, extractor, found, reference, params)
    if captions and (known := len([one for one in found.captions if one])) < len(found):
        raise GlideError(f"There are {known} captions for {len(found)} images.", "captions")
    if isinstance(reference, Statistics):
        log.warning("the reference file does not say which extractor made it")
    elif reference is not None:
        for what in ("crop", "size"):
            here, there = getattr(found, what), getattr(reference, what)
            if here != there:
                log.warning("%s %s, of the reference %s: this changes values", what, here, there)
    place = {caption: i for i, caption in enumerate(dict.fromkeys(found.captions))}
    own = torch.tensor([place[one] for one in found.captions])
    text = torch.empty(0)  # features of the distinct captions
    if captions and extractor.encode_text is not None:
        text = extractor.encode_text(list(place))

    def logits() -> Tensor:
        if extractor.logits is not None:
            return extractor.logits(x)
        return extractor.logit_scale * metrics.cosines(x, text)

    x, other = found.features, found if reference is None else reference
    y = x if isinstance(other, Statistics) else other.features
    compute: dict[str, Callable[[], Value | dict[str, Value]]] = {
        "frechet": lambda: metrics.frechet(
            found.statistics, other if isinstance(other, Statistics) else other.statistics
        ),
        "kid": lambda: metrics.kid(
            x, y, subsets=params.subsets, size=params.subset_size, seed=seed
        ),
        "precision": lambda: metrics.precision(x, y, neighbours=params.neighbours),
        "recall": lambda: metrics.precision(y, x, neighbours=params.neighbours),
        "is": lambda: metrics.inception_score(logits(), splits=params.splits, seed=seed),
        "clip-score": lambda: metrics.clip_score(x, text[own], scale=extractor.logit_scale),
        "retrieval": lambda: metrics.retrieval(x, text, own),
    }
    identity = extractor.identity
    versions = {"glide": __version__, "torch": str(torch.__version__)}
    if library := extractor.library:
        versions[library] = version(library)
    provenance = {
        "n": len(found),
        "crop": found.crop,
        "size": found.size,
        "extractor": identity.pop("name"),
        **identity,
        "seed": seed,
        "skipped": len(found.skipped),
        "versions": versions,
        "command": command,
    }
    against = other.n if isinstance(other, Statistics) else len(other)
    for metric in dict.fromkeys(wanted):
        how = {**provenance, "n_reference": against if metric in REFERENCE_METRICS else None}
        value = compute[metric]()
        values = {metric: value} if isinstance(value, Value) else value  # retrieval has four
        for name, one in values.items():
            yield Measurement(one.value, one.std, one.details, name, how)
