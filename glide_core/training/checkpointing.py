"""Activation checkpointing: blocks are computed again in the backward pass, not remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from glide_core.models import noisy_clip, text_encoder, unet

BLOCKS = (unet.ResBlock, unet.AttentionBlock, text_encoder.Block, noisy_clip.Block)


def install(model: nn.Module) -> int:
    """Checkpoint every block of the networks: same gradients, less memory, one more forward pass.

    Gives the number of blocks.
    """
    blocks = [module for module in model.modules() if isinstance(module, BLOCKS)]
    for block in blocks:
        block.forward = _recomputed(block.forward)  # type: ignore[method-assign]
    return len(blocks)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False)

    return run
