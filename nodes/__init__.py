"""The pack's nodes. Makes `glide_core` importable under that one name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def _ensure_glide_core() -> None:
    """Import the sibling folder as `glide_core` when nothing is installed under that name.

    By importlib and not by sys.path: ComfyUI's path must not gain our folder, where `nodes` would
    shadow its own module of that name.
    """
    if "glide_core" in sys.modules or importlib.util.find_spec("glide_core") is not None:
        return
    folder = Path(__file__).resolve().parent.parent / "glide_core"
    spec = importlib.util.spec_from_file_location(
        "glide_core", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"glide_core is not installed and {folder} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules["glide_core"] = module
    spec.loader.exec_module(module)


_ensure_glide_core()

from .editing import GlideEdit  # noqa: E402
from .guidance import GlideClipGuidance  # noqa: E402
from .inpainting import GlideInpaint, GlideInpaintConditioning  # noqa: E402
from .loaders import (  # noqa: E402
    GlideClipLoader,
    GlideLoader,
    GlideOpenClipLoader,
    GlideUpsamplerLoader,
)
from .sampling import GlideEmptyLatent, GlideSampler  # noqa: E402
from .scoring import GlideClipScore  # noqa: E402
from .sweep import GlideGuidanceSweep  # noqa: E402
from .text import GlideTextEncode  # noqa: E402
from .upsampling import GlideUpsample, GlideUpsampleConditioning  # noqa: E402

# Ids are frozen once released: workflows store them.
_TITLES: dict[type, str] = {
    GlideLoader: "GLIDE Loader",
    GlideUpsamplerLoader: "GLIDE Upsampler Loader",
    GlideClipLoader: "GLIDE Noisy CLIP Loader",
    GlideOpenClipLoader: "GLIDE Open CLIP Loader",
    GlideTextEncode: "GLIDE Text Encode",
    GlideClipGuidance: "GLIDE CLIP Guidance",
    GlideEmptyLatent: "GLIDE Empty Latent",
    GlideSampler: "GLIDE Sampler",
    GlideUpsample: "GLIDE Upsample",
    GlideUpsampleConditioning: "GLIDE Upsample Conditioning",
    GlideInpaint: "GLIDE Inpaint",
    GlideInpaintConditioning: "GLIDE Inpaint Conditioning",
    GlideEdit: "GLIDE Edit",
    GlideClipScore: "GLIDE CLIP Score",
    GlideGuidanceSweep: "GLIDE Guidance Sweep",
}
NODE_CLASS_MAPPINGS: dict[str, type] = {node.__name__: node for node in _TITLES}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {n.__name__: title for n, title in _TITLES.items()}
