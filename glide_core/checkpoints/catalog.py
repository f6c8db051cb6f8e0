"""The known model files: bundled, OpenAI's and LAION's; and the files in a person's own folder."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from glide_core.errors import GlideError, shorten

BUNDLED = Path(__file__).parent / "bundled"
CATALOG = Path(__file__).with_name("catalog.json")  # the fields of every entry
EXTENSIONS = (".safetensors", ".sft", ".pt", ".pth", ".ckpt", ".bin")
_MOST = 1000  # folders and files of a listing: GLIDE_MODELS could name the whole disk


@dataclass(frozen=True)
class Entry:
    """One model file that is known by name."""

    name: str  # what people type
    filename: str
    kind: str  # as `loading.kind_of` gives it
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

    def path(self) -> Path:
        """Where the file belongs: in the package, or in `models_directory()`."""
        return (BUNDLED if self.bundled else models_directory()) / self.filename


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


def model_files(folder: Path, most_folders: int = _MOST) -> list[Path]:
    """Model files (by their ending) in a folder and those below it, sorted, at most 1,000."""
    found: list[Path] = []
    for parent, folders, names in itertools.islice(os.walk(folder), most_folders):
        folders.sort()
        paths = (Path(parent, name) for name in sorted(names))
        found += (p for p in paths if p.suffix.lower() in EXTENSIONS and os.path.isfile(p))
        if len(found) >= _MOST:
            break
    return found[:_MOST]


def find_model(name: str) -> Path:
    """The file of a catalog name or path; GlideError says how to get a model that is missing."""
    for path in (Path(name), models_directory() / name):
        path = Path(os.path.expanduser(path))  # unlike Path's, leaves an unknown user's as it is
        with suppress(OSError, ValueError):  # what cannot be a file's name
            if path.is_file():
                return path
    entry = find(name)
    if (known := entry.path()).is_file():
        return known
    get = f"download it with `glide models download {entry.name}`"
    get = "install the package again" if entry.bundled else get
    raise GlideError(f"{entry.name} is not on this machine (expected at {known}): {get}")


def models_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of own model files outside ComfyUI, which may not exist: `$GLIDE_MODELS`, else an
    existing `models/glide` in the current folder (ComfyUI's), else `~/.cache/glide/models`."""
    if chosen := environment.get("GLIDE_MODELS"):
        return Path(os.path.expanduser(chosen))
    local = Path("models") / "glide"
    return local if local.is_dir() else Path.home() / ".cache" / "glide" / "models"
