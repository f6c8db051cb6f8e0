"""Open training data: the format is detected from the content, not from the name."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

from glide_core.data.check import Checked, OnBad, check, load_check, usable
from glide_core.data.decode import PixelCache
from glide_core.data.entries import IMAGE_SUFFIXES, Listing, few, suffix
from glide_core.data.folders import list_folder, walk
from glide_core.data.lists import list_rows
from glide_core.data.shards import expand, list_shards
from glide_core.data.source import ImageSource
from glide_core.errors import GlideError

TXT = "txt"
EXPECTED = (
    "Expected a folder of images with .txt captions beside them, a JSONL or CSV list, or "
    "webdataset shards (.tar)"
)
_LISTS = ("metadata.jsonl", "metadata.csv")  # as Hugging Face's image folders have them
_ZIP = b"PK\x03\x04"
_PACKED = {
    _ZIP: "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")


def open_source(
    path: Path | str,
    *,
    on_bad: OnBad = "refuse",
    caption_key: str = TXT,
    side: int = 64,
    center_crop: bool = False,
    flip: bool = False,
    memory_mb: int = 1024,
    report: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    known: Path | None = None,
    run_once: Callable[[Callable[[], Checked]], Checked] = lambda make: make(),
) -> ImageSource:
    """Open training data and check all of it.

    path: a folder of images with captions, a JSONL or CSV list, a .tar, a folder of tars or a
        brace pattern of them.
    on_bad: "refuse" raises an error that names what is bad, "skip" leaves it out.
    caption_key: ending of the caption files, ending of a shard's caption members, or column.
    side: in pixels, of the images that training asks for; smaller ones are enlarged.
    center_crop: crop squares from the center, not at random.
    flip: mirror half of the images.
    memory_mb: for decoded images; those that do not fit are decoded at every use.
    report: called with each line of the data's report (one process of many should print it).
    progress: called with (done, all) after each image that was checked.
    workers: threads that check.
    known: a file that `save_check` wrote; if it is of these files, they are not decoded again.
    run_once: calls a function in one process and returns its result in all.
    Raises GlideError where the path holds no training data, or as `on_bad` says.
    """
    if on_bad not in ("refuse", "skip"):
        raise GlideError(f'on_bad is {on_bad!r}. Expected "refuse" or "skip".')
    listing = list_images(Path(path), caption_key)
    cache = PixelCache(len(listing.entries), memory_mb * 2**20)

    def checked_once() -> Checked:
        before = load_check(known, listing) if known is not None else None
        return before or check(listing, cache, side, progress=progress, workers=workers)

    checked = run_once(checked_once)
    entries, sizes, found = usable(str(path), listing, checked, on_bad=on_bad, side=side)
    if report is not None:
        for line in found.lines():
            report(line)
    source = ImageSource(
        entries, sizes, found, cache, side=side, center_crop=center_crop, flip=flip
    )
    source.checked = checked
    return source


def list_images(path: Path, caption_key: str = TXT) -> Listing:
    """List all images of a path, see `open_source`, without opening them.

    An image without a caption is listed with a problem. Raises GlideError where there is no image.
    """
    if path.is_dir():
        listing = _list_directory(path, caption_key)
    elif path.exists():
        listing = _list_file(path, caption_key)
    elif "{" in str(path):
        shards = expand(str(path))
        for shard in shards:
            _must_be_tar(shard)
        listing = list_shards(shards, caption_key)
    else:
        raise GlideError(f"There is no file or folder {path}. {EXPECTED}: check the name.")
    if not listing.entries:
        raise GlideError(f"{path} names no images. {EXPECTED}.")
    return listing


def _list_directory(path: Path, caption_key: str) -> Listing:
    tars = sorted(p for p in path.iterdir() if suffix(p.name) == "tar" and p.name[0] != ".")
    images = any(suffix(p.name) in IMAGE_SUFFIXES for p in walk(path))
    if tars and images:
        raise GlideError(
            f"{path} holds images and tars ({few([t.name for t in tars])}). Expected one or the "
            "other: name a tar itself, or move the tars away."
        )
    if tars:
        for tar in tars:
            _must_be_tar(tar)
        return list_shards(tars, caption_key)
    lists = [path / name for name in _LISTS if (path / name).is_file()]
    if not images and not lists:
        raise GlideError(f"{path} and its subfolders hold no images. {EXPECTED}.")
    listing = list_folder(path, caption_key)
    if lists and not any(entry.captions for entry in listing.entries):
        return list_rows(lists[0], _column(caption_key))
    return listing


def _list_file(path: Path, caption_key: str) -> Listing:
    start = _start(path)
    packed = next((name for magic, name in _PACKED.items() if start.startswith(magic)), None)
    if packed:
        raise GlideError(
            f"{path} is compressed ({packed}), so that single images cannot be "
            "read. Expected a plain .tar or a folder: unpack it first."
        )
    if suffix(path.name) == "tar" or tarfile.is_tarfile(path):
        _must_be_tar(path)
        return list_shards([path], caption_key)
    if start.startswith(_IMAGE_STARTS):
        raise GlideError(f"{path} is a single image. {EXPECTED}: give its folder.")
    return list_rows(path, _column(caption_key))


def _must_be_tar(path: Path) -> None:
    if not tarfile.is_tarfile(path):
        raise GlideError(f"{path} is not a tar. Expected webdataset shards: check the file.")
    if _start(path).startswith(tuple(_PACKED)):
        raise GlideError(f"{path} is a compressed tar. Expected a plain .tar: unpack it first.")


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise GlideError(f"{path} cannot be read: {error.strerror}. {EXPECTED}.") from error


def _column(caption_key: str) -> str:
    return "" if caption_key == TXT else caption_key
