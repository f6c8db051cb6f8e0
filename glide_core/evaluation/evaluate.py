"""Measure sets of images: metrics over their features, and the provenance of every value."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glide_core.errors import GlideError
from glide_core.evaluation import metrics
from glide_core.evaluation.feature_set import FeatureSet
from glide_core.evaluation.features import FeatureExtractor
from glide_core.evaluation.metrics import Value
from glide_core.io import atomic_write
from glide_core.names import METRICS

log = logging.getLogger("glide")

AGAINST_REFERENCE = ("frechet", "kid", "precision", "recall")
WITH_CAPTIONS = ("clip-score", "retrieval")


@dataclass(frozen=True)
class MetricParams:
    """Parameters of the metrics; the defaults are those of the papers."""

    subsets: int = 100  # KID
    subset_size: int = 1000
    neighbours: int = 3  # precision and recall
    splits: int = 10  # inception score


@dataclass(frozen=True)
class Provenance:
    """How a value was measured. Values compare only if all of this is equal."""

    n: int
    n_reference: int | None  # None: no reference
    crop: str
    size: str  # of the images given to the extractor, "64x64" or "mixed"
    extractor: str
    sha256: str  # of the extractor's weights; "" without weights
    dimension: int  # features per image
    resize: str  # how the extractor resizes an image
    seed: int  # of the image selection, the KID subsets and the splits
    skipped: int = 0  # unreadable images
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""  # reproduces the value

    def line(self) -> str:
        """Return everything but the command in one line."""
        skipped = f" ({self.skipped} unreadable)" if self.skipped else ""
        against = "" if self.n_reference is None else f" against {self.n_reference}"
        weights = f" (sha256 {self.sha256[:12]})" if self.sha256 else ""
        parts = [
            f"{self.n} images{skipped}{against}",
            f"crop {self.crop}",
            f"size {self.size}",
            f"{self.extractor}{weights}, {self.dimension} features, {self.resize}",
            f"seed {self.seed}",
            *(f"{name} {version}" for name, version in self.versions.items()),
        ]
        return "; ".join(parts)


@dataclass(frozen=True)
class Measurement:
    """One value of one metric with its provenance."""

    metric: str
    value: float
    std: float | None  # over subsets, splits or images; None: there is none
    provenance: Provenance
    details: Mapping[str, Any] = field(default_factory=dict)  # parameters of the metric

    def line(self) -> str:
        """Return name, value and the metric's own parameters in one line."""
        std = "" if self.std is None else f" +- {self.std:.4g}"
        shown = (
            f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.details.items()
        )
        details = f"  ({', '.join(shown)})" if self.details else ""
        return f"{self.metric:<22} {self.value:.6g}{std}{details}"


def write_json(measurements: Sequence[Measurement], path: Path) -> None:
    """Write measurements as a JSON list, atomically; an existing file is replaced."""
    text = json.dumps([asdict(one) for one in measurements], indent=2)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def check_possible(wanted: Sequence[str], extractor: FeatureExtractor, *, reference: bool) -> None:
    """Raise GlideError for metrics that this extractor, or a missing reference, rules out."""
    for metric in wanted:
        if metric not in METRICS:
            raise GlideError(f"Unknown metric {metric!r}. Allowed: {', '.join(METRICS)}.")
        if metric in AGAINST_REFERENCE and not reference:
            raise GlideError(f"{metric} needs a second set of images. Give one with --reference.")
        if extractor.encode_text is None and (
            metric in WITH_CAPTIONS or (metric == "is" and extractor.logits is None)
        ):
            needed = "a classifier or a CLIP" if metric == "is" else "a CLIP"
            raise GlideError(
                f"{metric} needs {needed}, not {extractor.name}. Use --features clip:..., "
                "open_clip:..." + (" or inception:FILE." if metric == "is" else ".")
            )


def check_counts(wanted: Sequence[str], params: MetricParams, count: int) -> None:
    """Raise GlideError for metrics that need more images than `count`."""
    if "is" in wanted:
        metrics.check_splits(count, params.splits)
    if "precision" in wanted or "recall" in wanted:
        metrics.check_neighbours(count, params.neighbours)


def needs_captions(wanted: Sequence[str], extractor: FeatureExtractor) -> bool:
    """Return whether these metrics need a caption for every image."""
    return any(m in WITH_CAPTIONS or (m == "is" and extractor.logits is None) for m in wanted)


def measure(
    wanted: Sequence[str],
    extractor: FeatureExtractor,
    found: FeatureSet,
    reference: FeatureSet | None = None,
    *,
    seed: int = 0,
    params: MetricParams | None = None,
    command: str = "",
) -> Iterator[Measurement]:
    """Compute metrics one after the other, each with its provenance."""
    check_possible(wanted, extractor, reference=reference is not None)
    if reference is not None:
        _check_same(extractor, found, reference)
    data = _Data(extractor, found, reference, seed, params or MetricParams())
    computed: dict[str, Value] = {}
    for metric in dict.fromkeys(wanted):
        if metric not in computed:  # precision and recall are computed together
            computed.update(_values(metric, data))
        against = reference if metric in AGAINST_REFERENCE else None
        provenance = _provenance(data, against, command)
        for name, one in computed.items():
            if name == metric or name.startswith(f"{metric}-"):  # retrieval has four values
                yield Measurement(name, one.value, one.std, provenance, dict(one.details))


@dataclass(frozen=True)
class _Data:
    """What the metrics are computed from."""

    extractor: FeatureExtractor
    found: FeatureSet
    reference: FeatureSet | None
    seed: int
    params: MetricParams

    @cached_property
    def text(self) -> Tensor:
        """Features of the distinct captions."""
        assert self.extractor.encode_text is not None
        return self.extractor.encode_text(metrics.distinct(self.found.captions)).cpu()

    @property
    def against(self) -> FeatureSet:
        assert self.reference is not None
        return self.reference


def _values(metric: str, data: _Data) -> dict[str, Value]:
    params, seed, scale = data.params, data.seed, data.extractor.logit_scale
    if metric == "frechet":
        return {metric: metrics.frechet(data.found.statistics, data.against.statistics)}
    own = _features(data.found, metric)
    if metric == "kid":
        subsets, size = params.subsets, params.subset_size
        other = _features(data.against, metric)
        return {metric: metrics.kid(own, other, subsets=subsets, size=size, seed=seed)}
    if metric in ("precision", "recall"):
        other = _features(data.against, metric)
        both = metrics.precision_recall(own, other, neighbours=params.neighbours)
        return dict(zip(("precision", "recall"), both, strict=True))
    if metric == "is":
        logits = data.extractor.logits
        found = logits(own).cpu() if logits else metrics.class_logits(own, data.text, scale)
        return {metric: metrics.inception_score(found, splits=params.splits, seed=seed)}
    if metric == "retrieval":
        return metrics.retrieval(own, data.text, data.found.captions)
    text = data.text[metrics.caption_indices(data.found.captions)]
    return {metric: metrics.clip_score(own, text, scale=scale)}


def _features(one: FeatureSet, metric: str) -> Tensor:
    if one.features is None:
        raise GlideError(
            f"{metric} needs the features of every reference image, and the file holds only their "
            "mean and covariance, which is enough for frechet. Give images as the reference, or a "
            "file that `glide evaluate --save-stats` wrote."
        )
    return one.features


def _check_same(extractor: FeatureExtractor, found: FeatureSet, reference: FeatureSet) -> None:
    theirs = reference.extractor
    if not theirs:
        log.warning("the reference file does not say which extractor made it")
        return
    if any(theirs.get(key) != getattr(extractor, key) for key in ("sha256", "resize", "dimension")):
        raise GlideError(
            f"The reference was measured with {theirs.get('name')} "
            f"(sha256 {str(theirs.get('sha256'))[:12]}), the images with {extractor.name} "
            f"(sha256 {extractor.sha256[:12]}). Expected the same extractor for both."
        )
    for what in ("crop", "size"):
        one, other = getattr(found, what), getattr(reference, what)
        if one != other:
            message = "the %s of the images is %s and that of the reference %s: this changes values"
            log.warning(message, what, one, other)


def _provenance(data: _Data, against: FeatureSet | None, command: str) -> Provenance:
    from importlib.metadata import version

    from glide_core import __version__

    extractor, library = data.extractor, data.extractor.library
    versions = {"glide": __version__, "torch": str(torch.__version__)}
    return Provenance(
        n=data.found.n,
        n_reference=None if against is None else against.n,
        crop=data.found.crop,
        size=data.found.size,
        extractor=extractor.name,
        sha256=extractor.sha256,
        dimension=extractor.dimension,
        resize=extractor.resize,
        seed=data.seed,
        skipped=len(data.found.skipped),
        versions={**versions, library: version(library)} if library else versions,
        command=command,
    )
