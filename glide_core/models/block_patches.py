"""Interfaces for a host's patches in and between the UNet's blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from glide_core.models.unet import AttentionBlock


class AttentionHook(Protocol):
    """A host's replacement for the attention of one block."""

    def __call__(
        self, block: AttentionBlock, tokens: Tensor, keys_values: tuple[Tensor, Tensor], /
    ) -> Tensor:
        """Return the attention's output [B, HW, C], before the block's output projection.

        tokens: the normalized input [B, HW, C]. keys_values: the text's, each [B, heads, L, d].
        """
        ...


class BlockPatches(Protocol):
    """Patches in and between blocks; `number` is the block's index in the state dict."""

    def attention(self, place: str, number: int, h: Tensor, /) -> AttentionHook | None:
        """Return the hook for a block's attention layer, or None for the plain attention.

        h: the block's input. place: "input", "middle" or "output".
        """
        ...

    def before_skip(self, h: Tensor, number: int, /) -> Tensor:
        """Change the output of input block `number` before it is stored as skip connection."""
        ...

    def after_skip(self, h: Tensor, number: int, /) -> Tensor:
        """Change the output of input block `number` for the next block, not the skip connection."""
        ...

    def before_output(self, h: Tensor, skip: Tensor, number: int, /) -> tuple[Tensor, Tensor]:
        """Change the inputs of output block `number`: h and the skip connection."""
        ...
