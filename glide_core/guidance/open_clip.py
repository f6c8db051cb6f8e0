"""Loading any open_clip model: from a file, from its cache, or, when allowed, from the internet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import torch
from huggingface_hub import constants
from torch import Tensor, nn

from glide_core.errors import GlideError, as_glide_error

_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # where not named


def load_open_clip(
    architecture: str,
    weights: Path | None,
    tag: str = "",
    *,
    allow_download: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[nn.Module, Callable[[list[str]], Tensor]]:
    """Load an open_clip model, frozen and in eval mode, with its tokenizer.

    weights: a file; None takes those that open_clip knows under `tag`, from its cache, or by
    download when allowed. GlideError names what is unknown, missing or unreadable.
    """
    if architecture not in open_clip.list_models():
        near = [n for n in open_clip.list_models() if architecture[:5].lower() in n.lower()]
        raise GlideError(
            f"open_clip has no architecture {architecture!r}: expected a name such as "
            f"{', '.join(near[:5]) or 'ViT-B-32, ViT-L-14, RN50'}"
        )
    source, options = (
        _tagged(architecture, tag, allow_download) if weights is None else (str(weights), {})
    )
    offline = constants.HF_HUB_OFFLINE
    if not allow_download:
        _require_text_files(architecture)
        constants.HF_HUB_OFFLINE = True  # else it asks the Hub for newer versions of its files
    message = f"{source} could not be loaded as open_clip's {architecture}"
    try:
        with as_glide_error(message), torch.inference_mode(False):
            tokenizer = open_clip.get_tokenizer(architecture)
            model = open_clip.create_model(architecture, source, device=device, **options)
            return model.to(dtype).eval().requires_grad_(False), tokenizer
    finally:
        constants.HF_HUB_OFFLINE = offline


def _require_text_files(architecture: str) -> None:
    """GlideError when the architecture's tokenizer or text encoder would have to be downloaded.

    49 of open_clip's 144 architectures take them from the Hugging Face Hub by name.
    """
    text = (open_clip.get_model_config(architecture) or {}).get("text_cfg", {})
    wanted = {
        text.get("hf_tokenizer_name"): ("tokenizer.json", "tokenizer_config.json"),
        text.get("hf_model_name"): ("config.json",),
    }
    missing = [name for name, files in wanted.items() if name and not _cached(name, files)]
    if not text.get("hf_tokenizer_name") and "siglip" in architecture.lower():
        missing.append("its SentencePiece vocabulary")
    if missing:
        raise GlideError(
            f"the tokenizer of {architecture} ({', '.join(missing)}) is not in the Hugging Face "
            "Hub's cache, and downloading is not allowed: expected permission to download, or an "
            "architecture with a built-in tokenizer, such as ViT-B-32"
        )


def _tagged(architecture: str, tag: str, allow_download: bool) -> tuple[str, dict[str, Any]]:
    """Give a tag's cached file with the options the tag implies, or the tag for open_clip."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise GlideError(
            f"open_clip has no weights {tag!r} for {architecture}: expected a file, or one of "
            f"{', '.join(tags) or 'none, it has no pretrained weights'}"
        )
    cached = cached_weights(architecture, tag)
    if cached is not None:
        config = open_clip.get_pretrained_cfg(architecture, tag)
        preprocess = {key: config[key] for key in ("mean", "std") if key in config}
        return str(cached), {
            "force_quick_gelu": bool(config.get("quick_gelu")),
            "force_preprocess_cfg": preprocess or None,
        }
    if not allow_download:
        raise GlideError(
            f"the weights {tag} of {architecture} are not in open_clip's cache, and downloading is "
            "not allowed. Allow the download, or choose a file in models/glide."
        )
    return tag, {}


def cached_weights(architecture: str, tag: str) -> Path | None:
    """Find the file of a tag's weights in open_clip's cache; None where it is not there."""
    config = open_clip.get_pretrained_cfg(architecture, tag) or {}
    if hub := str(config.get("hf_hub") or ""):
        repository, _, name = hub.rpartition("/")  # owner/model/ or owner/model/file
        if found := _cached(repository, (name,) if name else _HUB_FILES):
            return Path(found)
    if url := str(config.get("url") or ""):
        path = Path.home() / ".cache" / "clip" / url.rsplit("/", 1)[-1]
        if path.is_file():
            return path
    return None


def _cached(repository: str, files: Iterable[str]) -> str | None:
    """The first of these files that the Hugging Face Hub's cache holds."""
    paths = (huggingface_hub.try_to_load_from_cache(repository, file) for file in files)
    return next((path for path in paths if isinstance(path, str)), None)
