"""Sets of images to be measured, cropped and in a fixed order, and their features."""

from __future__ import annotations

import io
import itertools
import json
import logging
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from glide_core.data.entries import Entry, Piece, Unusable, few, read_image, suffix
from glide_core.data.listing import list_images, list_table
from glide_core.data.tables import read_lines
from glide_core.errors import GlideError, as_glide_error
from glide_core.evaluation.features import FeatureExtractor
from glide_core.evaluation.metrics import Statistics, statistics
from glide_core.images import FORMATS, from_pil, resize
from glide_core.io import atomic_write

log = logging.getLogger("glide")

_MOST = 1e30  # of a feature: metrics have its sixth power
_MOST_UNPACKED = 1 << 30  # bytes of a compressed file; numbers rarely shrink to a tenth


@dataclass(frozen=True)
class LoadedImage:
    """One image as it was read."""

    name: str
    pixels: Tensor  # [3, H, W] in [-1, 1]
    caption: str  # "" if unknown


@dataclass(frozen=True)
class ImageSet(Dataset[LoadedImage | str]):
    """Images that are listed and not yet opened; indexing opens one, or says why that fails."""

    where: str  # for errors
    entries: tuple[Entry, ...]
    crop: str = "centre"  # or "none"
    size: int | None = None  # side in pixels that images are resized to; None: unchanged

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> LoadedImage | str:
        entry = self.entries[index]
        try:
            data = entry.image.read()
            pixels = from_pil(read_image(data))
        except Unusable as error:
            return f"{entry.name}: {entry.problem or error}"
        if self.crop == "centre":
            height, width = pixels.shape[-2:]
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            pixels = pixels[..., top : top + side, left : left + side]
        if self.size is not None:
            pixels = resize(pixels, (self.size, self.size))
        caption = entry.captions[0] if entry.captions else _png_prompt(data)
        return LoadedImage(entry.name, pixels[0], caption)

    def read(self, workers: int = 0) -> Iterator[LoadedImage | str]:
        """Open the images in order. workers: processes that decode; 0: this process."""
        rng = torch.Generator()  # the loader would otherwise advance the global generator
        yield from DataLoader(self, batch_size=None, num_workers=workers, generator=rng)

    def subset(self, count: int | None, seed: int) -> ImageSet:
        """Select `count` images at random by the seed, in the same order; None: all."""
        if count is None:
            return self
        if count > len(self):
            raise GlideError(f"{self.where} holds {len(self)} images, not {count}.", "n")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        kept = sorted(order[:count].tolist())
        return replace(self, entries=tuple(self.entries[i] for i in kept))

    def with_captions(self, path: Path) -> ImageSet:
        """Replace captions by those of a file: by name (.csv, .jsonl) or one per line (others)."""
        if suffix(path.name) in ("csv", "tsv", "jsonl", "json", "ndjson", "parquet"):
            found = {e.name: e.captions[0] for e in list_table(path).entries if e.captions}
            if missing := [e.name for e in self.entries if e.name not in found]:
                raise GlideError(f"{path} has no caption of {few(missing)} of {self.where}.")
            captions = [found[entry.name] for entry in self.entries]
        else:
            captions = read_lines(path)
        if len(captions) != len(self):
            raise GlideError(f"{path} holds {len(captions)} captions for {len(self)} images.")
        pairs = zip(self.entries, captions, strict=True)
        return replace(self, entries=tuple(replace(e, captions=(c,)) for e, c in pairs))


def find_images(where: str | Path, *, crop: str = "centre", size: int | None = None) -> ImageSet:
    """List the images of a folder, a list or shards without opening them.

    where: a folder, with captions in a .txt or .json beside each image or in PNGs of `glide`; tars
        or a brace pattern of tars; a .csv or .jsonl with the columns image and caption; a .txt with
        one path per line. The first of several captions is used.
    crop: "centre" cuts out the largest centre square (paper, App. A.2); "none".
    """
    path = Path(where)
    if path.is_file() and suffix(path.name) == "txt":
        entries = [Entry(line, Piece(path.parent / line)) for line in read_lines(path)]
    else:
        entries = list_images(path).entries
    if len(entries) < 2:
        raise GlideError(f"{where} has fewer than 2 images.")
    return ImageSet(str(where), tuple(entries), crop, size)


def _png_prompt(data: bytes) -> str:
    """Return the prompt in a PNG that `glide` wrote, or ""."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.load()  # PNG text can follow the pixels
        try:
            prompt = json.loads(image.info["glide"])["prompt"]
        except (KeyError, TypeError, ValueError, RecursionError):
            return ""
    return prompt if isinstance(prompt, str) else ""


@dataclass(frozen=True)
class FeatureSet:
    """Features of a set of images, and how they were made."""

    features: Tensor  # [n, D] on the CPU
    extractor: Mapping[str, Any]  # name, sha256, dimension, resize
    crop: str
    size: str  # "64x64" or "mixed"
    captions: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # unreadable files, with the reason

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and covariance; computed on first use, since they hold D^2 numbers."""
        return statistics(self.features)

    def save(self, path: Path) -> None:
        """Write features, mean (mu), covariance (sigma) and provenance as .npz, atomically."""
        about = {"extractor": dict(self.extractor), "crop": self.crop, "size": self.size}
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                mu=self.statistics.mean.numpy(),
                sigma=self.statistics.covariance.numpy(),
                n=np.array(len(self)),
                features=self.features.numpy(),
                about=np.array(json.dumps(about)),
            )

    @staticmethod
    def load(path: Path) -> FeatureSet | Statistics:
        """Read what `save` wrote, or the statistics in a file without features (pytorch-fid's)."""
        if not path.is_file():  # a pipe would wait for its writer
            raise GlideError(f"{path} was not found, or is not a regular file.")
        message = f"{path} holds no statistics (.npz with mu and sigma)"
        with as_glide_error(message, setting="save_stats"):  # a damaged zip raises almost anything
            with zipfile.ZipFile(path) as archive:  # what a small file unpacks to may be huge
                unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > max(_MOST_UNPACKED, 10 * path.stat().st_size):
                raise ValueError(f"it unpacks to {unpacked:,} bytes")
            try:
                with np.load(path, allow_pickle=False) as file:
                    arrays = dict(file)
            except MemoryError as error:  # of a size that only the file's header says
                raise ValueError(error) from error
            keys = ("mu", "sigma", "features")[: 2 + ("features" in arrays)]
            numbers = [arrays[key].astype(np.float64, casting="same_kind") for key in keys]
            given = [torch.from_numpy(array) for array in numbers]
            count, side = int(arrays.get("n", 0)), len(given[0])
            about = json.loads(str(arrays.get("about", "{}")))
            extractor = dict(about.get("extractor", {}))
            shapes = [(side,), (side, side), (count, side)][: len(given)]
            if side == 0 or count < 0 or [tuple(one.shape) for one in given] != shapes:
                raise ValueError(f"the shapes are not {shapes}")
            if not all((one.abs() <= _MOST).all() for one in given):
                raise ValueError(f"a number is not finite, or above {_MOST:g}")
        if len(given) == 2 or not extractor:
            return Statistics(given[0], given[1], count)
        crop, size = (about.get(key, "unknown") for key in ("crop", "size"))
        return FeatureSet(given[2], extractor, crop, size)


def read_features(
    extractor: FeatureExtractor,
    source: ImageSet,
    *,
    batch: int = 32,
    captions: bool = False,
    workers: int = 0,
    progress: bool = False,
) -> FeatureSet:
    """Read images in order and extract their features, `batch` at a time.

    captions: an image without one is an error. workers: processes that decode images; 0: this one.
    Unreadable images are left out, with a warning. GlideError if fewer than two remain or a feature
    is not finite.
    """
    from tqdm import tqdm

    parts, texts, sizes = [], [], set()
    skipped: list[str] = []

    def readable() -> Iterator[LoadedImage]:
        images = source.read(workers)
        for one in tqdm(images, source.where, len(source), unit="image", disable=not progress):
            if isinstance(one, str):
                skipped.append(one)
            elif captions and not one.caption:
                raise GlideError(f"{one.name} has no caption (.txt, .json or prompt).", "captions")
            else:
                yield one

    for _, same_size in itertools.groupby(readable(), key=lambda one: one.pixels.shape):
        while group := list(itertools.islice(same_size, batch)):
            stacked = torch.stack([one.pixels for one in group])
            values = extractor.encode_image(stacked).cpu()
            pairs = zip(group, values.isfinite().all(dim=1), strict=True)
            if bad := [one.name for one, finite in pairs if not finite]:
                raise GlideError(f"{extractor.name} gives NaN or infinity for {few(bad)}.")
            parts.append(values)
            texts += [one.caption for one in group]
            sizes.add(f"{stacked.shape[3]}x{stacked.shape[2]}")
    if skipped:
        log.warning("left out: %s", few(skipped, 20))
    crop = "centre square" if source.crop == "centre" else "none"
    if source.size is not None:
        crop += f", PIL bicubic to {source.size}x{source.size}"
    if len(texts) < 2:
        raise GlideError(f"{source.where} has fewer than 2 readable images.")
    return FeatureSet(
        features=torch.cat(parts),
        extractor=extractor.identity,
        crop=crop,
        size=sizes.pop() if len(sizes) == 1 else "mixed",
        captions=tuple(texts),
        skipped=tuple(skipped),
    )
