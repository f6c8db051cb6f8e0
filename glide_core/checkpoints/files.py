"""Read and write files of tensors: safetensors, and `.pt` without running what is pickled in it."""

from __future__ import annotations

import pickle
import stat
import warnings
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from glide_core.errors import GlideError, as_glide_error, is_out_of_memory, shorten
from glide_core.io import atomic_write

METADATA_KEY = "glide"  # where our files keep their config as JSON
_MAX_TENSORS = 20_000  # the released models have about 800
_MAX_NAME = 500  # characters of a tensor's name
# Tensors of one mapping of a file: its memory is free again when the last of them is converted
_MAPPED_TOGETHER = 32
_MAX_METADATA = 1 << 20  # characters of all metadata together
# Names under which training programs nest a state dict; averaged weights before the last ones
_WRAPPERS = ("ema", "model_ema", "state_dict", "model", "module")
# What wrappers of a module put before every name: torch.compile, DistributedDataParallel, Lightning
_PREFIXES = ("_orig_mod.", "module.", "model.")
# dtypes that torch converts to float32 on every device
_STORED = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)
_RUN = {"config", "model_config", "step", "ema"}  # what `glide train` writes into checkpoint.pt

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorFile:
    """A file's tensors (on the meta device where only shapes were asked for) and its metadata."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, Shape]:
        return {key: tuple(tensor.shape) for key, tensor in self.tensors.items()}


@torch.inference_mode(False)  # a tensor made in inference mode can take no gradient
def read_tensors(path: Path | str, *, meta: bool = False) -> TensorFile:
    """Map a file's tensors into memory in their stored dtype; nothing pickled is executed.

    meta: read names, shapes and metadata alone; the tensors are on the meta device.
    A nested state dict is taken out and prefixes of training programs are removed (`_WRAPPERS`,
    `_PREFIXES`). Of a training run's checkpoint.pt the averaged weights are read, with the config
    as metadata. GlideError for a file that is missing, damaged, not a checkpoint, or that carries
    code, and for tensors that are not dense or have no data.
    """
    path = Path(path)
    file_format = _format(path)
    with as_glide_error(
        f"{path} is damaged or was cut short, at {path.stat().st_size:,} bytes (delete it and "
        "download or export it again)"
    ):  # of a damaged pickle anything comes: TypeError, struct.error, ...
        if file_format == "safetensors":
            found = _read_safetensors(path, meta)
        else:
            found = _read_pickle(path, file_format == "zip", meta)
        _check_sizes(found, meta)
        # empty tensors are marks, such as ComfyUI's "v_pred"; torch's AveragedModel has a counter
        tensors = {k: t for k, t in found.tensors.items() if t.numel() and k != "n_averaged"}
        return TensorFile(path, _without_prefixes(tensors), found.metadata)


def write_tensors(
    tensors: Mapping[str, Tensor],
    path: Path | str,
    metadata: Mapping[str, str],
    dtype: torch.dtype | None = None,
) -> Path:
    """Write safetensors atomically; an existing file is replaced.

    dtype: of the stored tensors; default, as they are. GlideError where one is not finite.
    """
    path, plain = Path(path), {}
    for key, tensor in tensors.items():
        plain[key] = tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
        check_finite(key, plain[key], f"What is to be written to {path}")
    with atomic_write(path) as temporary:
        save_file(plain, temporary, metadata={"format": "pt", **metadata})
    return path


def _format(path: Path) -> str:
    """Tell "safetensors", "zip" and "pickle" by the first bytes; a name's ending proves nothing."""
    with as_glide_error(f"{shorten(path, 200)} cannot be read", (OSError, ValueError)):
        if str(path) != str(path).encode(errors="ignore").decode():
            raise OSError("its name is not UTF-8, rename it or its folder")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
            raise OSError("it is a folder, pipe or device, not a file")
        with path.open("rb") as file:
            head = file.read(256)
        if head[:4] == b"PK\x03\x04":
            return "zip"
        if head[:1] == b"\x80" and head[1:2] <= b"\x05":
            return "pickle"
        if head[8:9] == b"{" and status.st_size > 8:
            return "safetensors"
    what = "not a model file"
    if not head:
        what = "empty"
    elif head.startswith(b"version https://git-lfs"):
        what = "a git-lfs pointer, not the file itself (run `git lfs pull`)"
    elif head.lstrip()[:1] == b"<":
        what = "a web page, probably an error page saved by a download"
    raise GlideError(f"{path} is {what}. Expected a checkpoint: safetensors or PyTorch's `.pt`.")


def _read_safetensors(path: Path, meta: bool) -> TensorFile:
    with safe_open(path, framework="pt") as file:
        metadata, names = file.metadata() or {}, list(file.keys())
        tensors: dict[str, Tensor] = {}
        if meta:
            for name in names:
                tensors[name] = torch.empty(file.get_slice(name).get_shape(), device="meta")
    together = max(_MAPPED_TOGETHER, len(names) // _MAPPED_TOGETHER)  # every part reads the header
    for i in range(0, 0 if meta else len(names), together):
        with safe_open(path, framework="pt") as file:
            tensors |= {n: file.get_tensor(n) for n in names[i : i + together]}
    if sum(map(len, metadata.values())) > _MAX_METADATA:
        raise GlideError(f"{path} has more than {_MAX_METADATA:,} characters of metadata.")
    return TensorFile(path, tensors, metadata)


def _read_pickle(path: Path, zipped: bool, meta: bool) -> TensorFile:
    if zipped:
        with zipfile.ZipFile(path) as archive:  # the directory of a zip is at its end
            compressed = [i for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED]
        if compressed:  # torch never compresses; unpacking could fill the memory
            raise GlideError(f"{path} is a compressed zip archive. Expected one as torch.save's.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles that are refused anyway
        try:
            content = torch.load(
                path, map_location="meta" if meta else "cpu", weights_only=True, mmap=zipped
            )
        except Exception as error:
            if is_out_of_memory(error):  # a damaged file claims any size
                raise GlideError(f"out of memory: {path} does not fit.") from error
            if not isinstance(error, pickle.UnpicklingError) or "truncated" in str(error):
                raise
            raise GlideError(
                f"{path} is refused: it holds pickled Python objects, which could run any code. "
                "Expected safetensors, or a dict of tensors as OpenAI released."
            ) from error
    tensors = _unwrapped(content)
    if tensors is None:
        what = type(content).__name__
        if isinstance(content, Mapping) and content:
            key, value = next((k, v) for k, v in content.items() if not _is_named_tensor(k, v))
            what = f"{type(value).__name__} under {shorten(repr(key))}"
        raise GlideError(
            f"{path} holds a {what}. Expected a state dict: tensors by name and nothing else."
        )
    config = content["model_config"] if content.keys() >= _RUN else None
    if not isinstance(config, str):
        return TensorFile(path, tensors)
    if content["config"].get("lora"):
        raise GlideError(
            f"{path} holds a LoRA and not the model under it. Expected a whole model: start from "
            "the model that it was trained from."
        )
    if '"glide_config"' in config:  # a GlideModel's names, without its two parts
        tensors = {key.partition(".")[2]: tensor for key, tensor in tensors.items()}
    return TensorFile(path, tensors, {METADATA_KEY: config})


def _unwrapped(content: Any, depth: int = 4) -> dict[str, Tensor] | None:
    """The state dict in what was pickled."""
    if not isinstance(content, Mapping) or not content or depth < 0:
        return None
    if all(_is_named_tensor(key, value) for key, value in content.items()):
        return dict(content)
    inner = (_unwrapped(content.get(name), depth - 1) for name in _WRAPPERS)
    return next((found for found in inner if found is not None), None)


def _is_named_tensor(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _check_sizes(file: TensorFile, meta: bool) -> None:
    """Refuse tensors that are not dense or have no data, before anything is done with them."""
    if (count := len(file.tensors)) > _MAX_TENSORS:
        raise GlideError(f"{file.path} holds {count:,} tensors. Expected {_MAX_TENSORS:,} at most.")
    for key, tensor in file.tensors.items():
        if len(key) > _MAX_NAME:
            raise GlideError(f"{file.path} has a name of {len(key):,} characters: {key[:40]}...")
        size = tensor.numel() * tensor.element_size()
        # a stride of 0 repeats a few numbers to any size, which a copy would then need
        if (
            tensor.layout != torch.strided
            or tensor.is_quantized
            or tensor.is_nested
            or (tensor.is_meta and not meta)
            or tensor.untyped_storage().nbytes() < size
        ):
            raise GlideError(
                f"{file.path} holds {key} as a sparse, quantized or repeated tensor or without data"
            )


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that all names have."""
    for prefix in _PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors):
            return _without_prefixes({k.removeprefix(prefix): t for k, t in tensors.items()})
    return tensors


def check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str
) -> None:
    """Refuse a state dict whose names and shapes are not the expected ones; list what differs."""
    shared = {key: (tensors[key], expected[key]) for key in expected.keys() & tensors.keys()}
    found: dict[str, Collection[str]] = {
        "missing": expected.keys() - tensors.keys(),
        "not part of the model": tensors.keys() - expected.keys(),
        "of another shape": [
            f"{key} is {list(tensor.shape)}, not {list(like.shape)}"
            for key, (tensor, like) in shared.items()
            if tensor.shape != like.shape
        ],
        "of a dtype that is not supported": [
            f"{key} ({t.dtype})" for key, (t, _) in shared.items() if t.dtype not in _STORED
        ],
    }
    faults = [
        f"{what}: {', '.join(sorted(names)[:4])}{', ...' if len(names) > 4 else ''}"
        for what, names in found.items()
        if names
    ]
    if faults:
        raise GlideError(
            f"{where} does not fit its config. Tensors {'; '.join(faults)}. Expected a whole model "
            "of one kind: download or export it again."
        )


def check_finite(key: str, tensor: Tensor, where: str) -> None:
    """Refuse NaN and infinity by one pass over the tensor."""
    low, high = torch.aminmax(tensor)  # NaN comes through both
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise GlideError(
            f"{where} holds NaN or infinite values in {key} (as {tensor.dtype}): its training "
            "diverged, the file is damaged, or the dtype is too narrow for it (try float32)."
        )
