"""The images to be measured: a folder, a list or shards, cropped and in a fixed order."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from glide_core.data.decode import read_image
from glide_core.data.entries import Entry, Piece, Unusable, decode_text, few, suffix
from glide_core.data.listing import list_images, list_table
from glide_core.errors import GlideError
from glide_core.images import from_pil, resize


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
    crop: str = "centre"  # of glide_core.names.CROPS
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
            pixels = centre_square(pixels)
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
            raise GlideError(f"{self.where} holds {len(self)} images, and --n asks for {count}.")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        kept = sorted(order[:count].tolist())
        return replace(self, entries=tuple(self.entries[i] for i in kept))

    def with_captions(self, path: Path) -> ImageSet:
        """Replace captions by those of a file: by name (.csv, .jsonl) or one per line (others)."""
        try:
            if suffix(path.name) in ("csv", "tsv", "jsonl", "json", "ndjson", "parquet"):
                listed = list_table(path).entries
                by_name = {e.name: e.captions[0] for e in listed if not e.problem}
                wrong = [f"{e.name} {e.problem}" for e in listed if e.problem]
                wrong += [f"{e.name} is missing" for e in self.entries if e.name not in by_name]
                if wrong:
                    raise GlideError(
                        f"{path}: {few(wrong)}. Expected a caption for every image of {self.where}."
                    )
                captions = [by_name[entry.name] for entry in self.entries]
            else:
                captions = decode_text(Piece(path).read()).rstrip().splitlines()
        except (OSError, Unusable) as error:
            raise GlideError(f"The captions {path} cannot be read: {error}.") from error
        if len(captions) != len(self):
            raise GlideError(
                f"{path} holds {len(captions)} captions for {len(self)} images of {self.where}. "
                "Expected one per line, in the order of the image names."
            )
        pairs = zip(self.entries, captions, strict=True)
        return replace(self, entries=tuple(replace(e, captions=(c.strip(),)) for e, c in pairs))

    @property
    def crop_name(self) -> str:
        """The crop and resize, for the provenance."""
        cut = "centre square" if self.crop == "centre" else "none"
        return cut if self.size is None else f"{cut}, PIL bicubic to {self.size}x{self.size}"


def find_images(where: str | Path, *, crop: str = "centre", size: int | None = None) -> ImageSet:
    """List the images of a folder, a list or shards without opening them.

    where: a folder (with subfolders), with captions in a .txt or .json beside each image or in PNGs
        that `glide` wrote; a folder of tars, one tar, or a brace pattern of tars
        (a-{0000..0003}.tar) with .txt or .json members; a .csv or .jsonl with the columns image and
        caption; a .txt with one path per line. The first of several captions is used.
    crop: "centre" cuts out the largest centre square (paper, App. A.2); "none".
    GlideError if there are no images.
    """
    path = Path(where)
    if path.is_file() and suffix(path.name) == "txt":
        try:
            lines = map(str.strip, decode_text(Piece(path).read()).splitlines())
        except Unusable as error:
            raise GlideError(f"{where} cannot be read as a list of paths: it {error}.") from error
        entries = [Entry(line, Piece(path.parent / line)) for line in lines if line]
    else:
        entries = list_images(path).entries
    if not entries:
        raise GlideError(f"{where} names no images. Expected one path per line.")
    return ImageSet(str(where), tuple(entries), crop, size)


def centre_square(pixels: Tensor) -> Tensor:
    """Return the largest centre square of images [..., H, W]."""
    height, width = pixels.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[..., top : top + side, left : left + side]


def _png_prompt(data: bytes) -> str:
    """Return the prompt in a PNG that `glide` wrote, or ""."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()  # PNG text can follow the pixels
        text = image.info.get("glide")
    try:
        metadata = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return ""
    prompt = metadata.get("prompt") if isinstance(metadata, dict) else None
    return prompt if isinstance(prompt, str) else ""
