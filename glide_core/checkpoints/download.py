"""Download a file of the catalog, only when asked to.

One process at a time downloads to a target (a lock file is beside it); the others wait for it.
Data goes to a hidden `.part` file of this attempt, is checked, and is then renamed: a file under
its own name is always whole. An interrupted download is resumed if the server has the same file.
Written here because huggingface_hub and pooch resume without If-Range or not at all, so that a file
that has changed on the server would be joined from two halves.
"""

from __future__ import annotations

import glob
import hashlib
import http.client
import os
import re
import secrets
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from glide_core.checkpoints.catalog import Entry
from glide_core.checkpoints.loading import kind_of
from glide_core.errors import GlideError, shorten
from glide_core.io import check_folder, sha256_file

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all (None: not known)

_CHUNK = 1 << 16
_TIMEOUT = 60.0  # seconds without a byte
_DEADLINE = 24 * 3600.0  # seconds for the whole download, waiting for another one included
_MAX_SIZE = 20 << 30  # bytes; the released models have at most 1.6e9
_ETAG = re.compile(r'"[!#-~]{0,200}"')  # a strong one: a weak one does not identify bytes


def download(
    entry: Entry,
    directory: Path,
    progress: Progress | None = None,
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
    target, progress = directory / entry.filename, progress or (lambda done, total: None)
    until = time.monotonic() + deadline
    lock = directory / f".{entry.filename}.lock"
    try:
        check_folder(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(lock) and not lock.is_file():  # waiting would not help
            raise GlideError(f"{lock} exists and is not a file. Remove it.")
        with FileLock(lock, timeout=max(0, deadline)):
            if not target.is_file():
                if os.path.lexists(target):
                    raise GlideError(f"{target} exists and is not a file. Choose another folder.")
                _download(entry, target, progress, timeout, until)
    except GlideError:
        raise
    except Timeout as error:
        raise GlideError(
            f"Another process has been downloading {target} for {deadline:,.0f} seconds."
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        # ValueError: of an address or a header that cannot be parsed
        reason = shorten(getattr(error, "reason", None) or error, 200)
        raise GlideError(
            f"Could not download {entry.url} to {directory}: {reason}. Check the connection and "
            "the free space, and try again: the download is resumed if the server supports it."
        ) from error
    return target


def _download(entry: Entry, target: Path, progress: Progress, timeout: float, until: float) -> None:
    part = _adopt(entry, target)
    try:
        _fetch(entry, part, progress, timeout, until)
        _check(entry, part)
        try:
            os.link(part, target)  # unlike a rename, this never replaces a file that has appeared
        except FileExistsError:
            pass
        except OSError:  # file systems without links
            part.replace(target)
    except (OSError, http.client.HTTPException) as error:
        if not _tag_file(part).exists() or isinstance(error, urllib.error.HTTPError):
            _discard(part)  # nothing to recognise the rest by
        raise
    except ValueError:  # not the published file, or an answer that cannot be parsed
        _discard(part)
        raise
    _discard(part)


def _adopt(entry: Entry, target: Path) -> Path:
    """A partial file of this attempt; the newest earlier one of this address is renamed to it.

    Called with the lock held: no other attempt writes. All other partial files are removed.
    """
    source = hashlib.sha256((entry.url or "").encode()).hexdigest()[:12]
    part = target.with_name(f".{target.name}.{source}-{secrets.token_hex(4)}.part")
    earlier = [p for p in target.parent.glob(f".{glob.escape(target.name)}.*.part") if p.is_file()]
    earlier.sort(key=lambda p: p.stat().st_mtime_ns)
    for old in reversed(earlier):
        usable = old.name.startswith(f".{target.name}.{source}-") and _tag(old)
        if usable and not part.exists():
            _tag_file(old).replace(_tag_file(part))
            old.replace(part)
        else:
            _discard(old)
    return part


def _fetch(entry: Entry, part: Path, progress: Progress, timeout: float, until: float) -> None:
    """Bring `part` to its full length, from where it ends when the server has the same file."""
    assert entry.url is not None
    request = urllib.request.Request(entry.url, headers={"User-Agent": "glide"})
    done = part.stat().st_size if part.exists() else 0
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", _tag(part))  # another file is sent from its start
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing is left to send, or the file became shorter
            _discard(part)
            return _fetch(entry, part, progress, timeout, until)
        raise
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            _discard(part)
            raise OSError("the server sent another part than the one asked for")
        done = done if resumed else 0
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if re.fullmatch(r"[0-9]{1,15}", length) else None
        limit = entry.size or _MAX_SIZE
        _check_size(entry, total)
        if total is not None and total > limit:
            raise GlideError(f"{entry.url} has {total:,} bytes. Expected at most {limit:,}.")
        free = shutil.disk_usage(part.parent).free
        if (total or 0) - done > free:
            raise GlideError(
                f"{part.parent} has {free:,} bytes left, too few for this file. Make room, or set "
                "GLIDE_MODELS to a folder on another disk."
            )
        with part.open("ab" if resumed else "wb") as file:
            _store_tag(part, response.headers.get("ETag", ""))
            progress(done, total)
            while chunk := response.read1(_CHUNK):  # what has come is kept if the rest does not
                file.write(chunk)
                done += len(chunk)
                if done > limit:
                    raise GlideError(f"{entry.url} sent more than the expected {limit:,} bytes.")
                if time.monotonic() > until:
                    raise OSError(f"the deadline passed after {done:,} bytes")
                progress(done, total)
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done:,} of {total:,} bytes")
    return None


def _check(entry: Entry, part: Path) -> None:
    """Refuse a file that is not what the catalog says."""
    _check_size(entry, part.stat().st_size)
    if entry.sha256 is not None:
        found = sha256_file(part)
        if found != entry.sha256:
            raise GlideError(
                f"{entry.url} gave a file with sha256 {found}, not {entry.sha256}. It is not the "
                "published file, and was deleted."
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


def _check_size(entry: Entry, size: int | None) -> None:
    if entry.size is not None and size is not None and size != entry.size:
        raise GlideError(
            f"{entry.url} is a file of {size:,} bytes. Expected {entry.size:,}: it is not the "
            "published file."
        )


def _tag_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _tag(part: Path) -> str:
    """The stored ETag of a partial file; empty when there is none that can be sent."""
    try:
        tag = _tag_file(part).read_bytes()[:300].decode("ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    return tag if _ETAG.fullmatch(tag) else ""


def _store_tag(part: Path, tag: str) -> None:
    if _ETAG.fullmatch(tag):
        _tag_file(part).write_text(tag, encoding="ascii")
    else:
        _tag_file(part).unlink(missing_ok=True)


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag_file(part).unlink(missing_ok=True)
