"""Turn OpenAI's `.pt` files into safetensors that carry their config and open in no time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from glide_core.checkpoints.detect import detect_model_type
from glide_core.checkpoints.files import METADATA_KEY, read_tensors, write_tensors
from glide_core.checkpoints.loading import (
    check_finite,
    check_tensors,
    clip_tensors,
    config_of,
    expected_tensors,
)
from glide_core.config import ClipConfig, GlideConfig
from glide_core.errors import GlideError


def convert(
    paths: Path | str | Sequence[Path | str],
    destination: Path | str | None = None,
    *,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a GLIDE model (one file) or a noisy CLIP (one file or both towers') as safetensors.

    destination: default, the first file's name with the ending `.safetensors`, beside it.
    dtype: of the stored tensors; default, as they are.
    GlideError when the destination exists (unless `overwrite`), or the file is not a whole model.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    target = Path(destination) if destination else Path(given[0]).with_suffix(".safetensors")
    if target.exists() and not overwrite:
        raise GlideError(
            f"{target} is there already and would be overwritten. Give another name, or move it."
        )
    config: GlideConfig | ClipConfig
    files = [read_tensors(path) for path in given]
    if len(files) == 1 and detect_model_type(files[0].shapes, str(files[0].path)) == "glide":
        tensors, where = dict(files[0].tensors), str(files[0].path)
        config = config_of(files[0])
    else:
        tensors, config, where = clip_tensors(files)
    check_tensors(tensors, expected_tensors(config), where)
    narrow = {key: tensor if dtype is None else tensor.to(dtype) for key, tensor in tensors.items()}
    for key, tensor in narrow.items():
        check_finite(key, tensor, where)
    return write_tensors(narrow, target, {METADATA_KEY: config.to_json()})
