"""From pictures to features, and from features to measurements with their protocol."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from glide_core.data.entries import Unusable, few
from glide_core.errors import GlideError
from glide_core.evaluation import metrics
from glide_core.evaluation.features import Classifies, FeatureExtractor, ReadsText
from glide_core.evaluation.frechet import Statistics, frechet, statistics
from glide_core.evaluation.metrics import Value
from glide_core.evaluation.pictures import Picture, Pictures, batches
from glide_core.evaluation.protocol import Measurement, Protocol, versions

log = logging.getLogger("glide")

AGAINST_REFERENCE = ("frechet", "kid", "precision", "recall")
WITH_CAPTIONS = ("clip-score", "retrieval")
METRICS = ("frechet", "kid", "precision", "recall", "is", "clip-score", "retrieval")


@dataclass(frozen=True)
class Measured:
    """A set of pictures as features, and what it was made from."""

    features: Tensor | None  # [n, D] on the CPU; None: a file held only mean and covariance
    n: int  # 0: the file does not say
    extractor: Mapping[str, Any]  # name, sha256, dimension, resize; {} where a file does not say
    crop: str
    size: str  # "64x64", or "mixed"
    names: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # what could not be read, and why
    stored: Statistics | None = None  # where a file held them

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and covariance: D^2 numbers, so that only what needs them pays for them."""
        if self.stored is not None:
            return self.stored
        assert self.features is not None
        return statistics(self.features)


@dataclass(frozen=True)
class Choices:
    """The metrics' own parameters, at their papers' values."""

    subsets: int = 100  # KID
    subset_size: int = 1000
    neighbours: int = 3  # precision and recall
    splits: int = 10  # inception score


def check_possible(
    wanted: Sequence[str], extractor: FeatureExtractor, *, reference: bool, captions: bool = True
) -> None:
    """Refuse metrics that this extractor, or the lack of a reference, rules out."""
    for metric in wanted:
        if metric not in METRICS:
            raise GlideError(f"there is no metric {metric!r}. Expected {', '.join(METRICS)}.")
        reads = isinstance(extractor, ReadsText)
        if metric in AGAINST_REFERENCE and not reference:
            raise GlideError(
                f"{metric} compares two sets of pictures, and there is one. Expected a reference: "
                "name its pictures or its statistics with --reference."
            )
        if metric in WITH_CAPTIONS and not reads:
            raise GlideError(
                f"{metric} needs features of captions, and {extractor.name} reads no text. "
                "Expected --features clip:... or open_clip:..."
            )
        if metric == "is" and not reads and not isinstance(extractor, Classifies):
            raise GlideError(
                f"is needs classes, and {extractor.name} knows none. Expected --features "
                "inception:FILE, or clip:... with captions."
            )


def check_counts(wanted: Sequence[str], choices: Choices, *counts: int) -> None:
    """Refuse metrics that sets of so many pictures (the measured one first) are too small for."""
    if "is" in wanted:
        metrics.check_splits(counts[0], choices.splits)
    if "precision" in wanted or "recall" in wanted:
        metrics.check_neighbours(min(counts), choices.neighbours)


def needs_captions(wanted: Sequence[str], extractor: FeatureExtractor) -> bool:
    """Whether every picture must have a caption for these metrics."""
    if any(metric in WITH_CAPTIONS for metric in wanted):
        return True
    return "is" in wanted and not isinstance(extractor, Classifies)


def read_features(
    extractor: FeatureExtractor,
    pictures: Pictures,
    *,
    batch: int = 32,
    device: torch.device | str = "cpu",
    captions: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Measured:
    """Read pictures in their order and extract their features, `batch` at a time.

    captions: refuse a picture without one. progress: told how many pictures more are done.
    Pictures that cannot be read are left out and listed in `skipped`. GlideError if none can, or if
    the extractor gives NaN for one.
    """
    parts, names, texts, sizes, skipped = [], [], [], set(), []

    def readable() -> Iterator[Picture]:
        for found in pictures.read():
            if isinstance(found, Unusable):
                skipped.append(str(found))
                if progress:
                    progress(1)
                continue
            if captions and not found.caption:
                raise GlideError(
                    f"{found.name} has no caption. Expected a .txt or .json beside it, a PNG that "
                    "`glide generate` wrote, or --captions FILE."
                )
            yield found

    for group in batches(readable(), batch):
        stacked = torch.stack([picture.pixels for picture in group]).to(device)
        values = extractor(stacked).cpu()
        finite = values.isfinite().all(dim=1)
        if not bool(finite.all()):
            wrong = [p.name for p, good in zip(group, finite.tolist(), strict=True) if not good]
            raise GlideError(
                f"{extractor.name} gives NaN or infinity for {few(wrong)}. Expected finite "
                "features: check its weights, or leave those pictures out."
            )
        parts.append(values)
        names += [picture.name for picture in group]
        texts += [picture.caption for picture in group]
        sizes.add(f"{stacked.shape[3]}x{stacked.shape[2]}")
        if progress:
            progress(len(group))
    if len(names) < 2:
        raise GlideError(
            f"{pictures.where} gives {len(names)} readable picture{'s' if not names else ''}"
            f"{f' ({few(skipped)})' if skipped else ''}. Expected 2 or more."
        )
    features = torch.cat(parts)
    return Measured(
        features=features,
        n=len(features),
        extractor=_about(extractor),
        crop=pictures.crop_name,
        size=sizes.pop() if len(sizes) == 1 else "mixed",
        names=tuple(names),
        captions=tuple(texts),
        skipped=tuple(skipped),
    )


def measure(
    wanted: Sequence[str],
    extractor: FeatureExtractor,
    found: Measured,
    reference: Measured | None = None,
    *,
    seed: int = 0,
    choices: Choices | None = None,
    command: str = "",
) -> Iterator[Measurement]:
    """Take the wanted metrics, one after the other, each with its protocol."""
    check_possible(wanted, extractor, reference=reference is not None)
    if reference is not None:
        _check_same(extractor, found, reference)
    work = _Work(extractor, found, reference, seed, choices or Choices())
    done: set[str] = set()
    for metric in wanted:
        for name, value in work.values(metric).items():
            if name not in done:
                done.add(name)
                against = reference if metric in AGAINST_REFERENCE else None
                protocol = _protocol(extractor, found, against, seed, command)
                yield Measurement(name, value.value, value.std, protocol, dict(value.details))


@dataclass(frozen=True)
class _Work:
    """One set's features, and what several metrics take from them, once."""

    extractor: FeatureExtractor
    found: Measured
    reference: Measured | None
    seed: int
    choices: Choices

    def values(self, metric: str) -> dict[str, Value]:
        if metric == "frechet":
            assert self.reference is not None
            return {metric: frechet(self.found.statistics, self.reference.statistics)}
        if metric == "kid":
            own, other = self._pair(metric)
            size = self.choices.subset_size
            return {
                metric: metrics.kid(
                    own, other, subsets=self.choices.subsets, size=size, seed=self.seed
                )
            }
        if metric in ("precision", "recall"):
            return {metric: self._manifolds[metric == "recall"]}
        if metric == "is":
            splits = self.choices.splits
            return {metric: metrics.inception_score(self._logits(), splits=splits, seed=self.seed)}
        own, text = _features(self.found, metric), self._text
        known = metrics.distinct(self.found.captions)
        if metric == "retrieval":
            return metrics.retrieval(own, text, self.found.captions)
        place = {caption: i for i, caption in enumerate(known)}
        rows = torch.tensor([place[caption] for caption in self.found.captions])
        assert isinstance(self.extractor, ReadsText)
        return {metric: metrics.clip_score(own, text[rows], scale=self.extractor.logit_scale)}

    def _pair(self, metric: str) -> tuple[Tensor, Tensor]:
        assert self.reference is not None
        return _features(self.found, metric), _features(self.reference, metric)

    def _logits(self) -> Tensor:
        own = _features(self.found, "is")
        if isinstance(self.extractor, Classifies):
            return self.extractor.logits(own).cpu()
        assert isinstance(self.extractor, ReadsText)
        return metrics.class_logits(own, self._text, self.extractor.logit_scale)

    @cached_property
    def _text(self) -> Tensor:
        assert isinstance(self.extractor, ReadsText)
        return self.extractor.encode_text(metrics.distinct(self.found.captions)).cpu()

    @cached_property
    def _manifolds(self) -> tuple[Value, Value]:
        own, other = self._pair("precision")
        return metrics.precision_recall(own, other, neighbours=self.choices.neighbours)


def _features(one: Measured, metric: str) -> Tensor:
    if one.features is None:
        raise GlideError(
            f"{metric} needs the features of every reference picture, and the file holds their "
            "mean and covariance alone: that is enough for frechet. Expected pictures, or a file "
            "that `glide evaluate --save-stats` wrote."
        )
    return one.features


def _about(extractor: FeatureExtractor) -> dict[str, Any]:
    return {key: getattr(extractor, key) for key in ("name", "sha256", "dimension", "resize")}


def _check_same(extractor: FeatureExtractor, found: Measured, reference: Measured) -> None:
    theirs = reference.extractor
    if not theirs:
        log.warning("the reference file does not say which extractor made it: see that it is ours")
    elif any(
        theirs.get(key) != getattr(extractor, key) for key in ("sha256", "resize", "dimension")
    ):
        raise GlideError(
            f"the reference is of {theirs.get('name')} (sha256 {str(theirs.get('sha256'))[:12]}) "
            f"and the pictures of {extractor.name} (sha256 {extractor.sha256[:12]}). Expected one "
            "extractor for both: measure the reference anew."
        )
    for what, one, other in (
        ("crop", found.crop, reference.crop),
        ("size", found.size, reference.size),
    ):
        if theirs and one != other:
            log.warning(
                "the %s of the pictures is %s, that of the reference %s: the difference counts",
                what,
                one,
                other,
            )


def _protocol(
    extractor: FeatureExtractor,
    found: Measured,
    against: Measured | None,
    seed: int,
    command: str,
) -> Protocol:
    return Protocol(
        n=found.n,
        n_reference=None if against is None else against.n,
        crop=found.crop,
        size=found.size,
        extractor=extractor.name,
        sha256=extractor.sha256,
        dimension=extractor.dimension,
        resize=extractor.resize,
        seed=seed,
        skipped=len(found.skipped),
        versions=versions(extractor.library),
        command=command,
    )
