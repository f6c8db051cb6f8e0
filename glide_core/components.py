"""The models of a pipeline by role: found by name, file or folder; loaded at first use."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from glide_core import __version__
from glide_core.checkpoints.catalog import find_model, model_files
from glide_core.checkpoints.files import read_tensors
from glide_core.checkpoints.loading import inspect, load_clip, load_model, save_model
from glide_core.checkpoints.lora import apply_lora
from glide_core.config import ClipConfig
from glide_core.devices import pick_device, pick_dtype
from glide_core.errors import GlideError, as_glide_error
from glide_core.fields import short
from glide_core.io import atomic_write, check_folder, check_new, user_path
from glide_core.models.glide import GlideModel
from glide_core.models.int8 import why_not_int8
from glide_core.models.noisy_clip import NoisyClip

Role = Literal["base", "upsampler", "inpaint", "upsampler_inpaint", "clip"]
Source = str | Path | Sequence[str | Path]  # a name or a file; two for OpenAI's noisy CLIP
Model = GlideModel | NoisyClip

ROLES: tuple[Role, ...] = get_args(Role)
INDEX = "model_index.json"


def stage_roles(inpaint: bool) -> dict[str, Role]:
    """The roles of the models of the stages "base" and "upsampler"."""
    if inpaint:
        return {"base": "inpaint", "upsampler": "upsampler_inpaint"}
    return {"base": "base", "upsampler": "upsampler"}


class Components:
    """The models of a pipeline by role; a file is read when its model is first used."""

    def __init__(
        self,
        sources: Mapping[Role, Source | Model],
        *,
        torch_dtype: torch.dtype | str = "auto",
        device: torch.device | str = "auto",
    ) -> None:
        self.device = pick_device(device)  # that computes
        self.dtype = pick_dtype(torch_dtype, self.device)
        self.compiled = False  # torch.compile the UNets that are loaded from now on
        self._storage = self.device  # where models are kept between uses
        self._files: dict[Role, tuple[str | Path, ...]] = {}
        self._loaded: dict[Role, Model] = {}
        self._loras: dict[Role, list[tuple[Path, float]]] = {}
        self._before_lora: dict[Role, dict[str, Tensor]] = {}
        for role, source in sources.items():
            if isinstance(source, (GlideModel, NoisyClip)):
                self._loaded[role] = source.to(self.device)
            else:
                self._files[role] = _names(source)

    @property
    def components(self) -> dict[str, Model]:
        """All available models by role, loaded."""
        return {r: self.model(r) for r in ROLES if r in self._loaded or r in self._files}

    def paths(self, role: Role) -> list[Path]:
        """The files of a role; GlideError says how to get one that is missing."""
        if not self._files.get(role):
            hint = f"expected from_pretrained(..., {role}=FILE)"
            raise GlideError(f"this pipeline has no model for {role!r}: {hint}")
        return [find_model(str(name)) for name in self._files[role]]

    def model(self, role: Role) -> Any:
        """The model of a role, loaded if it is not yet: NoisyClip for "clip", else GlideModel."""
        if role not in self._loaded:
            self._loaded[role] = self._load(role, self._loras.get(role, ()))
        return self._loaded[role]

    def _load(self, role: Role, loras: Sequence[tuple[Path, float]]) -> Model:
        paths = self.paths(role)
        if role == "clip":
            return load_clip(paths, device=self._storage, dtype=self.dtype)
        # a LoRA is merged before the weights are rounded to 8 bits
        dtype = torch.float32 if loras and self.dtype == torch.int8 else self.dtype
        # an inpainting model without a mask is a base model
        kinds = ("base", "inpaint") if role == "base" else (role.replace("_", "-"),)
        model = load_model(paths[0], device=self._storage, dtype=dtype, kinds=cast("Any", kinds))
        for file, strength in loras:
            apply_lora(model, file, strength)
        if dtype != self.dtype:
            model.use_dtype(self.dtype)
        if self.compiled and not model.is_int8:
            model.unet.compile()
        return model

    def metadata(self, role: Role) -> Mapping[str, str]:
        """The metadata of a role's file; empty for a model that came without a file."""
        return read_tensors(self.paths(role)[0], meta=True).metadata if role in self._files else {}

    @contextmanager
    def use(self, role: Role) -> Iterator[Any]:
        """The model on the device that computes; back in storage at the end of the block."""
        model = self.model(role).to(self.device)
        try:
            yield model
        finally:
            if self._storage != self.device:
                model.to(self._storage)

    def to(
        self, *where: torch.device | str | torch.dtype, dtype: torch.dtype | None = None
    ) -> None:
        """Move all models to a device, and their heavy layers to a dtype.

        A device ends offloading. A model from a file is loaded again where it becomes int8 or was.
        """
        device = None
        for each in where:
            if isinstance(each, torch.dtype):
                dtype = each
            else:
                device = pick_device(each)
        if dtype is not None and "clip" in self._loaded:
            raise GlideError(
                "a loaded noisy CLIP cannot change its dtype: give torch_dtype to from_pretrained"
            )
        what = dtype or self.dtype
        if what == torch.int8 and (reason := why_not_int8(device or self.device)):
            raise GlideError(f"{reason}. Give another torch_dtype, too.")
        if torch.int8 in (what, self.dtype) and what != self.dtype:
            for role in self._loaded.keys() & self._files.keys():
                del self._loaded[role]
                self._before_lora.pop(role, None)
        self.device, self.dtype = device or self.device, what
        self._storage = device or self._storage
        for model in self._loaded.values():
            if dtype is not None:
                cast(GlideModel, model).use_dtype(dtype)
            model.to(self._storage)

    def offload(self, device: torch.device | str) -> None:
        """Keep models in CPU memory and each on `device` only while it runs."""
        self.device, self._storage = pick_device(device), torch.device("cpu")
        for model in self._loaded.values():
            model.to(self._storage)

    def add_lora(self, component: Role, path: Path, strength: float) -> None:
        """Merge a LoRA's file into a model; several add up."""
        if component not in ROLES[:-1]:
            raise GlideError(f"component is {short(component)}: expected {', '.join(ROLES[:-1])}")
        model, lora = self.model(component), (path, strength)
        loras = [*self._loras.get(component, ()), lora]
        if model.is_int8:
            self._loaded[component] = self._load(component, loras)
        else:
            before = {name: parameter.data for name, parameter in model.named_parameters()}
            apply_lora(model, *lora)  # replaces the tensors that change
            self._before_lora.setdefault(component, before)
        self._loras[component] = loras

    def remove_loras(self) -> None:
        """Restore the weights from before `add_lora`, bit for bit."""
        for role in self._loras:
            if role in self._before_lora:
                for name, parameter in self.model(role).named_parameters():
                    before = self._before_lora[role][name]
                    parameter.data = before.to(parameter.device, parameter.dtype)
            else:
                self._loaded.pop(role, None)
        self._loras.clear()
        self._before_lora.clear()

    def save(self, folder: Path) -> Path:
        """Write all models and model_index.json to a new folder."""
        check_folder(folder)
        models = self.components
        names = {role: f"{role}.safetensors" for role in models}
        for name in (*names.values(), INDEX):
            check_new(folder / name)
        for role, model in models.items():
            save_model(model, folder / names[role], dtype=_exact_dtype(model))
        index = {"_class_name": "GlidePipeline", "_glide_version": __version__, **names}
        with atomic_write(folder / INDEX) as temporary:
            temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        return folder


def find_components(source: str | Path | Sequence[str | Path]) -> Mapping[Role, Source]:
    """Roles and files of "bundled", "openai", a folder, or checkpoint files by their kinds."""
    if source == "bundled":
        return {role: role.replace("_", "-") for role in ROLES}
    if source == "openai":
        names: dict[Role, Source] = {r: f"openai-{r.replace('_', '-')}" for r in ROLES}
        return {**names, "clip": ("openai-clip-image", "openai-clip-text")}
    if isinstance(source, (str, Path)):
        folder = user_path(source)
        if os.path.isdir(folder):  # unlike Path's, False for what cannot be a path
            if (folder / INDEX).is_file():
                return _indexed(folder)
            if not (found := model_files(folder, most_folders=1)):
                raise GlideError(f"{folder} holds no model: expected .safetensors or .pt files")
            return _by_kind(found)
    return _by_kind([find_model(str(name)) for name in _names(source)])


def _names(source: Source) -> tuple[str | Path, ...]:
    """The files of a source; GlideError for what is none."""
    given = (source,) if isinstance(source, (str, Path)) else source
    if isinstance(given, Sequence) and all(isinstance(name, (str, Path)) for name in given):
        return tuple(given)
    raise GlideError(f"a model is {short(source)}: expected a file, a name, or a list of files")


def _indexed(folder: Path) -> dict[Role, Source]:
    path = folder / INDEX
    kinds = (OSError, ValueError, TypeError, AttributeError, RecursionError)
    with as_glide_error(f"{path} cannot be used", kinds):
        index = json.loads(path.read_text(encoding="utf-8"))
        named = {role: index[role] for role in ROLES if index.get(role) is not None}
        if index.get("_class_name") != "GlidePipeline" or not named:
            raise ValueError("it does not describe a GlidePipeline")
        if any(Path(name).name != name for name in named.values()):
            raise ValueError("a component is not a file name in the same folder")
    return {role: folder / name for role, name in named.items()}


def _by_kind(paths: Sequence[Path]) -> Mapping[Role, Source]:
    found: dict[Role, list[Path]] = {}
    for path in paths:
        config = inspect(path)
        kind = "clip" if isinstance(config, ClipConfig) else config.kind
        files = found.setdefault(cast(Role, kind.replace("-", "_")), [])
        files.append(path)
        if len(files) > 1 and kind != "clip":
            raise GlideError(f"{files[0]} and {path} are both {kind} models: expected one")
    return found


def _exact_dtype(model: nn.Module) -> torch.dtype:
    """float16 if it holds every weight exactly, else float32."""
    exact = all(torch.equal(p.half().to(p.dtype), p) for p in model.state_dict().values())
    return torch.float16 if exact else torch.float32
