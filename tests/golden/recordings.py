"""Read a folder of recorded reference outputs, and compare with them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from reference_options import clip_config, glide_config
from torch import Tensor

from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip


@dataclass(frozen=True)
class Comparison:
    """One computed tensor against its recording, at its worst element."""

    label: str
    error: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.error <= self.allowed  # False for NaN

    @property
    def excess(self) -> float:
        """Share of the allowance used; above 1 is a failure."""
        if self.ok:
            return self.error / self.allowed if self.allowed else 0.0
        return self.error / self.allowed if self.allowed and self.error == self.error else 1e30


def compare(label: str, actual: Tensor, wanted: Tensor, atol: float, rtol: float) -> Comparison:
    """Find the element that uses up most of atol + rtol * |wanted|; a wrong shape is infinite."""
    if actual.shape != wanted.shape:
        shapes = f"{list(actual.shape)} where {list(wanted.shape)} was recorded"
        return Comparison(f"{label}: {shapes}", float("inf"), atol)
    if wanted.numel() == 0:
        return Comparison(f"{label}: nothing recorded", float("inf"), atol)
    error = (actual.double() - wanted.double()).abs().nan_to_num(nan=float("inf")).flatten()
    allowed = (atol + rtol * wanted.double().abs()).flatten()
    # 1e-300: an allowance of 0 (whole numbers) still ranks errors
    worst = int((error / allowed.clamp(min=1e-300)).argmax())
    return Comparison(label, float(error[worst]), float(allowed[worst]))


@dataclass
class Case:
    """A recorded case: what went in, what the reference gave, and how close is close enough.

    `check` compares one recorded output; `unchecked` names those that nothing was compared with.
    """

    name: str
    info: dict[str, Any]
    tensors: dict[str, Tensor]
    comparisons: list[Comparison] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def input(self, name: str) -> Tensor:
        return self._tensor(f"in.{name}")

    def optional_input(self, name: str) -> Tensor | None:
        return self.tensors.get(f"in.{name}")

    def output(self, name: str) -> Tensor:
        return self._tensor(f"out.{name}")

    def has_output(self, name: str) -> bool:
        return f"out.{name}" in self.tensors

    def option(self, name: str) -> Any:
        if name not in self.info:
            raise GlideError(f"the manifest gives no {name!r} for this case")
        return self.info[name]

    def tolerance(self, name: str) -> tuple[float, float]:
        """atol and rtol from the manifest; whole numbers must be equal."""
        if not self.output(name).is_floating_point():
            return 0.0, 0.0
        entry = self.info.get("fair_tolerance", {}).get(name)
        if entry is None:
            raise GlideError(f"the manifest gives no fair_tolerance for {name!r}")
        return float(entry["atol"]), float(entry["rtol"])

    def check(self, name: str, actual: Tensor, label: str = "", part: Any = ...) -> None:
        """Compare `actual` with output `name` (or with the `part` of it), noting the result."""
        wanted, tolerance = self.output(name)[part], self.tolerance(name)
        self._seen.add(f"out.{name}")
        self.comparisons.append(compare(label or name, actual, wanted, *tolerance))

    @property
    def unchecked(self) -> list[str]:
        return sorted(k for k in self.tensors if k.startswith("out.") and k not in self._seen)

    def _tensor(self, key: str) -> Tensor:
        if key not in self.tensors:
            raise GlideError(f"the recording holds no tensor {key!r}")
        return self.tensors[key]


class Recordings:
    """A folder in the recordings' format: manifest.json and the files it names.

    Models are built at their first use and kept: several cases use each.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.manifest: dict[str, Any] = self.json("manifest.json")
        if not isinstance(self.manifest, dict):
            raise GlideError(
                f"{self.directory / 'manifest.json'} is not a manifest: no JSON object"
            )
        self._models: dict[str, GlideModel] = {}
        self._clips: dict[str, NoisyClip] = {}

    def json(self, filename: str) -> Any:
        path = self._path(filename)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise GlideError(f"{path} is not JSON: {error}") from error

    def tensors(self, filename: str) -> dict[str, Tensor]:
        """Every tensor of a safetensors file; bfloat16 is storage only and becomes float32."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._path(filename)
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise GlideError(f"{path} is not a whole safetensors file: {error}") from error
        return {k: v.float() if v.dtype == torch.bfloat16 else v for k, v in tensors.items()}

    def case(self, name: str) -> Case:
        info = self.manifest["cases"][name]
        if "file" not in info:
            raise GlideError("the manifest names no file for this case")
        return Case(name, info, self.tensors(info["file"]))

    def model(self, name: str) -> GlideModel:
        """The GLIDE model `name` of the manifest, float32; its files together are its state."""
        if name not in self._models:
            entry = self._entry(name, "files")
            state = self._state(entry["files"])
            table = state.get("token_embedding.weight")
            if table is None:
                raise GlideError(f"the files of model {name!r} hold no token_embedding.weight")
            config = glide_config(entry["config"], n_vocab=len(table))
            model = GlideModel(config).eval()
            model.load_openai_state_dict(state)
            self._models[name] = model
        return self._models[name]

    def clip(self, name: str | None = None) -> NoisyClip:
        """The noisy CLIP `name` of the manifest, or its first, float32."""
        if name is None:
            entries = self.manifest.get("models", {}).items()
            name = next((n for n, entry in entries if "image_encoder_files" in entry), "clip")
        if name not in self._clips:
            entry = self._entry(name, "image_encoder_files", "text_encoder_files")
            clip = NoisyClip(clip_config(entry["config"])).eval()
            clip.image.load_state_dict(self._state(entry["image_encoder_files"]))
            clip.text.load_state_dict(self._state(entry["text_encoder_files"]))
            self._clips[name] = clip
        return self._clips[name]

    def _entry(self, name: str, *keys: str) -> dict[str, Any]:
        entry: dict[str, Any] = self.manifest.get("models", {}).get(name, {})
        missing = [key for key in ("config", *keys) if key not in entry]
        if missing:
            raise GlideError(f"the manifest's model {name!r} lacks {', '.join(missing)}")
        return entry

    def _state(self, filenames: list[str]) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for filename in filenames:
            state.update(self.tensors(filename))
        return state

    def _path(self, filename: str) -> Path:
        path = self.directory / filename
        if not path.is_file():
            raise GlideError(f"{path} is missing")
        return path
