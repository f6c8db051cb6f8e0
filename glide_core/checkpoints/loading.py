"""Load, save and convert whole models: config from the file, weights mapped into memory once.

Modules are made on the meta device and take over the file's tensors. Weights are made outside
inference mode (ComfyUI runs nodes inside it), because one made inside can take no gradient.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from glide_core.checkpoints.detect import ModelType, config_of, detect_model_type
from glide_core.checkpoints.files import (
    METADATA_KEY,
    TensorFile,
    check_finite,
    check_tensors,
    read_tensors,
    write_tensors,
)
from glide_core.config import KINDS, ClipConfig, GlideConfig, ModelKind, ScheduleConfig
from glide_core.errors import GlideError
from glide_core.io import check_new
from glide_core.models.glide import GlideModel
from glide_core.models.int8 import why_not_int8
from glide_core.models.noisy_clip import Affine, NoisyClip

PathLike = Path | str

_Model = TypeVar("_Model", GlideModel, NoisyClip)
_NAMES = {
    "glide": "a GLIDE model",
    "clip": "a noisy CLIP",
    "clip-image": "the image encoder of a noisy CLIP",
    "clip-text": "the text encoder of a noisy CLIP",
}


def inspect(path: PathLike) -> GlideConfig | ClipConfig:
    """Read the config of a GLIDE model or noisy CLIP without its weights; GlideError for others."""
    return config_of(read_tensors(path, meta=True))


def kind_of(path: PathLike) -> str:
    """Return the kind of model in a file, as the catalog names it."""
    file = read_tensors(path, meta=True)
    config = config_of(file)
    return config.kind if isinstance(config, GlideConfig) else detect_model_type(file)


def load_model(
    path: PathLike,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: GlideConfig | None = None,
    kinds: Sequence[ModelKind] = (),
    kind: ModelKind | None = None,
    schedule: ScheduleConfig | None = None,
) -> GlideModel:
    """Load one GLIDE model, frozen and in eval mode.

    dtype: of the heavy layers; norms, embeddings and the head stay float32 (`use_dtype`). int8 only
        on a CPU.
    config: replaces the config that the file has or that its tensors show.
    kinds: the kinds that are allowed; empty: any.
    kind, schedule: replace these parts of the config, for models of other programs.
    GlideError says what the file holds instead, or lists the tensors that do not fit.
    """
    file = read_tensors(path)
    found = config or config_of(file, kind, schedule)
    allowed = " or ".join(kinds or KINDS)
    if isinstance(found, ClipConfig):
        raise GlideError(
            f"{path} is {_NAMES[detect_model_type(file)]}. Expected a GLIDE model "
            f"({allowed}). Load it as a noisy CLIP, for CLIP guidance."
        )
    if kinds and found.kind not in kinds:
        raise GlideError(f"{path} is a GLIDE model of the kind '{found.kind}'. Expected {allowed}.")
    model = _assembled(add_mask_channel(file.tensors, found), found, device, dtype, str(path))
    del file  # so that int8 frees the file's tensors one layer after the other
    return _finished(model, dtype, str(path))


def add_mask_channel(
    tensors: Mapping[str, Tensor], config: GlideConfig | ClipConfig
) -> Mapping[str, Tensor]:
    """Give an inpainting model that takes x and the masked image but no mask a mask channel of
    zeros, so that its output stays the same; other models are returned as they are."""
    weight = tensors.get(key := "input_blocks.0.0.weight")
    if weight is None or weight.ndim != 4 or isinstance(config, ClipConfig):
        return tensors
    folded = config.unet.patch_size**2
    if not config.is_inpaint or config.first_channels - weight.shape[1] != folded:
        return tensors
    known = 2 * config.unet.channels * folded  # x, then the masked image, then the mask
    mask = weight.new_zeros(weight.shape[0], folded, *weight.shape[2:])
    return {**tensors, key: torch.cat([weight[:, :known], mask, weight[:, known:]], dim=1)}


def model_from_state_dict(
    tensors: Mapping[str, Tensor],
    config: GlideConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    where: str = "The state dict",
) -> GlideModel:
    """Build a GLIDE model around tensors with OpenAI's flat names; see `load_model`."""
    return _finished(_assembled(tensors, config, device, dtype, where), dtype, where)


@torch.inference_mode(False)
def _assembled(
    tensors: Mapping[str, Tensor],
    config: GlideConfig,
    device: torch.device | str,
    dtype: torch.dtype,
    where: str,
) -> GlideModel:
    """Build a model around tensors; for int8 in the float dtype that `_finished` quantizes."""
    int8 = dtype == torch.int8
    if int8 and (reason := why_not_int8(device)):
        raise GlideError(f"{reason}. Expected another dtype, such as float32.")
    # a file's float16 tensors are quantized as they are, without a float32 copy of all of them
    half = all(tensor.dtype == torch.float16 for tensor in tensors.values())
    first = (torch.float16 if half else torch.float32) if int8 else dtype
    model: GlideModel = _on_meta(config).use_dtype(first)
    model.load_openai_state_dict(_prepared(tensors, model, device, where), assign=True)
    if not int8 and (torch.device(device).type == "cpu" or dtype != torch.float32):
        # what convolutions take: otherwise they reorder every weight at every step
        model = model.to(memory_format=torch.channels_last)
    return model


@torch.inference_mode(False)
def _finished(model: _Model, dtype: torch.dtype, where: str) -> _Model:
    """Quantize an int8 model; check and freeze every model, in eval mode."""
    if isinstance(model, GlideModel) and dtype == torch.int8:
        model.use_dtype(dtype)
    # after quantization, where a weight's scale is its largest value: to read all of a mapped file
    # before would keep it in memory
    for key, tensor in model.state_dict().items():
        check_finite(key, tensor, where)
    return model.requires_grad_(False).eval()


@torch.inference_mode(False)
def load_clip(
    paths: PathLike | Sequence[PathLike],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> NoisyClip:
    """Load a noisy CLIP, frozen and in eval mode: one safetensors, or OpenAI's two files.

    dtype: of the linear layers; norms and tables stay float32. int8 is taken as float32, which the
        gradient of a guide needs.
    """
    given = [paths] if isinstance(paths, (str, Path)) else paths
    file = _joined([read_tensors(path) for path in given], "clip")
    clip: NoisyClip = _on_meta(config_of(file)).float()  # whatever the default dtype is
    for module in clip.modules():
        if isinstance(module, Affine):
            module.to(torch.float32 if dtype == torch.int8 else dtype)
    clip.load_state_dict(_prepared(file.tensors, clip, device, str(file.path)), assign=True)
    return _finished(clip, dtype, str(file.path))


def _joined(files: Sequence[TensorFile], *whole: ModelType) -> TensorFile:
    """One file of a type in `whole`, or a CLIP's two as one with the names `image.*`, `text.*`."""
    parts = {detect_model_type(file): file for file in files}
    if len(files) == 1 and not parts.keys().isdisjoint(whole):
        return files[0]
    where = " and ".join(str(file.path) for file in files)
    if set(parts) != {"clip-image", "clip-text"} or len(files) != 2:
        raise GlideError(
            f"{where} is {' and '.join(_NAMES[found] for found in parts)}. Expected a noisy CLIP: "
            "one safetensors with both encoders, or OpenAI's clip_image_enc.pt and "
            "clip_text_enc.pt together."
        )
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for found, file in parts.items():
        half = found.removeprefix("clip-")
        tensors |= {f"{half}.{key}": tensor for key, tensor in file.tensors.items()}
        metadata |= file.metadata
    return TensorFile(Path(where), tensors, metadata)


def save_model(
    model: GlideModel | NoisyClip,
    path: PathLike,
    *,
    dtype: torch.dtype = torch.float16,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a model or noisy CLIP with its config as one safetensors, atomically.

    metadata: further entries (author, licence, ...), text by name.
    """
    stored = {**(metadata or {}), METADATA_KEY: model.config.to_json()}
    return write_tensors(_state(model), path, stored, dtype)


def convert(
    paths: PathLike | Sequence[PathLike],
    destination: PathLike | None = None,
    *,
    dtype: torch.dtype | None = None,
    kind: ModelKind | None = None,
    schedule: ScheduleConfig | None = None,
) -> Path:
    """Write a GLIDE model (one file) or a noisy CLIP (one file, or one per encoder) as safetensors.

    destination: default, the first file's name with the ending `.safetensors`, beside it.
    dtype: of the stored tensors; default, as they are.
    kind, schedule: of a GLIDE model, to be stored instead of what the file says; see `load_model`.
    GlideError when the destination exists, or the file is not a whole model.
    """
    given = [paths] if isinstance(paths, (str, Path)) else paths
    target = Path(destination or f"{os.path.splitext(Path(given[0]))[0]}.safetensors")
    check_new(target)
    file = _joined([read_tensors(path) for path in given], "glide", "clip")
    config = config_of(file, kind, schedule)
    tensors = add_mask_channel(file.tensors, config)
    check_tensors(tensors, _state(_on_meta(config)), str(file.path))
    return write_tensors(tensors, target, {METADATA_KEY: config.to_json()}, dtype)


def _state(model: GlideModel | NoisyClip) -> dict[str, Tensor]:
    """A model's tensors under the names that files have."""
    return model.state_dict() if isinstance(model, NoisyClip) else model.openai_state_dict()


def _on_meta(config: GlideConfig | ClipConfig) -> Any:
    """A GlideModel or NoisyClip without memory for its weights."""
    made: Any = GlideModel if isinstance(config, GlideConfig) else NoisyClip
    with _Uninitialised(), torch.device("meta"):
        return made(config)


class _Uninitialised(TorchFunctionMode):
    """Skip random initialisation, which on the meta device imports a second's worth of torch."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        module, name = getattr(func, "__module__", ""), getattr(func, "__name__", "")
        if module == "torch.nn.init" or name in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _prepared(
    tensors: Mapping[str, Tensor],
    model: GlideModel | NoisyClip,
    device: torch.device | str,
    where: str,
) -> dict[str, Tensor]:
    """Check tensors, and bring each to `device` and the dtype that it has in the model."""
    expected, ready = _state(model), {}
    check_tensors(tensors, expected, where)
    for key, like in expected.items():
        tensor = tensors[key].to(device=device, dtype=like.dtype)
        # we are outside inference mode: a copy is a plain tensor
        ready[key] = tensor.clone() if tensor.is_inference() else tensor
    return ready
