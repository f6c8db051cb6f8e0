"""Read a LoRA of any trainer; turn one of diffusers' layers into one of OpenAI's.

Layers are `unet.<module>`, `<module>` or kohya's `lora_unet_<module>` with underscores. Exact:
OpenAI's fused q, k and v get the ranks of the separate ones side by side.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
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
log = logging.getLogger("glide")


def read_pairs(file: TensorFile) -> dict[str, Pair]:
    """Read the changes of every layer, float32, by the layers' names in the file.

    A warning when neither the file nor its layers say an alpha. GlideError for anything but a LoRA.
    """
    common, tensors, pairs = _file_alpha(file), file.tensors, {}
    alphas = sum(key.endswith(_ALPHA) for key in tensors)
    if common is None and not alphas:
        log.warning(
            "%s does not say its alpha: it is taken to be the rank. If it was trained with another "
            "alpha, put adapter_config.json beside it, or change the strength",
            file.path,
        )
    for key in tensors:
        for first, second in _HALVES:
            name = key.removesuffix(first)
            if name == key or name + second not in tensors:
                continue
            down, up = tensors[key].float(), tensors[name + second].float()
            if min(down.ndim, up.ndim) >= 2:
                pairs[name] = down, up * _scale(tensors, name, len(down), common)
            if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
                raise GlideError(
                    f"{file.path} holds NaN or infinite values in {name}. Expected finite weights."
                )
    if not pairs or 2 * len(pairs) + alphas != len(tensors):
        raise GlideError(
            f"{file.path} is not a LoRA that can be read here. Expected only pairs of tensors such "
            "as *.lora_down.weight and *.lora_up.weight: take a file of `glide train --lora`."
        )
    return pairs


def _file_alpha(file: TensorFile) -> float | None:
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


def _scale(tensors: Mapping[str, Tensor], name: str, rank: int, default: float | None) -> float:
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


def lora_from_diffusers(pairs: Mapping[str, Pair], unet: UNetConfig) -> dict[str, Pair] | None:
    """Give changes by the names of a GlideModel's layers ("unet.middle_block.0. ...").

    None unless all of them are changes of diffusers' layers of this UNet.
    """
    left = {
        _flat(name.removeprefix("unet.").removeprefix("lora_unet_")): pair
        for name, pair in pairs.items()
    }
    found: dict[str, Pair] = {}
    for layer in layers(unet):
        given = [left.pop(_flat(name), None) for name in layer.theirs]
        if any(given):
            found[f"unet.{layer.ours}"] = _fused(given, unet.num_head_channels, layer.kernel)
    return None if left else found


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
