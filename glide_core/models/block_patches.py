"""Interfaces by which a host changes what happens in and between the UNet's blocks."""

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
        """Give the attention's output [B, HW, C], before the block's output projection.

        tokens: the normalized input [B, HW, C]. keys_values: the text's, each [B, heads, L, d].
        """
        ...


class BlockPatches(Protocol):
    """What a host may change in and between blocks; `number` is the index in the state dict."""

    def attention(self, place: str, number: int, h: Tensor, /) -> AttentionHook | None:
        """Give the hook for the attention layer of a block that gets h; None for the plain one.

        place: "input", "middle" or "output".
        """
        ...

    def before_skip(self, h: Tensor, number: int, /) -> Tensor:
        """Change what input block `number` gave, before the skip connection takes it."""
        ...

    def after_skip(self, h: Tensor, number: int, /) -> Tensor:
        """Change what goes on from input block `number`, the skip connection left alone."""
        ...

    def before_output(self, h: Tensor, skip: Tensor, number: int, /) -> tuple[Tensor, Tensor]:
        """Change what output block `number` gets: its own input, and the skip connection's."""
        ...
