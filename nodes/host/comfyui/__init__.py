"""The host inside ComfyUI: MODEL, CLIP and VAE are its own classes, managed by it.

`comfy` is imported in this folder and nowhere else in the pack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import comfy.model_management
import comfy.model_sampling
import comfy.sd
import torch
from torch import Tensor

from glide_core.checkpoints.loading import load_clip
from glide_core.config import GlideConfig, ModelKind
from glide_core.errors import GlideError
from glide_core.sampling import ConditionedModel
from glide_core.stages import upsampled_size

from .. import Purpose
from ..values import (
    LOW_RES,
    ClipGuide,
    Conditioning,
    GlideClip,
    inpaint_extras,
    with_extras,
)
from . import files
from .checkpoint_compat import load_any
from .gradient_patcher import managed_clip
from .guidance import guided
from .model import GlideBaseModel, build_model
from .preview_pairs import compared
from .progress import progress
from .sampling import sample
from .text import LoadedText, build_clip
from .versions import set_reload

__all__ = ["ComfyHost"]


class ComfyHost:
    """`Host` inside a running ComfyUI."""

    name: Literal["comfyui"] = "comfyui"

    def checkpoint_names(self, *purposes: Purpose) -> list[str]:
        return files.names(*purposes)

    def checkpoint_path(self, name: str) -> Path:
        return files.path(name)

    def load_base(self, path: Path, dtype: str) -> tuple[Any, Any, Any]:
        patcher, text = self._load(path, dtype, ("base", "inpaint"))
        return patcher, text.clip, pixel_vae()

    def load_upsampler(self, path: Path, dtype: str) -> Any:
        return self._load(path, dtype, ("upsampler", "upsampler-inpaint"))[0]

    def _load(self, path: Path, dtype: str, kinds: Sequence[ModelKind]) -> tuple[Any, LoadedText]:
        patcher, text = load_model(path, dtype, kinds)
        set_reload(patcher, reload_model, path, dtype, kinds)
        set_reload(text.clip.patcher, reload_text, path, dtype, kinds)
        return patcher, text

    def load_clip(self, paths: Sequence[Path], dtype: str) -> GlideClip:
        with torch.inference_mode(False):
            module = load_clip(list(paths), dtype=_dtype(dtype) or torch.float32)
        name = " + ".join(path.name for path in paths)
        return managed_clip(GlideClip("noisy", name, module))

    def load_open_clip(
        self, architecture: str, weights: Path | None, tag: str, *, allow_download: bool
    ) -> GlideClip:
        from glide_core.guidance.open_clip import load_open_clip

        module, tokenizer = load_open_clip(
            architecture, weights, tag, allow_download=allow_download
        )
        return managed_clip(GlideClip("open_clip", architecture, module, tokenizer))

    def glide_config(self, model: Any) -> GlideConfig | None:
        inner = getattr(model, "model", None)
        return inner.glide_config if isinstance(inner, GlideBaseModel) else None

    def encode_text(self, clip: Any, text: str) -> Conditioning:
        """Encode a prompt as it stands: brackets weigh in CLIPTextEncode, not here."""
        tokens = clip.tokenize(text, disable_weights=True)
        return clip.encode_from_tokens_scheduled(tokens)

    def add_guide(self, model: Any, guide: ClipGuide) -> Any:
        return guided(model, guide)

    def sample(
        self,
        model: Any,
        conds: Sequence[Conditioning],
        job: Callable[[ConditionedModel], Tensor],
        *,
        batch: int,
        cfg: float = 1.0,
        low_res: Tensor | None = None,
        image: Tensor | None = None,
        keep_mask: Tensor | None = None,
    ) -> Tensor:
        config = self.glide_config(model)
        if config is None:
            raise GlideError(
                "this MODEL is not a GLIDE model. Expected the MODEL of GLIDE Loader or GLIDE "
                "Upsampler Loader: sample other models with KSampler."
            )
        spatial: dict[str, Any] = {}
        if low_res is not None:
            spatial[LOW_RES] = low_res
        if image is not None and keep_mask is not None:
            spatial |= inpaint_extras(image, keep_mask)
        prompts = [with_extras(cond, **spatial) for cond in conds]
        size = (config.unet.image_size, config.unet.image_size)
        if image is not None:
            size = (image.shape[-2], image.shape[-1])
        elif low_res is not None:
            size = upsampled_size(low_res)
        shape = (batch, config.unet.channels, *size)
        return sample(model, prompts, job, shape=shape, cfg=cfg)

    def progress(self, label: str, stages: int = 1) -> Any:
        return progress(label, stages)

    def sigma_at(self, model: Any, percent: float) -> float:
        sampling = model.get_model_object("model_sampling")
        sigma = float(sampling.percent_to_sigma(percent))
        if isinstance(sampling, comfy.model_sampling.CONST):  # the guide counts noise per signal
            return sigma / (1 - sigma) if sigma < 1 else math.inf
        return sigma

    def compared(self, before: Tensor, after: Tensor, result: tuple[Any, ...]) -> dict[str, Any]:
        return {"ui": {"glide_compare": compared(before, after)}, "result": result}

    @contextmanager
    def clip_loaded(self, clip: GlideClip) -> Iterator[torch.device | str]:
        comfy.model_management.load_models_gpu([clip.patcher])
        yield clip.patcher.load_device


def load_model(
    path: Path, dtype: str, kinds: Sequence[ModelKind], *, disable_dynamic: bool = False
) -> tuple[Any, LoadedText]:
    """Load a checkpoint as a ModelPatcher of its UNet, and its text encoder."""
    with torch.inference_mode(False):  # weights made inside it can take no part in a gradient
        model = load_any(path, kinds)
        text = build_clip(model.text, model.config)
        found = build_model(model, _dtype(dtype), text, disable_dynamic=disable_dynamic)
        return found, text


def reload_model(
    path: Path, dtype: str, kinds: Sequence[ModelKind], disable_dynamic: bool = False
) -> Any:
    """Load a checkpoint again and give the ModelPatcher of its UNet."""
    return load_model(path, dtype, kinds, disable_dynamic=disable_dynamic)[0]


def reload_text(
    path: Path, dtype: str, kinds: Sequence[ModelKind], disable_dynamic: bool = False
) -> Any:
    """Load a checkpoint again and give the ModelPatcher of its text encoder."""
    with torch.inference_mode(False):
        model = load_any(path, kinds)
        return build_clip(model.text, model.config).clip.patcher


def pixel_vae() -> comfy.sd.VAE:
    """Give the VAE of images that are their own latents, in float32.

    ComfyUI's own choice of bfloat16 on some devices would leave 8 bits of every pixel.
    """
    return comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)


def _dtype(name: str) -> torch.dtype | None:
    return None if name == "auto" else getattr(torch, name)
