"""GLIDE (Nichol et al. 2021, arXiv 2112.10741) as a library: needs torch, never ComfyUI."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"  # and in pyproject.toml, where registries read it; a test compares

if TYPE_CHECKING:
    from glide_core.checkpoints.loading import load_clip as load_clip
    from glide_core.checkpoints.loading import load_model as load_model
    from glide_core.config import SamplerConfig as SamplerConfig
    from glide_core.diffusion import Schedule as Schedule
    from glide_core.diffusion import sample as sample
    from glide_core.errors import GlideError as GlideError
    from glide_core.pipeline import GlidePipeline as GlidePipeline

# Imported on first use, so that `import glide_core` and `glide --help` need no torch.
_MODULES = {
    "GlideError": "glide_core.errors",
    "GlidePipeline": "glide_core.pipeline",
    "SamplerConfig": "glide_core.config",
    "Schedule": "glide_core.diffusion",
    "load_clip": "glide_core.checkpoints.loading",
    "load_model": "glide_core.checkpoints.loading",
    "sample": "glide_core.diffusion",
}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
