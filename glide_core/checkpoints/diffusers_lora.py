"""LoRAs that were trained on the UNet in diffusers' form, turned into ones of OpenAI's layers.

Names of a layer: `unet.<module>` or `<module>` with diffusers' dots, or `lora_unet_<module>` with
underscores; of its two halves: `.lora_A/.lora_B` (peft), `.lora.down/.lora.up` (diffusers),
`.lora_down/.lora_up` with `.alpha` (kohya). Exact: OpenAI's fused q, k and v get the ranks of the
separate ones side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from glide_core.checkpoints.diffusers_format import fuse, modules
from glide_core.config import UNetConfig

_HALVES = (
    (".lora_A.weight", ".lora_B.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_down.weight", ".lora_up.weight"),
)
_ALPHA = ".alpha"

Pair = tuple[Tensor, Tensor]  # down [rank, in, ...] and up [out, rank, ...], alpha / rank in it


def lora_from_diffusers(tensors: Mapping[str, Tensor], unet: UNetConfig) -> dict[str, Pair] | None:
    """Give the changes by the names of a GlideModel's layers ("unet.middle_block.0. ...").

    None when the tensors are not, all of them, a LoRA of this UNet in diffusers' form.
    """
    pairs = dict(_pairs(tensors))
    alphas = sum(key.endswith(_ALPHA) for key in tensors)
    if not pairs or 2 * len(pairs) + alphas != len(tensors):
        return None
    found: dict[str, Pair] = {}
    for ours, theirs, kernel in modules(unet):
        given = [pairs.pop(_flat(name), None) for name in theirs]
        if any(given):
            found[f"unet.{ours}"] = _fused(given, unet.num_head_channels, kernel)
    return None if pairs else found


def _pairs(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Pair]]:
    """Layers by diffusers' names, underscores for dots."""
    for key in tensors:
        for first, second in _HALVES:
            name = key.removesuffix(first)
            if name == key or name + second not in tensors:
                continue
            down, up = tensors[key].float(), tensors[name + second].float()
            alpha = tensors.get(name + _ALPHA)
            scale = 1.0 if alpha is None else float(alpha) / len(down)
            yield _flat(name.removeprefix("unet.").removeprefix("lora_unet_")), (down, up * scale)


def _fused(given: Sequence[Pair | None], head_channels: int, kernel: bool) -> Pair:
    """One change of a fused layer: every part's ranks, acting on that part's rows alone."""
    there = [pair for pair in given if pair is not None]
    if len(given) == 1:
        down, up = there[0]
    else:
        down = torch.cat([pair[0] for pair in there])
        out = there[0][1].shape[0]
        ranks = [pair[1].shape[1] for pair in there]
        blocks = iter(
            torch.nn.functional.pad(pair[1], (sum(ranks[:i]), sum(ranks[i + 1 :])))
            for i, pair in enumerate(there)
        )
        rows = [
            up.new_zeros(out, sum(ranks)) if pair is None else next(blocks)
            for pair, up in ((pair, there[0][1]) for pair in given)
        ]
        up = fuse(rows, head_channels)
    if kernel:  # OpenAI's projections are convolutions with a kernel of 1
        down, up = down.reshape(*down.shape[:2], 1), up.reshape(*up.shape[:2], 1)
    return down, up


def _flat(name: str) -> str:
    return name.replace(".", "_")
