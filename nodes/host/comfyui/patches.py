"""ComfyUI's patches of a UNet's blocks (FreeU, Deep Shrink), and those that GLIDE has no place for.

GLIDE's attention reads the text and the picture in one sequence, so that what replaces or changes
ComfyUI's self-attention ("attn1") or cross-attention ("attn2") has nothing to act on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from glide_core.errors import GlideError

logger = logging.getLogger("glide")

_BEFORE_SKIP = "input_block_patch"
_AFTER_SKIP = "input_block_patch_after_skip"
_OUTPUT = "output_block_patch"
_SUPPORTED = {_BEFORE_SKIP, _AFTER_SKIP, _OUTPUT}


class ModelPatches:
    """The block patches of one model call, as glide_core's UNet asks for them."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.found: Mapping[str, list[Callable[..., Any]]] = options["patches"]

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ModelPatches | None:
        """Give the patches in transformer_options; None where there are none."""
        found = options.get("patches", {})
        return cls(options) if _SUPPORTED & found.keys() else None

    def before_skip(self, h: Tensor, number: int, /) -> Tensor:
        return self._input(_BEFORE_SKIP, h, number)

    def after_skip(self, h: Tensor, number: int, /) -> Tensor:
        return self._input(_AFTER_SKIP, h, number)

    def before_output(self, h: Tensor, skip: Tensor, number: int, /) -> tuple[Tensor, Tensor]:
        for patch in self.found.get(_OUTPUT, ()):
            h, skip = patch(h, skip, {**self.options, "block": ("output", number)})
        return h, skip

    def _input(self, name: str, h: Tensor, number: int) -> Tensor:
        for patch in self.found.get(name, ()):
            h = patch(h, {**self.options, "block": ("input", number)})
        return h


def check_patches(options: Mapping[str, Any]) -> None:
    """Name what cannot act on GLIDE: an error for replaced attention, a log line for the rest."""
    transformer = options.get("transformer_options", {})
    replaced = transformer.get("patches_replace", {})
    functions = [fn for found in replaced.values() for fn in found.values()]
    if functions:
        raise GlideError(
            f"this GLIDE MODEL carries a patch that replaces attention ({named(functions)}), and "
            "GLIDE's attention reads text and picture in one, where it does not fit. Expected a "
            "MODEL without it: remove that node (Self-Attention Guidance, IPAdapter and the like)."
        )
    ignored = [
        fn
        for name, found in transformer.get("patches", {}).items()
        if name not in _SUPPORTED
        for fn in found
    ]
    if ignored:
        logger.warning(
            "these patches of the MODEL change attention or layers that GLIDE has not, and do "
            "nothing: %s",
            named(ignored),
        )


def named(functions: Iterable[Any]) -> str:
    """Name patches for a person: the module's last name and the node or function that made each.

    ComfyUI gives modules of node packs their path for a name.
    """
    found = []
    for fn in functions:
        module = str(getattr(fn, "__module__", "?")).replace("\\", "/")
        maker = str(getattr(fn, "__qualname__", type(fn).__qualname__)).split(".")[0]
        found.append(f"{module.rpartition('/')[-1].rpartition('.')[-1]}.{maker}")
    return ", ".join(dict.fromkeys(found))
