"""Files in a local folder or an object store, through fsspec; a file is complete or absent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO

from glide_core.errors import GlideError, shorten
from glide_core.io import atomic_write, check_folder


@contextmanager
def open_file(url: str) -> Iterator[IO[bytes]]:
    """Open a file for reading; anything but a regular file, or a failure, is a GlideError."""
    import fsspec

    if "://" not in url and Path(url).exists() and not Path(url).is_file():
        raise GlideError(f"{shorten(url, 200)} is not a regular file")
    with _explained(url, "read"):
        opened = fsspec.open(url, "rb").open()
    with opened as file, BufferedReader(file) as buffered:
        yield buffered


class Folder:
    """A flat set of files at a local path or a URL such as s3://bucket/folder."""

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).rstrip("/")
        self.local = None if "://" in self.url else Path(self.url)
        if self.local is not None:
            check_folder(self.local)
        else:
            import fsspec

            with _explained(self.url, "opened"):
                # Listings are not cached: other processes write to the same folder.
                self._fs, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)

    def path(self, name: str) -> str:
        return f"{self.url}/{name}"

    def names(self) -> list[str]:
        """The names of all files, sorted; empty if the folder does not exist yet."""
        if self.local is not None:
            return sorted(p.name for p in self.local.iterdir()) if self.local.is_dir() else []
        with _explained(self.url, "listed"):
            if not self._fs.exists(self._root):
                return []
            return sorted(str(p).rsplit("/", 1)[-1] for p in self._fs.ls(self._root, detail=False))

    def read(self, name: str) -> bytes:
        with open_file(self.path(name)) as file:
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        """Write a file that appears complete under its name, or not at all."""
        if self.local is not None:
            with atomic_write(self.local / name, sync=True) as temporary:
                temporary.write_bytes(content)
            return
        with _explained(self.path(name), "written"):
            self._fs.pipe_file(f"{self._root}/{name}", content)


@contextmanager
def _explained(url: str, action: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # every store has exceptions of its own
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise GlideError(
            f"{shorten(url, 200)} cannot be {action}: {shorten(reason, 300)}"
        ) from error
