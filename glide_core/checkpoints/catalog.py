"""The known model files: bundled, OpenAI's and LAION's; and the files in a person's own folder."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glide_core.errors import GlideError, shorten

FileKind = Literal[
    "base", "upsampler", "inpaint", "upsampler-inpaint", "clip", "clip-image", "clip-text"
]

BUNDLED = Path(__file__).parent / "bundled"
CATALOG = Path(__file__).with_name("catalog.json")  # the fields of every entry
EXTENSIONS = (".safetensors", ".sft", ".pt", ".pth", ".ckpt", ".bin")
_MAX_FOLDERS = 1000  # that a listing looks into: GLIDE_MODELS could name the whole disk
_MAX_FILES = 1000  # that a listing opens


@dataclass(frozen=True)
class Entry:
    """One model file that is known by name."""

    name: str  # what people type
    filename: str
    kind: FileKind
    url: str | None = None  # None: ships with the package
    parameters: int | None = None
    sha256: str | None = None  # None: the publisher gives none
    size: int | None = None  # bytes; None: not published
    about: str = ""
    licence: str = "MIT"  # of the repository that publishes it
    notes: str = ""  # shown after a download

    @property
    def bundled(self) -> bool:
        return self.url is None

    def path(self, directory: Path | None = None) -> Path:
        """Where the file belongs: the package, or `directory` (default: `models_directory()`)."""
        return (BUNDLED if self.bundled else directory or models_directory()) / self.filename


ENTRIES: tuple[Entry, ...] = tuple(
    Entry(**fields) for fields in json.loads(CATALOG.read_text(encoding="utf-8"))
)


def find(name: str) -> Entry:
    """Return the entry with this name or file name."""
    for entry in ENTRIES:
        if name in (entry.name, entry.filename):
            return entry
    raise GlideError(
        f"model {shorten(repr(name))} was not found: it is neither a file, here or in "
        f"{models_directory()}, nor one of {', '.join(entry.name for entry in ENTRIES)}"
    )


def model_files(folder: Path, most_folders: int = _MAX_FOLDERS) -> list[Path]:
    """Model files (by their ending) in a folder and those below it, sorted, at most 1,000."""
    found: list[Path] = []
    for parent, folders, names in itertools.islice(os.walk(folder), most_folders):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if path.suffix.lower() in EXTENSIONS and os.path.isfile(path):
                found.append(path)
        if len(found) >= _MAX_FILES:
            break
    return found[:_MAX_FILES]


def find_model(name: str) -> Path:
    """The file of a catalog name or path; GlideError says how to get a model that is missing."""
    for path in (Path(name), models_directory() / name):
        path = Path(os.path.expanduser(path))  # unlike Path's, leaves an unknown user's as it is
        with suppress(OSError, ValueError):  # what cannot be a file's name
            if path.is_file():
                return path
    entry = find(name)
    known = entry.path()
    if known.is_file():
        return known
    what_to_do = f"download it with `glide models download {entry.name}`"
    if entry.bundled:
        what_to_do = "install the package again"
    raise GlideError(f"{entry.name} is not on this machine (expected at {known}): {what_to_do}")


def models_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of own model files outside ComfyUI, which may not exist: `$GLIDE_MODELS`, else an
    existing `models/glide` in the current folder (ComfyUI's), else `~/.cache/glide/models`."""
    if chosen := environment.get("GLIDE_MODELS"):
        return Path(os.path.expanduser(chosen))
    local = Path("models") / "glide"
    return local if local.is_dir() else Path.home() / ".cache" / "glide" / "models"
