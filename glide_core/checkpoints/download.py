"""Download a file of the catalog, only when asked to.

One process at a time downloads to a target (a lock file is beside it); the others wait for it.
Data goes to a hidden `.part` file, is checked, and is then moved to its own name unless that exists
by then. An interrupted download is resumed if the server still has the same file: the partial
file's name holds a hash of the address and the ETag.
Written here because huggingface_hub and pooch resume without If-Range or not at all, so that a file
that has changed on the server would be joined from two halves.
"""

from __future__ import annotations

import glob
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from glide_core.checkpoints.catalog import Entry
from glide_core.checkpoints.loading import kind_of
from glide_core.errors import GlideError, as_glide_error
from glide_core.io import check_folder, move_if_free, sha256_file

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all (None: not known)

_CHUNK = 1 << 16
_TIMEOUT = 60.0  # seconds without a byte
_DEADLINE = 24 * 3600.0  # seconds for the download, and for waiting for another one
_MAX_SIZE = 20 << 30  # bytes; the released models have at most 1.6e9
_NETWORK = (OSError, http.client.HTTPException)


def download(entry: Entry, directory: Path, progress: Progress = lambda done, total: None) -> Path:
    """Download `entry` into `directory` and return its path; an existing file is left alone.

    Checked before the file gets its name: length, size and sha256 as far as they are known, and the
    kind of model. GlideError for anything else, and for a file that was created there meanwhile;
    the partial file is kept only when the download can be resumed.
    """
    if entry.url is None:
        raise GlideError(f"{entry.name} ships with the package: there is nothing to download.")
    if urlsplit(entry.url).scheme not in ("http", "https"):
        raise GlideError(f"{entry.url} is not a web address. Expected https://...")
    target = directory / entry.filename
    check_folder(directory)
    message = f"Could not download {entry.url} to {directory}; trying again may resume it"
    with as_glide_error(message, (*_NETWORK, ValueError)):  # ValueError: of an address or a header
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / f".{entry.filename}.lock", timeout=_DEADLINE):
            if not os.path.lexists(target):
                part = _fetch(entry, entry.url, target, progress)
                if not move_if_free(part, target):
                    part.unlink()
                    raise GlideError(f"{target} was created meanwhile and is not overwritten.")
            if not target.is_file():
                raise GlideError(f"{target} exists and is not a file. Choose another folder.")
    return target


def _fetch(entry: Entry, url: str, target: Path, progress: Progress) -> Path:
    """Download to a partial file, from where an earlier one ends when the server has the same file.

    Called with the lock held: no other process writes. Gives the checked file.
    """
    with _request(url) as whole:
        tag, length = (whole.headers.get(name, "") for name in ("ETag", "Content-Length"))
        total = int(length) if re.fullmatch(r"[0-9]{1,15}", length) else None
        resumable = tag.startswith('"')  # a weak one, W/"...", does not identify bytes
        identity = hashlib.sha256(f"{url} {tag}".encode()).hexdigest()[:16]
        part = target.with_name(f".{target.name}.{identity}.part")
        for old in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
            if old != part or not resumable:
                old.unlink()
        try:
            done = part.stat().st_size if part.exists() else 0
            if done == 0 or done != total:  # else all of it has come, and was not published
                rest = _rest(url, done, tag) if 0 < done < (total or 0) else None
                if rest is None:
                    part.unlink(missing_ok=True)
                    done = 0
                with rest or whole as response:
                    _receive(entry, part, response, done, total, progress)
            _check(entry, part)
        except (*_NETWORK, ValueError) as error:
            # not the published file, or nothing to recognise the rest by
            if not resumable or isinstance(error, ValueError):
                part.unlink(missing_ok=True)
            raise
    return part


def _rest(url: str, done: int, tag: str) -> http.client.HTTPResponse | None:
    """The file with this ETag from byte `done`; None if the server does not send that."""
    with suppress(urllib.error.HTTPError):
        response = _request(url, {"Range": f"bytes={done}-", "If-Range": tag})
        if response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            return response
        response.close()
    return None


def _request(url: str, headers: Mapping[str, str] | None = None) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "glide", **(headers or {})})
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
    return response


def _receive(
    entry: Entry,
    part: Path,
    response: http.client.HTTPResponse,
    done: int,
    total: int | None,
    progress: Progress,
) -> None:
    """Append an answer to a partial file of `done` bytes."""
    limit, until = entry.size or _MAX_SIZE, time.monotonic() + _DEADLINE
    free = shutil.disk_usage(part.parent).free
    if (total or 0) - done > free:
        raise GlideError(f"{part.parent} has {free:,} bytes left, too few: choose another folder.")
    progress(done, total)
    with part.open("ab") as file:
        while chunk := response.read1(_CHUNK):  # what has come is kept if the rest does not
            file.write(chunk)
            done += len(chunk)
            if max(done, total or 0) > limit:
                raise GlideError(f"{entry.url} has more bytes than the expected {limit:,}.")
            if time.monotonic() > until:
                raise OSError(f"the deadline passed after {done:,} bytes")
            progress(done, total)
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done:,} of {total:,} bytes")


def _check(entry: Entry, part: Path) -> None:
    """Refuse a file that is not what the catalog says."""
    size = part.stat().st_size
    if entry.size not in (None, size):
        raise GlideError(f"{entry.url} gave {size:,} bytes. Expected {entry.size:,}.")
    if entry.sha256 and (found := sha256_file(part)) != entry.sha256:
        raise GlideError(f"{entry.url} gave a file with sha256 {found}, not {entry.sha256}.")
    try:
        kind = kind_of(part)
    except GlideError as error:
        raise GlideError(f"{entry.url} gave no model; it was deleted. {error}") from error
    if kind != entry.kind:
        raise GlideError(f"{entry.url} gave a model of kind '{kind}'. Expected '{entry.kind}'.")
