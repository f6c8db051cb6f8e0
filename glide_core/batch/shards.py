"""Generate rows with one loaded pipeline, and write them as one shard: a tar or a Parquet file."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_core.data.tables import open_file
from glide_core.errors import GlideError, as_glide_error, is_out_of_memory, shorten
from glide_core.io import atomic_write, check_folder, encode_png, png_text
from glide_core.request import GenerationRequest, batches

if TYPE_CHECKING:
    from glide_core.pipeline import GlidePipeline

FAILED = "failed.jsonl"
_NAME = re.compile(r"shard-(\d{8,})-(\d{8,})\.(tar|parquet)")
Numbered = tuple[int, GenerationRequest]  # a row's number, and what it asks for
# A row's number, its PNG and its metadata; of a row that failed no bytes, and what failed.
_Sample = tuple[int, bytes, dict[str, Any]]


class Folder:
    """A flat set of files in a local folder or an object store (a URL such as s3://bucket/folder).

    fsspec reads and writes them; a file is complete or absent.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        self._local = "://" not in self.url
        if self._local:
            check_folder(Path(self.url))
            # not by its URL, in which some characters of a path have a meaning
            self._fs, self._root = fsspec.filesystem("file"), str(Path(self.url).absolute())
            return
        with as_glide_error(f"{shorten(self.url, 200)} cannot be opened"):
            # Listings are not cached: other processes write to the same folder.
            self._fs, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)

    def path(self, name: str) -> str:
        return f"{self.url}/{name}"

    def names(self) -> list[str]:
        """The names of all files, sorted; empty if the folder does not exist yet."""
        message = f"{shorten(self.url, 200)} cannot be listed"
        with as_glide_error(message), suppress(FileNotFoundError):
            return sorted(str(p).rsplit("/", 1)[-1] for p in self._fs.ls(self._root, detail=False))
        return []

    def read(self, name: str) -> bytes:
        with open_file(self.path(name)) as file:
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        """Write a file that appears complete under its name, or not at all."""
        if self._local:
            with atomic_write(Path(self.url, name)) as temporary:
                temporary.write_bytes(content)
            return
        with as_glide_error(f"{shorten(self.path(name), 200)} cannot be written"):
            self._fs.pipe_file(f"{self._root}/{name}", content)


@dataclass(frozen=True)
class Result:
    """One row: its image, or why there is none."""

    number: int
    request: GenerationRequest
    image: Any = None  # a PIL image
    error: str = ""


def generate(
    pipe: GlidePipeline, rows: Iterable[Numbered], *, batch_size: int = 4
) -> Iterator[Result]:
    """Generate rows, those with equal settings together; a row that fails stops no other.

    On a CPU images are computed one at a time: as fast, and equal to the last bit in any grouping.
    On a GPU a short batch is filled up, because the size of a batch decides how sums are rounded.
    """
    from glide_core.images import to_pil

    size = 1 if pipe.device.type == "cpu" else batch_size
    waiting = deque(batches(rows, size, lambda row: row[1]))
    while waiting:
        batch = waiting.popleft()
        requests = [request for _, request in batch]
        try:
            images = to_pil(pipe.generate(requests + requests[-1:] * (size - len(batch))))
        except (GlideError, RuntimeError, MemoryError) as error:
            # Out of memory with several images at once says nothing of any row.
            if not (isinstance(error, GlideError) or (size == 1 and is_out_of_memory(error))):
                raise
            if len(batch) == 1:
                yield Result(*batch[0], error=shorten(error, 300) or "out of memory")
            else:
                waiting.extendleft([row] for row in reversed(batch))  # find the one that failed
            continue
        for row, image in zip(batch, images, strict=False):
            yield Result(*row, image=image)


def finished(names: Iterable[str]) -> list[tuple[int, int]]:
    """The ranges of rows (first, last) that these files hold."""
    found = filter(None, map(_NAME.fullmatch, names))
    return sorted((int(match[1]), int(match[2])) for match in found)


def write_shard(
    results: Iterable[Result], folder: Folder, name: str, about: Mapping[str, Any]
) -> int:
    """Write results as a .tar or .parquet; returns the number of failed rows.

    about: what every image's metadata says besides its request. Failed rows are recorded before
    the shard gets its name.
    """
    with ThreadPoolExecutor(1) as pool:  # encodes while the next batch is computed
        encoded = [pool.submit(_encode, result, about) for result in results]
    samples = sorted((each.result() for each in encoded), key=lambda sample: sample[0])
    failed = [said for _, png, said in samples if not png]
    if failed:
        lines = "".join(json.dumps(said) + "\n" for said in failed)
        folder.write(f"{name}.{FAILED}", lines.encode())
    samples = [sample for sample in samples if sample[1]]
    folder.write(name, _tar(samples) if name.endswith(".tar") else _parquet(samples))
    return len(failed)


def _encode(result: Result, about: Mapping[str, Any]) -> _Sample:
    number, request, image = result.number, result.request, result.image
    if image is None:
        return number, b"", {"row": number, "prompt": request.prompt, "error": result.error}
    said = {**request.metadata(), **about, "size": f"{image.width}x{image.height}"}
    return number, encode_png(image, png_text(said)), {"row": number, **said}


def _tar(samples: Sequence[_Sample]) -> bytes:
    """webdataset's layout; no times or owners, so that equal images make equal files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, png, said in samples:
            text = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
            for suffix, data in (("png", png), ("json", text.encode())):
                entry = tarfile.TarInfo(f"{number:08d}.{suffix}")
                entry.size, entry.mode = len(data), 0o644
                tar.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def _parquet(samples: Sequence[_Sample]) -> bytes:
    """One row per image; `image` as Hugging Face's datasets store it, `metadata` as JSON."""
    import pyarrow as pa
    from pyarrow import parquet

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = [("row", pa.int64()), ("prompt", pa.string()), ("seed", pa.uint64())]
    schema = pa.schema([*columns, ("image", image), ("metadata", pa.string())])
    rows = [
        {
            **{key: said[key] for key in ("row", "prompt", "seed")},
            "image": {"bytes": png, "path": f"{number:08d}.png"},
            "metadata": json.dumps(said),
        }
        for number, png, said in samples
    ]
    content = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), content)
    return content.getvalue()
