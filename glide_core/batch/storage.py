"""Files in a local folder or an object store, through fsspec; a file is complete or absent."""

from __future__ import annotations

from pathlib import Path

from glide_core.data.tables import explained, open_file
from glide_core.io import atomic_write, check_folder


class Folder:
    """A flat set of files at a local path or a URL such as s3://bucket/folder."""

    def __init__(self, url: str | Path) -> None:
        import fsspec

        self.url = str(url).rstrip("/")
        self._local = "://" not in self.url
        if self._local:
            check_folder(Path(self.url))
            # not by its URL, in which some characters of a path have a meaning
            self._fs, self._root = fsspec.filesystem("file"), str(Path(self.url).absolute())
            return
        with explained(self.url, "opened"):
            # Listings are not cached: other processes write to the same folder.
            self._fs, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)

    def path(self, name: str) -> str:
        return f"{self.url}/{name}"

    def names(self) -> list[str]:
        """The names of all files, sorted; empty if the folder does not exist yet."""
        with explained(self.url, "listed"):
            if not self._fs.exists(self._root):
                return []
            return sorted(str(p).rsplit("/", 1)[-1] for p in self._fs.ls(self._root, detail=False))

    def read(self, name: str) -> bytes:
        with open_file(self.path(name)) as file:
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        """Write a file that appears complete under its name, or not at all."""
        if self._local:
            with atomic_write(Path(self.url, name), sync=True) as temporary:
                temporary.write_bytes(content)
            return
        with explained(self.path(name), "written"):
            self._fs.pipe_file(f"{self._root}/{name}", content)
