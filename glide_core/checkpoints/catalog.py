"""What model files exist: OpenAI's six, and the small ones that ship with this package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glide_core.errors import GlideError

FileKind = Literal[
    "base", "upsampler", "inpaint", "upsampler-inpaint", "clip", "clip-image", "clip-text"
]

OPENAI_URL = "https://openaipublic.blob.core.windows.net/diffusion/dec-2021/"
BUNDLED = Path(__file__).parent / "bundled"


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

    @property
    def bundled(self) -> bool:
        return self.url is None

    def path(self, directory: Path | None = None) -> Path:
        """Where the file belongs: the package, or `directory` (default: `models_directory()`)."""
        return (BUNDLED if self.bundled else directory or models_directory()) / self.filename


def _openai(name: str, filename: str, kind: FileKind, parameters: int, about: str) -> Entry:
    return Entry(
        name=f"openai-{name}",
        filename=filename,
        kind=kind,
        url=OPENAI_URL + filename,
        parameters=parameters,
        about=about,
    )


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "base",
        "base.safetensors",
        "base",
        parameters=4_278_472,
        sha256="95ee0dfc7f704dac5ea694ae23c55b4ec91e0d4bb7728efd035b14bc0e1460be",
        size=8_583_824,
        about="small model: text to 64x64",
    ),
    Entry(
        "upsampler",
        "upsampler.safetensors",
        "upsampler",
        parameters=2_349_414,
        sha256="4a4cfaad1ff4092f03753431a96570a3b970b40be268e0008c658244796fe808",
        size=4_734_044,
        about="small model: 64x64 to 256x256",
    ),
    Entry(
        "inpaint",
        "inpaint.safetensors",
        "inpaint",
        parameters=3_160_774,
        sha256="7b85bec666f9a5d14dc51875fd68609efe5363dad1db3b5d026b10817ec3d8aa",
        size=6_356_148,
        about="small model: fills a mask at 64x64",
    ),
    Entry(
        "upsampler-inpaint",
        "upsampler_inpaint.safetensors",
        "upsampler-inpaint",
        parameters=2_350_566,
        sha256="d9e40d4414a889cb39cd1090b177d5434f47d3ec0f6706d3761eabf72f7e146e",
        size=4_736_356,
        about="small model: fills a mask at 256x256",
    ),
    Entry(
        "clip",
        "clip.safetensors",
        "clip",
        parameters=897_312,
        sha256="8f82ef488487286d82dcf69858643c7f162161525b7db303be0eedbbe180d1e9",
        size=1_803_456,
        about="small noisy CLIP: guidance at 64x64",
    ),
    _openai("base", "base.pt", "base", 385_030_726, "text to 64x64"),
    _openai("upsampler", "upsample.pt", "upsampler", 398_361_286, "64x64 to 256x256"),
    _openai("inpaint", "base_inpaint.pt", "inpaint", 385_037_638, "fills a mask at 64x64"),
    _openai(
        "upsampler-inpaint",
        "upsample_inpaint.pt",
        "upsampler-inpaint",
        398_368_198,
        "fills a mask at 256x256",
    ),
    _openai("clip-image", "clip_image_enc.pt", "clip-image", 86_443_776, "noisy CLIP, image tower"),
    _openai("clip-text", "clip_text_enc.pt", "clip-text", 71_679_488, "noisy CLIP, text tower"),
)


def find(name: str) -> Entry:
    """Return the entry with this name or file name."""
    for entry in ENTRIES:
        if name in (entry.name, entry.filename):
            return entry
    known = ", ".join(entry.name for entry in ENTRIES)
    raise GlideError(f"No model is called {name!r}. Known are: {known}.")


def models_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where a person's own files live when we run by ourselves.

    `$GLIDE_MODELS` if it is set; else `models/glide` in the current folder if there is one (which
    is ComfyUI's place for them, when started there); else `~/.cache/glide/models`. Not created.
    """
    if chosen := environment.get("GLIDE_MODELS"):
        return Path(chosen).expanduser()
    local = Path("models") / "glide"
    return local if local.is_dir() else Path.home() / ".cache" / "glide" / "models"
