"""Download a file of the catalog, only when asked to.

One process at a time downloads to a target (a lock file is beside it); the others wait for it.
Data goes to a hidden `.part` file, is checked, and is then renamed: a file under its own name is
always whole. An interrupted download is resumed if the server has the same file: the partial file's
name holds a hash of the address and the ETag.
Written here because huggingface_hub and pooch resume without If-Range or not at all, so that a file
that has changed on the server would be joined from two halves.
"""

from __future__ import annotations

import glob
import hashlib
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock

from glide_core.checkpoints.catalog import Entry
from glide_core.checkpoints.loading import kind_of
from glide_core.errors import GlideError, as_glide_error
from glide_core.io import check_folder, sha256_file

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all (None: not known)

_CHUNK = 1 << 16
_TIMEOUT = 60.0  # seconds without a byte
_DEADLINE = 24 * 3600.0  # seconds for the whole download, waiting for another one included
_MAX_SIZE = 20 << 30  # bytes; the released models have at most 1.6e9
# A strong one: a weak one does not identify bytes. Short enough for a file's name.
_ETAG = re.compile(r'"[\w.:+/=-]{1,70}"', re.ASCII)
_NETWORK = (OSError, http.client.HTTPException)


def download(
    entry: Entry,
    directory: Path,
    progress: Progress = lambda done, total: None,
    *,
    timeout: float = _TIMEOUT,
    deadline: float = _DEADLINE,
) -> Path:
    """Download `entry` into `directory` and return its path; an existing file is left alone.

    timeout: seconds without a byte; deadline: seconds in all. Checked before the file gets its
    name: length, size and sha256 as far as they are known, and the kind of model. GlideError for
    anything else; the partial file is kept only when the download can be resumed.
    """
    if entry.url is None:
        raise GlideError(f"{entry.name} ships with the package: there is nothing to download.")
    if urlsplit(entry.url).scheme not in ("http", "https"):
        raise GlideError(f"{entry.url} is not a web address. Expected https://...")
    target = directory / entry.filename
    until = time.monotonic() + deadline
    check_folder(directory)
    message = f"Could not download {entry.url} to {directory}; trying again may resume it"
    with as_glide_error(message, (*_NETWORK, ValueError)):  # ValueError: of an address or a header
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / f".{entry.filename}.lock", timeout=max(0, deadline)):
            if target.exists() and not target.is_file():
                raise GlideError(f"{target} exists and is not a file. Choose another folder.")
            if not target.exists():
                _fetch(entry, target, progress, timeout, until).replace(target)
    return target


def _fetch(entry: Entry, target: Path, progress: Progress, timeout: float, until: float) -> Path:
    """Download to a partial file, from where an earlier one ends when the server has the same file.

    Called with the lock held: no other process writes. Gives the checked file.
    """
    assert entry.url is not None
    begin = f".{target.name}.{hashlib.sha256(entry.url.encode()).hexdigest()[:12]}-"
    part, tag = _earlier(target, begin)
    done = part.stat().st_size if tag else 0
    request = urllib.request.Request(entry.url, headers={"User-Agent": "glide"})
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", tag)  # another file is sent from its start
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:
            raise
        part.unlink()  # nothing is left to send, or the file became shorter
        return _fetch(entry, target, progress, timeout, until)
    with response:
        if response.status != 206:
            part.unlink(missing_ok=True)
            tag, done = response.headers.get("ETag", ""), 0
            if not _ETAG.fullmatch(tag):
                tag = ""
            part = target.with_name(f"{begin}{quote(tag, safe='')}.part")
        try:
            _receive(entry, part, response, done, progress, until)
            _check(entry, part)
        except (*_NETWORK, ValueError) as error:
            # not the published file, or nothing to recognise the rest by
            if not tag or isinstance(error, ValueError):
                part.unlink(missing_ok=True)
            raise
    return part


def _earlier(target: Path, begin: str) -> tuple[Path, str]:
    """The partial file of this address and its ETag, which is empty if there is none.

    All other partial files are removed.
    """
    part, tag = target.with_name(f"{begin}.part"), ""
    for old in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        stored = unquote(old.name.removeprefix(begin).removesuffix(".part"))
        if old.name.startswith(begin) and _ETAG.fullmatch(stored) and not tag:
            part, tag = old, stored
        else:
            old.unlink()
    return part, tag


def _receive(
    entry: Entry,
    part: Path,
    response: http.client.HTTPResponse,
    done: int,
    progress: Progress,
    until: float,
) -> None:
    """Append an answer to a partial file of `done` bytes."""
    if done and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
        raise GlideError(f"{entry.url} sent another part than requested. Try again.")
    length = response.headers.get("Content-Length", "")
    total = done + int(length) if re.fullmatch(r"[0-9]{1,15}", length) else None
    limit = entry.size or _MAX_SIZE
    free = shutil.disk_usage(part.parent).free
    if (total or 0) - done > free:
        raise GlideError(
            f"{part.parent} has {free:,} bytes left, too few for this file. Make room, or set "
            "GLIDE_MODELS to a folder on another disk."
        )
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
