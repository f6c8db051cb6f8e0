"""ComfyUI's patches of a UNet as glide_core's `BlockPatches`, and the patches that cannot act.

FreeU and Deep Shrink change what passes between blocks; `attention_patches` has those of attention.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from glide_core.config import GlideConfig
from glide_core.errors import GlideError
from glide_core.models.unet import Attention, AttentionBlock, BlockPatches, UNet

from .attention_patches import ATTENTION_PATCHES, REPLACED, PatchedAttention, blocks_of

logger = logging.getLogger("glide")

_BEFORE_SKIP = "input_block_patch"
_AFTER_SKIP = "input_block_patch_after_skip"
_OUTPUT = "output_block_patch"
_SUPPORTED = {_BEFORE_SKIP, _AFTER_SKIP, _OUTPUT, *ATTENTION_PATCHES}


class ModelPatches(BlockPatches):
    """The block patches of one model call, as glide_core's UNet asks for them."""

    def __init__(
        self, options: Mapping[str, Any], config: GlideConfig, states: Tensor, size: Any
    ) -> None:
        """options: transformer_options. states: the text encoder's [B, L, W]. size: x's shape."""
        self.options, self.states = options, states
        self.found: Mapping[str, list[Callable[..., Any]]] = options.get("patches", {})
        self.replaced = options.get("patches_replace", {})
        self.everywhere = any(self.found.get(name) for name in ATTENTION_PATCHES)
        deepest = 2 ** (len(config.unet.channel_mult) - 1)  # the middle block always has attention
        scale = min((*config.unet.attention_factors, deepest)) * config.unet.patch_size
        self.grid = (size[-2] // scale, size[-1] // scale)
        self.layers = 0

    def attention(self, place: str, number: int, h: Tensor) -> Attention:
        layer, self.layers = self.layers, self.layers + 1
        block = (place, number)
        if not self.everywhere and not any(
            block in blocks_of(self.replaced.get(name, {})) for name in REPLACED
        ):
            return super().attention(place, number, h)
        options = {**self.options, "transformer_index": layer}
        return PatchedAttention(options, block, h, self.states, self.grid)

    def before_skip(self, h: Tensor, number: int) -> Tensor:
        return self._input(_BEFORE_SKIP, h, number)

    def after_skip(self, h: Tensor, number: int) -> Tensor:
        return self._input(_AFTER_SKIP, h, number)

    def before_output(self, h: Tensor, skip: Tensor, number: int) -> tuple[Tensor, Tensor]:
        for patch in self.found.get(_OUTPUT, ()):
            h, skip = patch(h, skip, {**self.options, "block": ("output", number)})
        return h, skip

    def _input(self, name: str, h: Tensor, number: int) -> Tensor:
        for patch in self.found.get(name, ()):
            h = patch(h, {**self.options, "block": ("input", number)})
        return h


def attention_places(unet: UNet) -> set[tuple[str, int]]:
    """Give the blocks of a UNet that have attention, as (place, number)."""
    groups = {
        "input": unet.input_blocks,
        "middle": [unet.middle_block],
        "output": unet.output_blocks,
    }
    return {
        (place, number)
        for place, blocks in groups.items()
        for number, block in enumerate(blocks)
        if any(isinstance(layer, AttentionBlock) for layer in block)  # type: ignore[attr-defined]
    }


def check_patches(options: Mapping[str, Any], unet: UNet) -> None:
    """Name what cannot act on GLIDE: an error for replaced blocks, a log line for the rest."""
    transformer = options.get("transformer_options", {})
    replaced = transformer.get("patches_replace", {})
    foreign = [
        fn for name, found in replaced.items() if name not in REPLACED for fn in found.values()
    ]
    if foreign:
        raise GlideError(
            f"this GLIDE MODEL carries a patch that replaces a layer GLIDE does not have "
            f"({named(foreign)}). Remove the node that adds it."
        )
    places = attention_places(unet)
    ignored = [
        fn
        for name in REPLACED
        for key, fn in replaced.get(name, {}).items()
        if (key[0], key[1]) not in places
    ]
    ignored += [
        fn
        for name, found in transformer.get("patches", {}).items()
        if name not in _SUPPORTED
        for fn in found
    ]
    if ignored:
        logger.warning(
            "Ignored model patches, for layers that GLIDE does not have: %s.", named(ignored)
        )


def named(functions: Iterable[Any]) -> str:
    """Name patches for a message: the module's last name and the node or function that made each.

    ComfyUI gives modules of node packs their path for a name.
    """
    found = []
    for fn in functions:
        module = str(getattr(fn, "__module__", "?")).replace("\\", "/")
        maker = str(getattr(fn, "__qualname__", type(fn).__qualname__)).split(".")[0]
        found.append(f"{module.rpartition('/')[-1].rpartition('.')[-1]}.{maker}")
    return ", ".join(dict.fromkeys(found))
