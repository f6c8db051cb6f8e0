"""LoRAs that were trained on the UNet in diffusers' form, turned into ones of OpenAI's layers.

Layers are `unet.<module>`, `<module>` or kohya's `lora_unet_<module>` with underscores. Exact:
OpenAI's fused q, k and v get the ranks of the separate ones side by side.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from glide_core.checkpoints.diffusers_format import fuse, layers
from glide_core.checkpoints.files import TensorFile
from glide_core.config import UNetConfig
from glide_core.errors import GlideError, shorten

_HALVES = (
    (".lora_A.weight", ".lora_B.weight"),  # peft
    (".lora.down.weight", ".lora.up.weight"),  # diffusers
    (".lora_down.weight", ".lora_up.weight"),  # kohya, with .alpha
)
_ALPHA = ".alpha"
_MAX_CONFIG = 1 << 20  # bytes

Pair = tuple[Tensor, Tensor]  # down [rank, in, ...] and up [out, rank, ...], alpha / rank in it


def file_alpha(file: TensorFile) -> float | None:
    """The alpha of a LoRA whose layers have none of their own, from the metadata or from peft's
    adapter_config.json beside the file; None when it is nowhere. GlideError: not a finite number.
    """
    found: Any = file.metadata.get("ss_network_alpha") or file.metadata.get("lora_alpha")
    beside = file.path.with_name("adapter_config.json")
    try:
        if found is None and "lora_adapter_metadata" in file.metadata:
            found = _alpha_in(json.loads(file.metadata["lora_adapter_metadata"]))
        if found is None and beside.is_file() and beside.stat().st_size < _MAX_CONFIG:
            found = _alpha_in(json.loads(beside.read_text(encoding="utf-8")))
        alpha = None if found is None else float(found)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise GlideError(
            f"{file.path} has an alpha that cannot be read: {shorten(error)}"
        ) from error
    if alpha is not None and not math.isfinite(alpha):
        raise GlideError(f"{file.path} has the alpha {alpha}. Expected a finite number.")
    return alpha


def _alpha_in(config: Any) -> Any:
    names = ("lora_alpha", "unet.lora_alpha")
    return next((config[n] for n in names if isinstance(config, dict) and n in config), None)


def lora_scale(tensors: Mapping[str, Tensor], name: str, rank: int, default: float | None) -> float:
    """alpha / rank of one layer; 1 without an alpha. GlideError for one that is not a number."""
    alpha = tensors.get(name + _ALPHA)
    if alpha is None:
        return 1.0 if default is None else default / max(1, rank)
    if alpha.numel() != 1 or alpha.is_complex() or not math.isfinite(float(alpha)):
        raise GlideError(
            f"The LoRA's {name}{_ALPHA} has the shape {list(alpha.shape)} or is not finite. "
            "Expected one finite number."
        )
    return float(alpha) / max(1, rank)


def lora_from_diffusers(
    tensors: Mapping[str, Tensor], unet: UNetConfig, alpha: float | None = None
) -> dict[str, Pair] | None:
    """Give the changes by the names of a GlideModel's layers ("unet.middle_block.0. ...").

    alpha: of layers that have none of their own. None unless all tensors are of such a LoRA.
    """
    pairs = dict(_pairs(tensors, alpha))
    alphas = sum(key.endswith(_ALPHA) for key in tensors)
    if not pairs or 2 * len(pairs) + alphas != len(tensors):
        return None
    found: dict[str, Pair] = {}
    for layer in layers(unet):
        given = [pairs.pop(_flat(name), None) for name in layer.theirs]
        if any(given):
            found[f"unet.{layer.ours}"] = _fused(given, unet.num_head_channels, layer.kernel)
    return None if pairs else found


def _pairs(tensors: Mapping[str, Tensor], default: float | None) -> Iterator[tuple[str, Pair]]:
    """Layers by diffusers' names, underscores for dots."""
    for key in tensors:
        for first, second in _HALVES:
            name = key.removesuffix(first)
            if name == key or name + second not in tensors:
                continue
            down, up = tensors[key].float(), tensors[name + second].float()
            if down.ndim < 2 or up.ndim < 2:
                continue
            scale = lora_scale(tensors, name, len(down), default)
            yield _flat(name.removeprefix("unet.").removeprefix("lora_unet_")), (down, up * scale)


def _fused(given: Sequence[Pair | None], head_channels: int, kernel: bool) -> Pair:
    """One change of a fused layer: every part's ranks, acting on that part's rows alone."""
    there = [pair for pair in given if pair is not None]
    down, up = there[0]
    if len(given) > 1:
        down = torch.cat([pair[0] for pair in there])
        rows = []
        first = 0
        for pair in given:
            row = up.new_zeros(len(up), len(down))
            if pair is not None:
                rank = pair[1].shape[1]
                row[:, first : first + rank] = pair[1]
                first += rank
            rows.append(row)
        up = fuse(rows, head_channels)
    if kernel:  # OpenAI's projections are convolutions with a kernel of 1
        down, up = down.reshape(*down.shape[:2], 1), up.reshape(*up.shape[:2], 1)
    return down, up


def _flat(name: str) -> str:
    return name.replace(".", "_")
