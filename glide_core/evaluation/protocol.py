"""A number and how it came about: what stands beside every measured value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from glide_core.errors import GlideError


@dataclass(frozen=True)
class Protocol:
    """How pictures were measured. Two values compare only where all of this is equal."""

    n: int  # pictures measured
    n_reference: int | None  # pictures they were compared with; None: there were none
    crop: str  # what was cut off each picture first
    size: str  # pixels of the pictures as the extractor was given them, "64x64" or "mixed"
    extractor: str  # name of the feature extractor
    sha256: str  # of the extractor's weights; "" where it has none
    dimension: int  # features a picture
    resize: str  # how the extractor brings a picture to the size of its network
    seed: int  # of everything drawn: the choice of pictures, KID's subsets, the splits
    skipped: int = 0  # pictures that could not be read
    versions: Mapping[str, str] = field(default_factory=dict)  # of torch, this pack, the extractor
    command: str = ""  # what gives the value again

    def line(self) -> str:
        """One line for people: all but the command."""
        against = "" if self.n_reference is None else f" against {self.n_reference}"
        skipped = f" ({self.skipped} unreadable)" if self.skipped else ""
        weights = f" (sha256 {self.sha256[:12]})" if self.sha256 else ""
        parts = [
            f"n={self.n}{skipped}{against}",
            f"crop {self.crop}",
            self.size,
            f"{self.extractor}{weights}, {self.dimension} features, {self.resize}",
            f"seed {self.seed}",
            ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        ]
        return "; ".join(part for part in parts if part)


@dataclass(frozen=True)
class Measurement:
    """One value of one metric, with the protocol that it was measured under."""

    metric: str
    value: float
    std: float | None  # over subsets, splits or pictures, as `details` says; None: there is none
    protocol: Protocol
    details: Mapping[str, Any] = field(default_factory=dict)  # the metric's own parameters

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def line(self) -> str:
        """The value and its protocol in one line."""
        spread = "" if self.std is None else f" +- {self.std:.4g}"
        own = ", ".join(f"{name} {_short(value)}" for name, value in self.details.items())
        how = "; ".join(part for part in (own, self.protocol.line()) if part)
        return f"{self.metric} {self.value:.6g}{spread} [{how}]"


def write_json(measurements: list[Measurement], path: Path) -> None:
    """Write measurements as a JSON list, whole or not at all; an existing file is replaced."""
    from glide_core.io import atomic_write

    text = json.dumps([one.to_dict() for one in measurements], indent=2)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> list[Measurement]:
    """Read what `write_json` wrote; GlideError for anything else."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [
            Measurement(**{**entry, "protocol": Protocol(**entry["protocol"])}) for entry in entries
        ]
    except OSError as error:
        raise GlideError(f"{path} cannot be read: {error.strerror}. Check the name.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise GlideError(
            f"{path} holds no measurements ({error}). Expected what `glide evaluate --out` wrote."
        ) from error


def versions(library: str = "") -> dict[str, str]:
    """Versions of torch, of this pack, and of the library that holds an extractor's network."""
    from importlib import metadata

    import torch

    from glide_core import __version__

    found = {"glide": __version__, "torch": str(torch.__version__)}
    if library:
        found[library] = metadata.version(library)
    return found


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
