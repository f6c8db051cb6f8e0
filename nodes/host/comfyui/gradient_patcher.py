"""Modules that gradients pass through, under ComfyUI's memory management."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from torch import nn

from ..values import GlideClip
from .versions import copy_module


class GradientPatcher(comfy.model_patcher.ModelPatcher):
    """A ModelPatcher whose weights can always take part in a backward pass.

    ComfyUI moves models while it runs nodes, under inference mode, and autograd does not accept
    weights that were moved there. ComfyUI may also load a part of a model only, which needs its
    own layer classes: this one is loaded whole or not at all.
    """

    def load(self, device_to: Any = None, *unused: Any, **options: Any) -> Any:
        options |= {"lowvram_model_memory": 0, "full_load": True}
        with torch.inference_mode(False):
            return super().load(device_to, **options)

    def unpatch_model(self, *args: Any, **options: Any) -> Any:
        with torch.inference_mode(False):
            return super().unpatch_model(*args, **options)

    def partially_unload(self, *unused: Any, **unused_too: Any) -> int:
        return 0  # ComfyUI then unloads it whole


def gradient_patcher(module: nn.Module) -> GradientPatcher:
    """Give a frozen module, made outside inference mode, to ComfyUI to load and offload."""
    return GradientPatcher(
        module.requires_grad_(False).eval(),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def managed_clip(clip: GlideClip) -> GlideClip:
    """Give a GLIDE_CLIP whose module ComfyUI loads, offloads and frees."""
    return replace(clip, patcher=gradient_patcher(clip.module))


def managed_decoder(vae: Any) -> GradientPatcher:
    """Copy a VAE's network to one that gradients can pass: the loaded one was made for inference.

    The copy costs the VAE's memory once more, under the same management.
    """
    vae.throw_exception_if_invalid()
    with torch.inference_mode(False):
        module = copy_module(vae.first_stage_model)
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_inference():
                owner = module.get_submodule(name.rpartition(".")[0])
                plain = tensor.detach().clone()
                if isinstance(tensor, nn.Parameter):
                    plain = nn.Parameter(plain, requires_grad=False)
                setattr(owner, name.rpartition(".")[2], plain)
        return gradient_patcher(module)
