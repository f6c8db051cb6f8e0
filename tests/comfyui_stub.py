"""A stub of the ComfyUI modules that nodes/host/comfyui imports, for machines without ComfyUI.

Classes that the pack subclasses or builds keep what the pack relies on; every other name is a
`Mock`. It shows that the host imports and builds its model classes, not that ComfyUI accepts them:
that is tested in tests/comfyui.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import nn

MODULES = (
    "comfy", "comfy.conds", "comfy.k_diffusion", "comfy.k_diffusion.sampling",
    "comfy.latent_formats", "comfy.model_base", "comfy.model_management", "comfy.model_patcher",
    "comfy.model_sampling", "comfy.ops", "comfy.patcher_extension", "comfy.samplers", "comfy.sd",
    "comfy.sd1_clip", "comfy.supported_models_base", "comfy.utils", "comfy_execution",
    "comfy_execution.utils", "folder_paths", "latent_preview", "nodes",
)  # fmt: skip


class StubModule(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, made)
        return made


class LatentFormat:
    latent_channels = 4


class Base:
    """supported_models_base.BASE."""

    def __init__(self, unet_config: dict[str, Any]) -> None:
        self.unet_config = unet_config
        self.latent_format = self.latent_format()  # type: ignore[has-type]

    def set_inference_dtype(self, dtype: Any, manual_cast_dtype: Any) -> None:
        self.unet_config["dtype"], self.manual_cast_dtype = dtype, manual_cast_dtype


class Sampling(nn.Module):
    """ModelSamplingDiscrete with the table of a cosine schedule."""

    def __init__(self, model_config: Any = None) -> None:
        super().__init__()
        self.settings = model_config.sampling_settings
        bar = torch.linspace(0.9999, 1e-8, 1000, dtype=torch.float64)
        self.sigmas = ((1 - bar) / bar).sqrt().float()


class BaseModel(nn.Module):
    def __init__(self, config: Any, kind: Any, device: Any = None, unet_model: Any = None) -> None:
        super().__init__()
        self.model_config, self.model_type = config, kind
        self.manual_cast_dtype = config.manual_cast_dtype
        self.latent_format = config.latent_format
        self.diffusion_model = unet_model(
            **config.unet_config, device=device, operations=config.custom_operations
        )

    def get_dtype(self) -> torch.dtype:
        return self.diffusion_model.dtype  # type: ignore[return-value]


class ModelPatcher:
    def __init__(self, model: Any, load_device: Any, offload_device: Any) -> None:
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.post_cfg: list[Any] = []
        self.wrappers: list[tuple[Any, Any]] = []

    def set_model_sampler_post_cfg_function(self, function: Any) -> None:
        self.post_cfg.append(function)

    def add_wrapper_with_key(self, kind: Any, key: str, wrapper: Any) -> None:
        self.wrappers.append((kind, wrapper))


class Clip:
    def __init__(
        self, target: Any, parameters: int = 0, model_options: dict[str, Any] | None = None
    ) -> None:
        dtype = (model_options or {})["dtype"]
        self.cond_stage_model = target.clip(device="cpu", dtype=dtype)
        self.tokenizer = target.tokenizer()
        self.patcher = ModelPatcher(self.cond_stage_model, "cpu", "cpu")


def modules() -> dict[str, types.ModuleType]:
    made = {name: StubModule(name) for name in MODULES}
    for name, module in made.items():
        module.__path__ = []  # a package, so that its submodules can be imported
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, module)
    made["comfy.latent_formats"].LatentFormat = LatentFormat
    made["comfy.supported_models_base"].BASE = Base
    made["comfy.supported_models_base"].ClipTarget = lambda tokenizer, clip: types.SimpleNamespace(
        tokenizer=tokenizer, clip=clip
    )
    made["comfy.model_base"].BaseModel = BaseModel
    sampling = made["comfy.model_sampling"]
    sampling.ModelSamplingDiscrete = Sampling
    sampling.EPS, sampling.V_PREDICTION = type("EPS", (), {}), type("V_PREDICTION", (), {})
    patcher = made["comfy.model_patcher"]
    patcher.ModelPatcher = patcher.CoreModelPatcher = ModelPatcher
    layers = ("Linear", "Conv1d", "Conv2d", "GroupNorm", "LayerNorm", "Embedding")
    made["comfy.ops"].manual_cast = type(
        "manual_cast", (), {name: getattr(nn, name) for name in layers}
    )
    made["comfy.sd"].CLIP, made["comfy.sd"].VAE = Clip, type("VAE", (), {})
    guider = type("CFGGuider", (), {"__init__": lambda self, patcher: None})
    made["comfy.samplers"].CFGGuider = guider
    management = made["comfy.model_management"]
    management.get_torch_device = management.unet_offload_device = lambda: torch.device("cpu")
    management.unet_dtype = lambda **options: torch.float32
    management.unet_manual_cast = lambda *args: None
    management.dtype_size = lambda dtype: dtype.itemsize
    return made


@contextmanager
def stubbed() -> Iterator[None]:
    """Have the stub in sys.modules, and nothing of the host that was imported with it after."""
    made = modules()
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
        for name in [name for name in sys.modules if ".host.comfyui" in name]:
            del sys.modules[name]
