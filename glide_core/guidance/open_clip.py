"""Loading any open_clip model: from a file, from its cache, or, when allowed, from the internet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glide_core.errors import GlideError, is_out_of_memory

_HUB_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)


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
    import open_clip

    if architecture not in open_clip.list_models():
        near = [n for n in open_clip.list_models() if architecture[:5].lower() in n.lower()]
        raise GlideError(
            f"open_clip has no architecture {architecture!r}. Expected a name such as "
            f"{', '.join(near[:5]) or 'ViT-B-32, ViT-L-14, RN50'}."
        )
    source, options = (
        _tagged(architecture, tag, allow_download) if weights is None else (str(weights), {})
    )
    if not allow_download:
        _require_text_files(architecture)
    offline = nullcontext() if allow_download else _offline()
    try:
        with torch.inference_mode(False), offline:
            tokenizer = open_clip.get_tokenizer(architecture)
            model = open_clip.create_model(
                architecture, pretrained=source, device=device, **options
            )
            model = model.to(dtype).eval().requires_grad_(False)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise GlideError(
            f"{source} could not be loaded as open_clip's {architecture}: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}. Expected "
            "weights of that architecture. Choose the file's own architecture, or another file."
        ) from error
    return model, tokenizer


def _require_text_files(architecture: str) -> None:
    """GlideError when the architecture's tokenizer or text encoder would have to be downloaded.

    49 of open_clip's 144 architectures take them from the Hugging Face Hub by name.
    """
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    text = (open_clip.get_model_config(architecture) or {}).get("text_cfg", {})
    wanted = {
        text.get("hf_tokenizer_name"): ("tokenizer.json", "tokenizer_config.json"),
        text.get("hf_model_name"): ("config.json",),
    }
    missing = [
        name
        for name, files in wanted.items()
        if name and not any(isinstance(try_to_load_from_cache(name, f), str) for f in files)
    ]
    if not text.get("hf_tokenizer_name") and "siglip" in architecture.lower():
        missing.append("its SentencePiece vocabulary")
    if missing:
        raise GlideError(
            f"The tokenizer of {architecture} ({', '.join(missing)}) is not in the cache of the "
            "Hugging Face Hub, and downloading is not allowed. Allow the download, or choose an "
            "architecture with a built-in tokenizer, such as ViT-B-32."
        )


@contextmanager
def _offline() -> Iterator[None]:
    """Make huggingface_hub use its cache alone within the block."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _tagged(architecture: str, tag: str, allow_download: bool) -> tuple[str, dict[str, Any]]:
    """Give a tag's cached file with the options the tag implies, or the tag for open_clip."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise GlideError(
            f"open_clip has no weights {tag!r} for {architecture}. Expected one of: "
            f"{', '.join(tags) or 'none, it has no pretrained weights'}; or choose "
            "a file."
        )
    config = open_clip.get_pretrained_cfg(architecture, tag) or {}
    cached = _cached(config)
    if cached is not None:
        preprocess = {key: config[key] for key in ("mean", "std") if key in config}
        return str(cached), {
            "force_quick_gelu": bool(config.get("quick_gelu")),
            "force_preprocess_cfg": preprocess or None,
        }
    if not allow_download:
        raise GlideError(
            f"the weights {tag} of {architecture} are not on this machine, and downloading is not "
            "allowed. Expected them in open_clip's cache. Allow the download, or choose a file in "
            "models/glide."
        )
    return tag, {}


def cached_weights(architecture: str, tag: str) -> Path | None:
    """Find the file of a tag's weights in open_clip's cache; None where it is not there."""
    import open_clip

    return _cached(open_clip.get_pretrained_cfg(architecture, tag) or {})


def _cached(config: dict[str, Any]) -> Path | None:
    """Find a tag's file where open_clip would have put it; None when it never did."""
    if hub := str(config.get("hf_hub") or ""):
        from huggingface_hub import try_to_load_from_cache

        repository, _, name = hub.rpartition("/")  # owner/model/ or owner/model/file
        for file in (name,) if name else _HUB_FILES:
            found = try_to_load_from_cache(repository, file)
            if isinstance(found, str):
                return Path(found)
    if url := str(config.get("url") or ""):
        path = Path.home() / ".cache" / "clip" / url.rsplit("/", 1)[-1]
        if path.is_file():
            return path
    return None
