"""The layer classes that our networks are built of inside ComfyUI."""

from __future__ import annotations

from typing import Any

import comfy.ops
from torch import Tensor
from torch.nn import functional as F

from .versions import cast_weights


class GlideOperations(comfy.ops.manual_cast):
    """ComfyUI's casting layers: weights may be offloaded, patched on the fly, of another dtype.

    Norms get float32 inputs from the UNet while some weights are in half precision: only
    operations that cast their weights to the input can run that.
    """

    class Conv1d(comfy.ops.manual_cast.Conv1d):
        """Our convolutions over tokens all have kernel 1: a matrix product, done as one.

        The input is a transposed [B, L, C]; convolving it would copy it twice.
        """

        def forward_comfy_cast_weights(self, input: Tensor) -> Any:
            with cast_weights(self, input) as (weight, bias):
                return F.linear(input.transpose(1, 2), weight[..., 0], bias).transpose(1, 2)
