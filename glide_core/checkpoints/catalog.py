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
        parameters=933_328,
        sha256="519f7213306eff7a071404386991e1e4e032e1cad441b4b97328b1ac773f834f",
        size=1_882_152,
        about="small model: 64x64 to 256x256",
    ),
    Entry(
        "inpaint",
        "inpaint.safetensors",
        "inpaint",
        parameters=4_285_384,
        sha256="19126d989afe2a5df0f9792f2266bd201963f06553a932e546919c879e11e925",
        size=8_598_296,
        about="small model: fills a mask at 64x64",
    ),
    Entry(
        "upsampler-inpaint",
        "upsampler_inpaint.safetensors",
        "upsampler-inpaint",
        parameters=960_976,
        sha256="465615cca9e39538467f96f7ef5ca6f540aa72835d893ac61e1848820d9bf8b1",
        size=1_937_504,
        about="small model: fills a mask at 256x256",
    ),
    Entry(
        "clip",
        "clip.safetensors",
        "clip",
        parameters=1_450_368,
        sha256="823dcee5762ec9186b9cd8d07707f73fd36dbe2da6829be2b5b3a73bd457b9e1",
        size=2_910_344,
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
