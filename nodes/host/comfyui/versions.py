"""Differences between the versions of ComfyUI that this pack runs in, 0.3.64 to 0.33.

Each function asks for an attribute and never for a version number. docs/compatibility.md lists what
differs for a user.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch
from torch import Tensor, nn

from glide_core.errors import GlideError

# What DynamicVRAM (0.12 and newer) keeps on the modules that it manages. The values own native
# memory or describe it, so that no copy of a module may keep them.
_RUNTIME = frozenset(
    {"dynamic_vbars", "dynamic_pins", "dynamic_patchers", "_v", "_pins", "_pin_state", "_prefetch"}
)


def model_patcher(
    model: nn.Module, *, load_device: Any, offload_device: Any, disable_dynamic: bool = False
) -> Any:
    """Build the ModelPatcher that ComfyUI's own loaders build: a dynamic one where that is on."""
    plain = comfy.model_patcher.ModelPatcher
    chosen = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    return chosen(model, load_device=load_device, offload_device=offload_device)


def set_reload(patcher: Any, reload: Callable[..., Any], *args: Any) -> None:
    """Tell ComfyUI how to load a patcher's model from its file again.

    Train LoRA, multi-GPU nodes and compilation of dynamic models (0.16 and newer) call
    `reload(*args, disable_dynamic=True)`, which must give a new patcher.
    """
    patcher.cached_patcher_init = (reload, args)


def text_encoder(
    cls: type[comfy.sd.CLIP], target: Any, *, parameters: int, dtype: torch.dtype
) -> comfy.sd.CLIP:
    """Build a comfy.sd.CLIP on a plain ModelPatcher.

    Hooks cannot patch weights of a dynamic patcher, and GLIDE's text encoder is small. Newer
    versions read `disable_offload` of the model instead of the argument.
    """
    options: dict[str, Any] = {"parameters": parameters, "model_options": {"dtype": dtype}}
    if "disable_dynamic" in inspect.signature(comfy.sd.CLIP.__init__).parameters:
        options["disable_dynamic"] = True
    return cls(target, **options)


def archive_dtypes(module: nn.Module) -> None:
    """Record the dtype of every weight, which DynamicVRAM casts it to; after weights changed."""
    archive = getattr(comfy.model_management, "archive_model_dtypes", None)
    if archive is not None:
        archive(module)


def check_easy_cache(options: dict[str, Any], batch: int) -> None:
    """GlideError where EasyCache would fail: in 0.3.64 it mixes up the prompts of a batch."""
    holder = options.get("transformer_options", {}).get("easycache")
    known = holder is None or hasattr(holder, "can_apply_cache_diff")
    if not known and hasattr(holder, "uuid_cache_diffs") and batch > 1:
        raise GlideError(
            f"EasyCache of this ComfyUI fails with {batch} images at once. Generate one image at a "
            "time, remove EasyCache, or update ComfyUI."
        )


@contextmanager
def cast_weights(layer: Any, input: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Give a layer's weight and bias, patched, on the device and in the dtype of `input`.

    They hold for the `with` block: where weights are streamed, their memory is reused after it.
    """
    uncast = getattr(comfy.ops, "uncast_bias_weight", None)
    if uncast is None:  # before 0.3.68
        yield comfy.ops.cast_bias_weight(layer, input)
        return
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, input, offloadable=True)
    try:
        yield weight, bias
    finally:
        uncast(layer, weight, bias, stream)


def copy_module(module: nn.Module) -> Any:
    """Copy a module that ComfyUI manages, without what DynamicVRAM attached to it.

    A plain deepcopy would own the same native memory, and free it a second time.
    """
    shared: dict[int, Any] = {}
    for part in module.modules():
        for name, value in vars(part).items():
            if is_runtime(name):
                shared[id(value)] = value
    copied = copy.deepcopy(module, shared)
    for part in copied.modules():
        for name in [name for name in vars(part) if is_runtime(name)]:
            delattr(part, name)
    return copied


def is_runtime(name: str) -> bool:
    """Whether an attribute of a module belongs to DynamicVRAM (`_v_signature`, `_v_block`, ...)."""
    return name in _RUNTIME or name.startswith("_v_")
