"""Reading back what ComfyUI's own save nodes write of our MODEL and CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glide_core.checkpoints.detect import config_of
from glide_core.checkpoints.files import METADATA_KEY, TensorFile, read_tensors
from glide_core.checkpoints.loading import load_model, model_from_state_dict
from glide_core.config import GlideConfig, ModelKind
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel

UNET = "model.diffusion_model."
TEXT = "text_encoders.glide."
# A model's config as a tensor of bytes: ComfyUI writes the metadata of a file itself, and shapes
# do not tell the width of attention heads or what a model predicts.
CONFIG_KEY = "glide_config"


def saved_extras(config: GlideConfig) -> dict[str, Tensor]:
    """Give what a saved state dict must carry beside the weights."""
    return {CONFIG_KEY: torch.tensor(list(config.to_json().encode()), dtype=torch.uint8)}


def load_any(path: Path, kinds: Sequence[ModelKind]) -> GlideModel:
    """Load a GLIDE file, or a GLIDE MODEL that ComfyUI's Save Checkpoint or ModelSave wrote."""
    if CONFIG_KEY not in read_tensors(path, meta=True).shapes:
        return load_model(path, kinds=kinds)
    found = dict(read_tensors(path).tensors)
    stored = bytes(found.pop(CONFIG_KEY).tolist()).decode()
    tensors = {
        key.removeprefix(prefix): tensor
        for prefix in (UNET, TEXT)
        for key, tensor in found.items()
        if key.startswith(prefix)
    }
    config: Any = config_of(TensorFile(path, tensors, {METADATA_KEY: stored}))
    if config.kind not in kinds:
        raise GlideError(
            f"{path} is a GLIDE model of the kind '{config.kind}'. Expected {' or '.join(kinds)}."
        )
    return model_from_state_dict(tensors, config, where=str(path))
