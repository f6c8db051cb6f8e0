"""Writing that a kill or a power cut cannot leave half done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from glide_core.errors import GlideError


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the system says of a failed write into an error for the person."""
    try:
        yield
    except OSError as error:
        raise GlideError(
            f"{path} cannot be written: {error.strerror or error}. Everything written before is "
            "whole. Free some space or permit it, and run the same command again."
        ) from error


def write_whole(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Write a file under a hidden name and move it into place; `sync`: onto the disk first."""
    hidden = path.with_name(f".{path.name}.tmp")
    with explained(path):
        try:
            with hidden.open("wb") as file:
                file.write(content)
                if sync:
                    flush(file)
            os.replace(hidden, path)
        except BaseException:
            with suppress(OSError):
                hidden.unlink(missing_ok=True)
            raise
        if sync:
            sync_folder(path.parent)


def flush(file: IO[bytes]) -> None:
    """Have the system put an open file's content onto the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in a folder put onto the disk, where the system can (Windows cannot)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
