"""Model files by name: the bundled ones first, then what lies in a host's folders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from glide_core.checkpoints.catalog import BUNDLED, ENTRIES, model_files
from glide_core.errors import GlideError, shorten

BUNDLED_PREFIX = "bundled/"


def bundled_names(purposes: Sequence[str]) -> list[str]:
    """List the shipped files that are there, as "bundled/<file>", in the order of the purposes."""
    return [
        f"{BUNDLED_PREFIX}{entry.filename}"
        for purpose in purposes
        for entry in ENTRIES
        if entry.bundled and entry.kind == purpose and entry.path().is_file()
    ]


def bundled_path(name: str) -> Path | None:
    """Resolve "bundled/<file>"; None when the name is not of that form."""
    if not isinstance(name, str):
        raise GlideError(f"the name of a model file is {shorten(repr(name))}: expected a text")
    if not name.startswith(BUNDLED_PREFIX):
        return None
    path = BUNDLED / name[len(BUNDLED_PREFIX) :]
    if path.parent != BUNDLED or not is_file(path):
        known = ", ".join(f"{BUNDLED_PREFIX}{e.filename}" for e in ENTRIES if e.bundled)
        raise GlideError(
            f"unknown bundled model {name}. Expected one of: {known}. Choose one of them, or "
            "install the pack again if its file is gone."
        )
    return path


def folder_names(folders: Iterable[Path]) -> list[str]:
    """List model files of these folders and those below, as paths relative to their folder."""
    found = [p.relative_to(folder).as_posix() for folder in folders for p in model_files(folder)]
    return list(dict.fromkeys(found))


def folder_path(name: str, folders: Sequence[Path]) -> Path:
    """Resolve a listed name; GlideError says where it was looked for."""
    for folder in folders:
        path = folder / name
        if is_file(path) and path.resolve().is_relative_to(folder.resolve()):
            return path.resolve()
    places = " or ".join(str(folder) for folder in folders)
    raise GlideError(
        f"Model file {name!r} was not found in {places}. Put it there, or choose another; "
        "docs/checkpoints.md of this pack lists the addresses."
    )


def is_file(path: Path) -> bool:
    """Whether it is there; what cannot be a file's name (too long, half a character) is not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def fingerprint(paths: Iterable[Path]) -> str:
    """Say cheaply whether files changed: names, modification times and sizes."""
    return ";".join(f"{p}:{p.stat().st_mtime_ns}:{p.stat().st_size}" for p in paths)
