"""Convert `.pt` files to safetensors that carry their config and are mapped into memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from glide_core.checkpoints.detect import detect_model_type
from glide_core.checkpoints.files import METADATA_KEY, read_tensors, write_tensors
from glide_core.checkpoints.loading import (
    add_mask_channel,
    check_tensors,
    clip_tensors,
    config_of,
    expected_tensors,
    with_dtype,
)
from glide_core.config import ClipConfig, GlideConfig, ModelKind, ScheduleConfig
from glide_core.errors import GlideError
from glide_core.io import check_new


def convert(
    paths: Path | str | Sequence[Path | str],
    destination: Path | str | None = None,
    *,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    kind: ModelKind | None = None,
    schedule: ScheduleConfig | None = None,
) -> Path:
    """Write a GLIDE model (one file) or a noisy CLIP (one file, or one per encoder) as safetensors.

    destination: default, the first file's name with the ending `.safetensors`, beside it.
    dtype: of the stored tensors; default, as they are.
    kind, schedule: of a GLIDE model, to be stored instead of what the file says; see `load_model`.
    GlideError when the destination exists (unless `overwrite`), or the file is not a whole model.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    target = Path(destination or f"{os.path.splitext(Path(given[0]))[0]}.safetensors")
    if not overwrite:
        check_new(target)
    files = [read_tensors(path) for path in given]
    first = files[0]
    config: GlideConfig | ClipConfig
    if len(files) == 1 and detect_model_type(first.shapes, str(first.path)) == "glide":
        config, where = config_of(first, kind, schedule), str(first.path)
        assert isinstance(config, GlideConfig)
        tensors = dict(add_mask_channel(first.tensors, config))
    elif kind is not None or schedule is not None:
        raise GlideError("kind and schedule can only be set for one file that is a GLIDE model.")
    else:
        tensors, config, where = clip_tensors(files)
    check_tensors(tensors, expected_tensors(config), where)
    stored = with_dtype(tensors, dtype, where)
    return write_tensors(stored, target, {METADATA_KEY: config.to_json()})
