"""Fetch a file of the catalog, when asked to and never otherwise.

Data goes to a `.part` file beside the destination, is checked, and is moved into place in one step:
a file under its own name is always whole. An interrupted download goes on where it stopped, if the
server still has the same file.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from glide_core.checkpoints.catalog import Entry
from glide_core.checkpoints.detect import detect_model_type
from glide_core.checkpoints.files import read_shapes
from glide_core.checkpoints.loading import inspect
from glide_core.config import GlideConfig
from glide_core.errors import GlideError

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all (None: not known)

_CHUNK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte


def download(
    entry: Entry,
    directory: Path,
    progress: Progress | None = None,
    *,
    timeout: float = _TIMEOUT,
) -> Path:
    """Fetch `entry` into `directory` and return its path; a file already there is left alone.

    Checked: length, size and sha256 as far as they are known, and that it is the kind of model it
    should be. GlideError for anything else; what came so far stays in the `.part` file only while
    going on from it makes sense.
    """
    if entry.url is None:
        raise GlideError(f"{entry.name} ships with the package: there is nothing to download.")
    target = directory / entry.filename
    if target.exists():
        return target
    part = directory / f".{entry.filename}.part"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _fetch(entry, part, progress or (lambda done, total: None), timeout)
    except (OSError, http.client.HTTPException) as error:
        if not _tag_file(part).exists():  # nothing to recognise the rest by
            part.unlink(missing_ok=True)
        reason = getattr(error, "reason", None) or error
        raise GlideError(
            f"Could not download {entry.url} to {directory}: {reason}. Check the connection and "
            "the room on the disk, and try again: it goes on where it stopped if the server can."
        ) from error
    try:
        _check(entry, part)
    except GlideError:
        _discard(part)
        raise
    try:
        os.link(part, target)  # unlike a rename, this never replaces a file that has appeared
    except FileExistsError:
        pass  # the same file, by another download
    except OSError:  # file systems without links
        part.replace(target)
    _discard(part)
    return target


def _fetch(entry: Entry, part: Path, progress: Progress, timeout: float) -> None:
    """Bring `part` to its full length, going on from what is there when the server agrees."""
    assert entry.url is not None
    if urlsplit(entry.url).scheme not in ("http", "https"):
        raise GlideError(f"{entry.url} is no web address. Expected https://...")
    request = urllib.request.Request(entry.url, headers={"User-Agent": "glide"})
    tag_file = _tag_file(part)
    done = part.stat().st_size if part.exists() and tag_file.exists() else 0
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", tag_file.read_text())  # another file: sent from its start
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing is left to send, or the file became shorter
            _discard(part)
            return _fetch(entry, part, progress, timeout)
        raise
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            _discard(part)
            raise OSError("the server sent another part than the one asked for")
        done = done if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        _check_size(entry, total)
        _check_room(part.parent, (total or 0) - done)
        etag = response.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):
            tag_file.write_text(etag)
        else:
            tag_file.unlink(missing_ok=True)
        with part.open("ab" if resumed else "wb") as file:
            progress(done, total)
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done:,} of {total:,} bytes")
    return None


def _check(entry: Entry, part: Path) -> None:
    """Refuse a file that is not what the catalog says."""
    _check_size(entry, part.stat().st_size)
    if entry.sha256 is not None:
        digest = hashlib.sha256()
        with part.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != entry.sha256:
            raise GlideError(
                f"{entry.url} gave a file with sha256 {digest.hexdigest()}, not {entry.sha256}. "
                "It is not the published file, and was deleted."
            )
    try:
        kind = kind_of(part)
    except GlideError as error:
        raise GlideError(f"{entry.url} gave no model; it was deleted. {error}") from error
    if kind != entry.kind:
        raise GlideError(
            f"{entry.url} gave a model of the kind '{kind}'; it was deleted. "
            f"Expected '{entry.kind}'."
        )


def kind_of(path: Path) -> str:
    """The kind of model in a file, in the catalog's words."""
    config = inspect(path)
    return (
        config.kind
        if isinstance(config, GlideConfig)
        else detect_model_type(read_shapes(path).shapes)
    )


def _check_size(entry: Entry, size: int | None) -> None:
    if entry.size is not None and size is not None and size != entry.size:
        raise GlideError(
            f"{entry.url} is a file of {size:,} bytes. Expected {entry.size:,}: it is not the "
            "published file."
        )


def _check_room(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise GlideError(
            f"{directory} has {free:,} bytes left and the file needs {needed:,}. Make room, or set "
            "GLIDE_MODELS to a folder on another disk."
        )


def _tag_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag_file(part).unlink(missing_ok=True)
