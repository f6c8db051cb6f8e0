"""Features of a set of images: extracted from files, saved and loaded."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glide_core.data.entries import few
from glide_core.errors import GlideError
from glide_core.evaluation import metrics
from glide_core.evaluation.features import FeatureExtractor
from glide_core.evaluation.image_set import ImageSet, LoadedImage
from glide_core.evaluation.metrics import Statistics
from glide_core.io import atomic_write

_IDENTITY = ("name", "sha256", "dimension", "resize")


@dataclass(frozen=True)
class FeatureSet:
    """Features of a set of images, and how they were made."""

    features: Tensor | None  # [n, D] on the CPU; None: a file held only mean and covariance
    n: int  # 0: unknown
    extractor: Mapping[str, Any]  # name, sha256, dimension, resize; {}: unknown
    crop: str
    size: str  # "64x64" or "mixed"
    names: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # unreadable files, with the reason
    stored: Statistics | None = None  # read from a file

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and covariance; computed on first use, since they hold D^2 numbers."""
        if self.stored is not None:
            return self.stored
        assert self.features is not None
        return metrics.statistics(self.features)

    def save(self, path: Path) -> None:
        """Write features, mean (mu), covariance (sigma) and provenance as .npz, atomically."""
        assert self.features is not None
        about = {"extractor": dict(self.extractor), "crop": self.crop, "size": self.size}
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                mu=self.statistics.mean.numpy(),
                sigma=self.statistics.covariance.numpy(),
                n=np.array(self.n),
                features=self.features.numpy(),
                about=np.array(json.dumps(about)),
            )

    @staticmethod
    def load(path: Path) -> FeatureSet:
        """Read what `save` wrote, or a file with mu and sigma only (pytorch-fid's)."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            mean, covariance = (torch.from_numpy(arrays[k]).double() for k in ("mu", "sigma"))
            about = json.loads(str(arrays["about"])) if "about" in arrays else {}
            features = torch.from_numpy(arrays["features"]) if "features" in arrays else None
            count = int(arrays["n"]) if "n" in arrays else 0
        except FileNotFoundError as error:
            raise GlideError(f"There is no file {path}.") from error
        except Exception as error:  # a damaged zip raises almost anything
            raise GlideError(
                f"{path} holds no statistics ({type(error).__name__}: {error}). Expected .npz with "
                "mu and sigma, as `glide evaluate IMAGES --save-stats` writes it."
            ) from error
        return FeatureSet(
            features=features,
            n=count,
            extractor=about.get("extractor", {}),
            crop=about.get("crop", "unknown"),
            size=about.get("size", "unknown"),
            stored=Statistics(mean, covariance, count),
        )


def read_features(
    extractor: FeatureExtractor,
    source: ImageSet,
    *,
    batch: int = 32,
    device: torch.device | str = "cpu",
    captions: bool = False,
    workers: int = 0,
    progress: Callable[[int], object] | None = None,
) -> FeatureSet:
    """Read images in order and extract their features, `batch` at a time.

    captions: an image without one is an error. workers: processes that decode images; 0: this one.
    progress: called with 1 for every image. Unreadable images are left
    out and listed in `skipped`. GlideError if fewer than two remain or a feature is not finite.
    """
    parts, names, texts, sizes = [], [], [], set()
    skipped: list[str] = []

    def readable() -> Iterator[LoadedImage]:
        for one in source.read(workers):
            if progress:
                progress(1)
            if isinstance(one, str):
                skipped.append(one)
            elif captions and not one.caption:
                raise GlideError(
                    f"{one.name} has no caption. Expected a .txt or .json file beside it, a PNG "
                    "that `glide generate` wrote, or --captions FILE."
                )
            else:
                yield one

    for _, same_size in itertools.groupby(readable(), key=lambda one: one.pixels.shape):
        while group := list(itertools.islice(same_size, batch)):
            stacked = torch.stack([one.pixels for one in group]).to(device)
            values = extractor.encode_image(stacked).cpu()
            finite = values.isfinite().all(dim=1).tolist()
            if wrong := [one.name for one, good in zip(group, finite, strict=True) if not good]:
                raise GlideError(f"{extractor.name} gives NaN or infinity for {few(wrong)}.")
            parts.append(values)
            names += [one.name for one in group]
            texts += [one.caption for one in group]
            sizes.add(f"{stacked.shape[3]}x{stacked.shape[2]}")
    if len(names) < 2:
        raise GlideError(
            f"{source.where} has {len(names)} readable image{'s' if not names else ''}"
            f"{f' ({few(skipped)})' if skipped else ''}. Expected 2 or more."
        )
    return FeatureSet(
        features=torch.cat(parts),
        n=len(names),
        extractor={key: getattr(extractor, key) for key in _IDENTITY},
        crop=source.crop_name,
        size=sizes.pop() if len(sizes) == 1 else "mixed",
        names=tuple(names),
        captions=tuple(texts),
        skipped=tuple(skipped),
    )
