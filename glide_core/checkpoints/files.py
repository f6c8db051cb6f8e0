"""Read and write files of tensors: safetensors, and `.pt` without running what is pickled in it."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from glide_core.errors import GlideError
from glide_core.io import atomic_write

METADATA_KEY = "glide"  # where our files keep their config as JSON
_WRAPPERS = ("state_dict", "model")  # names under which training programs nest a state dict

Shape = tuple[int, ...]
Format = Literal["safetensors", "zip", "pickle"]


@dataclass(frozen=True)
class TensorFile:
    """A file's tensors (on the meta device where only shapes were asked for) and its metadata."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, Shape]:
        return {key: tuple(tensor.shape) for key, tensor in self.tensors.items()}


def read_tensors(path: Path | str) -> TensorFile:
    """Map a file's tensors into memory in their stored dtype; nothing pickled is executed.

    GlideError for a file that is missing, cut short, not a checkpoint, or that carries code.
    """
    return _read(Path(path), meta=False)


def read_shapes(path: Path | str) -> TensorFile:
    """Read names, shapes and metadata alone: the tensors are on the meta device."""
    return _read(Path(path), meta=True)


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path | str, metadata: Mapping[str, str]
) -> Path:
    """Write safetensors atomically; an existing file is replaced."""
    path = Path(path)
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(plain, temporary, metadata={"format": "pt", **metadata})
    return path


def _read(path: Path, meta: bool) -> TensorFile:
    file_format = _format(path)
    try:
        with torch.inference_mode(False):  # a tensor made in inference mode can take no gradient
            if file_format == "safetensors":
                return _read_safetensors(path, meta)
            return TensorFile(path, _state_dict(path, _unpickle(path, file_format, meta)))
    except MemoryError as error:
        raise GlideError(f"{path} does not fit into memory.") from error


def _format(path: Path) -> Format:
    """Tell the format from the first bytes: names lie."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(256)
    except FileNotFoundError as error:
        raise GlideError(
            f"There is no file {path}. Expected a checkpoint: check the name, or see "
            "`glide models` for what is known and how to get it."
        ) from error
    except OSError as error:
        raise GlideError(f"{path} cannot be read: {error.strerror}.") from error
    if head[:4] == b"PK\x03\x04":
        return "zip"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "pickle"
    if head[8:9] == b"{" and size > 8:
        return "safetensors"
    raise GlideError(
        f"{path} is {_what_else(head, size)}. Expected a checkpoint in safetensors or PyTorch's "
        "`.pt` format: get the file anew."
    )


def _what_else(head: bytes, size: int) -> str:
    if size == 0:
        return "empty"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file it stands for (run `git lfs pull`)"
    if head.lstrip()[:1] == b"<":
        return "a web page, probably an error page saved by a download"
    return "not a model file"


def _read_safetensors(path: Path, meta: bool) -> TensorFile:
    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            if meta:
                shapes = {name: file.get_slice(name).get_shape() for name in names}
                tensors = {n: torch.empty(shape, device="meta") for n, shape in shapes.items()}
            else:
                tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise _cut_short(path, error) from error
    return TensorFile(path, tensors, metadata)


def _unpickle(path: Path, file_format: Format, meta: bool) -> Any:
    mapped = file_format == "zip"
    if mapped and not zipfile.is_zipfile(path):  # the directory of a zip is at its end
        raise _cut_short(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are refused in a moment
            return torch.load(
                path, map_location="meta" if meta else "cpu", weights_only=True, mmap=mapped
            )
    except pickle.UnpicklingError as error:
        if "truncated" in str(error):
            raise _cut_short(path, error) from error
        raise GlideError(
            f"{path} holds pickled Python objects and not only tensors: loading it could run any "
            "code, so it is refused. Expected a plain state dict: get the file from a source you "
            "trust, as safetensors or as the dict of tensors that OpenAI released."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise _cut_short(path, error) from error


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """Unwrap what training programs wrap around a state dict, and insist on plain tensors."""
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content:
        raise GlideError(
            f"{path} holds a {type(content).__name__} and not named tensors. Expected a state dict."
        )
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise GlideError(
                f"{path} holds a {type(value).__name__} under {key!r}. Expected a state dict: "
                "tensors by name and nothing else. If this is a training checkpoint, save the "
                "model's state dict from it."
            )
    return dict(content)


def _cut_short(path: Path, error: Exception | None = None) -> GlideError:
    detail = f" ({str(error).splitlines()[0]})" if error and str(error) else ""
    return GlideError(
        f"{path} is damaged or was cut short ({path.stat().st_size:,} bytes){detail}. "
        "Expected a whole checkpoint: delete it and get it anew."
    )
