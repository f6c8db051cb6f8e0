"""Measure sets of images: metrics over their features, and the provenance of every value."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from glide_core import __version__
from glide_core.errors import GlideError
from glide_core.evaluation import metrics
from glide_core.evaluation.features import FeatureExtractor
from glide_core.evaluation.image_set import FeatureSet
from glide_core.evaluation.metrics import Value
from glide_core.names import METRICS

log = logging.getLogger("glide")

AGAINST_REFERENCE = ("frechet", "kid", "precision", "recall")


@dataclass(frozen=True)
class MetricParams:
    """Parameters of the metrics; the defaults are those of the papers."""

    subsets: int = 100  # KID
    subset_size: int = 1000
    neighbours: int = 3  # precision and recall
    splits: int = 10  # inception score


@dataclass(frozen=True)
class Measurement:
    """One value of one metric. Values compare only if their provenance is equal."""

    metric: str
    value: float
    std: float | None  # over subsets, splits or images; None: there is none
    # n, n_reference (None: no reference), crop, size, extractor with sha256, dimension and resize,
    # seed (of the image selection, the KID subsets and the splits), skipped (unreadable images),
    # versions, command
    provenance: Mapping[str, Any]
    details: Mapping[str, Any]  # parameters of the metric

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


def check_metrics(wanted: Sequence[str], extractor: FeatureExtractor, *, reference: bool) -> bool:
    """Return whether these metrics need a caption for every image.

    GlideError for metrics that this extractor or a missing reference rule out.
    """
    captions = False
    for metric in wanted:
        if metric not in METRICS:
            raise GlideError(f"Unknown metric {metric!r}. Allowed: {', '.join(METRICS)}.")
        if metric in AGAINST_REFERENCE and not reference:
            raise GlideError(f"{metric} needs a second set of images.", "reference")
        if metric in ("clip-score", "retrieval") or (metric == "is" and extractor.logits is None):
            captions = True
            if extractor.encode_text is None:
                needed = "a classifier or a CLIP" if metric == "is" else "a CLIP"
                raise GlideError(f"{metric} needs {needed}, not {extractor.name}.", "features")
    return captions


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
    params = params or MetricParams()
    captions = check_metrics(wanted, extractor, reference=reference is not None)
    if reference is not None:
        _check_same(extractor, found, reference)
    place = {caption: i for i, caption in enumerate(dict.fromkeys(found.captions))}
    own = torch.tensor([place[one] for one in found.captions])
    text = torch.empty(0)  # features of the distinct captions
    if captions and extractor.encode_text is not None:
        text = extractor.encode_text(list(place))

    def compute(metric: str) -> dict[str, Value]:
        if metric == "frechet" and reference is not None:
            return {metric: metrics.frechet(found.statistics, reference.statistics)}
        x = _features(found, metric)
        if metric == "retrieval":
            return metrics.retrieval(x, text, own)
        if metric == "clip-score":
            return {metric: metrics.clip_score(x, text[own], scale=extractor.logit_scale)}
        if metric == "is":
            if extractor.logits is None:
                logits = extractor.logit_scale * metrics.cosines(x, text)
            else:
                logits = extractor.logits(x)
            return {metric: metrics.inception_score(logits, splits=params.splits, seed=seed)}
        assert reference is not None
        y = _features(reference, metric)
        if metric == "kid":
            subsets, size = params.subsets, params.subset_size
            return {metric: metrics.kid(x, y, subsets=subsets, size=size, seed=seed)}
        if metric == "recall":
            x, y = y, x
        return {metric: metrics.precision(x, y, neighbours=params.neighbours)}

    provenance = _provenance(extractor, found, seed, command)
    for metric in dict.fromkeys(wanted):
        against = reference.n if reference and metric in AGAINST_REFERENCE else None
        how = {**provenance, "n_reference": against}
        for name, one in compute(metric).items():  # retrieval has four values
            yield Measurement(name, one.value, one.std, how, one.details)


def _features(one: FeatureSet, metric: str) -> Tensor:
    if one.features is None:
        raise GlideError(
            f"{metric} needs the features of every reference image, and the file holds only their "
            "mean and covariance. Give images, or a file that `FeatureSet.save` wrote.",
            "save_stats",
        )
    return one.features


def _check_same(extractor: FeatureExtractor, found: FeatureSet, reference: FeatureSet) -> None:
    theirs = reference.extractor
    if not theirs:
        log.warning("the reference file does not say which extractor made it")
        return
    if any(theirs.get(key) != extractor.identity[key] for key in ("sha256", "resize", "dimension")):
        raise GlideError(
            f"The reference was measured with {theirs.get('name')} "
            f"(sha256 {str(theirs.get('sha256'))[:12]}), the images with {extractor.name} "
            f"(sha256 {extractor.sha256[:12]}). Use the same extractor for both."
        )
    for what in ("crop", "size"):
        one, other = getattr(found, what), getattr(reference, what)
        if one != other:
            message = "the %s of the images is %s and that of the reference %s: this changes values"
            log.warning(message, what, one, other)


def _provenance(
    extractor: FeatureExtractor, found: FeatureSet, seed: int, command: str
) -> dict[str, Any]:
    versions = {"glide": __version__, "torch": str(torch.__version__)}
    if library := extractor.library:
        versions[library] = version(library)
    identity = extractor.identity
    return {
        "n": found.n,
        "crop": found.crop,
        "size": found.size,
        "extractor": identity.pop("name"),
        **identity,
        "seed": seed,
        "skipped": len(found.skipped),
        "versions": versions,
        "command": command,
    }
