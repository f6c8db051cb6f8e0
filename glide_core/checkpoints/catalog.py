"""The known model files: bundled, OpenAI's and LAION's; and the files in a person's own folder."""

from __future__ import annotations

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

LAION_URL = "https://github.com/afiaka87/laionide/releases/download/Checkpoints/"
OPENAI_URL = "https://openaipublic.blob.core.windows.net/diffusion/dec-2021/"
BUNDLED = Path(__file__).parent / "bundled"
EXTENSIONS = (".safetensors", ".sft", ".pt", ".pth", ".ckpt", ".bin")
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


def _openai(name: str, filename: str, kind: FileKind, parameters: int, about: str) -> Entry:
    return Entry(
        name=f"openai-{name}",
        filename=filename,
        kind=kind,
        url=OPENAI_URL + filename,
        parameters=parameters,
        about=about,
    )


def _laion(
    name: str, filename: str, kind: FileKind, parameters: int, about: str, notes: str
) -> Entry:
    return Entry(
        name=f"laionide-{name}",
        filename=filename,
        kind=kind,
        url=LAION_URL + filename,
        parameters=parameters,
        about=about,
        notes=notes,
    )


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "base",
        "base.safetensors",
        "base",
        parameters=4_278_472,
        sha256="4027b723f338e9a6d5272ee81078985513e2f99e9552cb943e1de0ba102c4608",
        size=8_588_064,
        about="small model: text to 64x64",
    ),
    Entry(
        "upsampler",
        "upsampler.safetensors",
        "upsampler",
        parameters=933_328,
        sha256="c1f11680eb778cd4120adba4ab4427114b8dfc3d12f07daa1dec9c69da219c88",
        size=1_885_768,
        about="small model: 64x64 to 256x256",
    ),
    Entry(
        "inpaint",
        "inpaint.safetensors",
        "inpaint",
        parameters=4_285_384,
        sha256="2bdfb6cd5fffd1da8ff4867526d7c0f190183ef062c61ed4f0449cf2b8785a90",
        size=8_601_912,
        about="small model: fills a mask at 64x64",
    ),
    Entry(
        "upsampler-inpaint",
        "upsampler_inpaint.safetensors",
        "upsampler-inpaint",
        parameters=960_976,
        sha256="388d2cf83583eb4486f1e9d3c3a33533d5454b65af764f3afdf33b8e61de6a89",
        size=1_941_120,
        about="small model: fills a mask at 256x256",
    ),
    Entry(
        "clip",
        "clip.safetensors",
        "clip",
        parameters=1_450_368,
        sha256="c4fb2b7a9bb49cdc1fe267091918c285fe19ced145115c0a06ac576fdbf5f939",
        size=2_913_968,
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
    _openai(
        "clip-image", "clip_image_enc.pt", "clip-image", 86_443_776, "noisy CLIP, image encoder"
    ),
    _openai("clip-text", "clip_text_enc.pt", "clip-text", 71_679_488, "noisy CLIP, text encoder"),
    _laion(
        "v3",
        "laionide-v3-base.pt",
        "base",
        385_030_726,
        "text to 64x64, fine-tuned on CC12M, COCO, Visual Genome and Open Images",
        "It was trained on images of people, which OpenAI's models were not. Some outputs have "
        "watermarks; 'royalty free' in the prompt makes them rarer (its authors). Upsample with "
        "laionide-v2-upsampler or openai-upsampler.",
    ),
    _laion(
        "v2",
        "laionide-v2-base.pt",
        "base",
        385_030_726,
        "text to 64x64, fine-tuned on LAION",
        "It was fine-tuned on web images that were filtered by automatic tags only (its authors).",
    ),
    _laion(
        "v2-upsampler",
        "laionide-v2-sr.pt",
        "upsampler",
        398_361_286,
        "64x64 to 256x256, fine-tuned on LAION",
        "It was fine-tuned on web images that were filtered by automatic tags only (its authors).",
    ),
)


def find(name: str) -> Entry:
    """Return the entry with this name or file name."""
    for entry in ENTRIES:
        if name in (entry.name, entry.filename):
            return entry
    known = ", ".join(entry.name for entry in ENTRIES)
    raise GlideError(f"There is no known model {shorten(repr(name))}. Known are: {known}.")


def model_files(folder: Path) -> list[Path]:
    """Regular files in a folder and those below it whose ending is a model file's, sorted.

    At most 1,000; folders that cannot be read are left out.
    """
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
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
        with suppress(OSError, ValueError, RuntimeError):  # what cannot be a file's name
            if path.expanduser().is_file():
                return path.expanduser()
    try:
        entry = find(name)
    except GlideError as error:
        raise GlideError(
            f"there is no model {shorten(repr(name))}: no file of that name, here or in "
            f"{models_directory()}, "
            f"and no model that `glide models` lists ({', '.join(e.name for e in ENTRIES)})"
        ) from error
    known = entry.path()
    if known.is_file():
        return known
    if entry.bundled:
        raise GlideError(
            f"the bundled model {entry.filename} is missing from {known.parent}: install the "
            "package again"
        )
    raise GlideError(
        f"{entry.name} is not on this machine (expected at {known}): download it with "
        f"`glide models download {entry.name}`"
    )


def models_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of a person's own model files outside ComfyUI.

    `$GLIDE_MODELS` if it is set; else `models/glide` in the current folder if there is one (which
    is ComfyUI's place for them, when started there); else `~/.cache/glide/models`. Not created.
    """
    if chosen := environment.get("GLIDE_MODELS"):
        return Path(chosen).expanduser()
    local = Path("models") / "glide"
    return local if local.is_dir() else Path.home() / ".cache" / "glide" / "models"
