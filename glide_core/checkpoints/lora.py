"""LoRA files: low-rank changes of a model's weights, with kohya's names as ComfyUI reads them.

A layer's weight W becomes W + strength * (alpha / rank) * up @ down (Hu et al. 2021). The UNet's
layers are `lora_unet_...` with underscores for dots, the text encoder's
`text_encoders.glide....`, the generic name under which ComfyUI's LoraLoader finds our CLIP.

LoRAs of the UNet in diffusers' form are read too, with layers called `unet.<module>`, `<module>` or
kohya's `lora_unet_<module>`. Exact: OpenAI's fused q, k and v get the ranks of the separate ones
side by side.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glide_core.checkpoints.diffusers_format import fuse
from glide_core.checkpoints.diffusers_format import layers as unet_layers
from glide_core.checkpoints.files import TensorFile, read_tensors, write_tensors
from glide_core.config import GlideConfig, UNetConfig
from glide_core.errors import GlideError, as_glide_error, shorten
from glide_core.fields import short
from glide_core.io import check_new
from glide_core.models.glide import GlideModel

METADATA_KEY = "glide_lora"
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_DOWN, _UP, _ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"  # kohya's
_HALVES = (
    (_DOWN, _UP),
    (".lora_A.weight", ".lora_B.weight"),  # peft
    (".lora.down.weight", ".lora.up.weight"),  # diffusers
)
_ALPHAS = ("ss_network_alpha", "lora_alpha", "unet.lora_alpha")  # names in metadata
_MAX_CONFIG = 1 << 20  # bytes
_MAX_CHANGE = 60_000  # of one weight; float16 ends above it

Pair = tuple[Tensor, Tensor]  # down [rank, in, ...] and up [out, rank, ...], alpha / rank in it
log = logging.getLogger("glide")


def fingerprint(model: GlideModel) -> str:
    """Hash the output layer, which no LoRA changes, to identify a model: 16 hexadecimal digits."""
    head = model.unet.get_parameter("out.2.weight").detach().cpu().half().contiguous()
    return hashlib.sha256(head.numpy().tobytes()).hexdigest()[:16]


def lora_key(module: str) -> str:
    """The file's name of a layer, from its name in a GlideModel (`unet. ...` or `text. ...`)."""
    part, _, rest = module.partition(".")
    return (
        f"text_encoders.glide.{rest}" if part == "text" else "lora_unet_" + rest.replace(".", "_")
    )


def save_lora(
    layers: Mapping[str, Pair],
    path: Path | str,
    model: GlideModel,
    alpha: float,
    base: str,
    *,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a LoRA atomically, with what it was trained for as JSON in its metadata.

    layers: (down [rank, in, ...], up [out, rank, ...]) by the layers' names in a GlideModel.
    model, base: the model that it was trained from, and the name of its file.
    """
    rank = len(next(iter(layers.values()))[0])
    info = {**_trained_for(model), "rank": rank, "alpha": alpha, "base": base}
    stored = {
        **(metadata or {}),
        METADATA_KEY: json.dumps(info, sort_keys=True),
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_sd_model_name": base,
    }
    named = {lora_key(name): pair for name, pair in layers.items()}
    return write_tensors(_tensors(named, alpha), path, stored)


def _trained_for(model: GlideModel) -> dict[str, str]:
    c = model.config
    prediction = c.schedule.prediction_type
    fields = {"kind": c.kind, "prediction_type": prediction, "tokenizer": c.tokenizer}
    return {**fields, "fingerprint": fingerprint(model)}


@torch.no_grad()
def apply_lora(model: GlideModel, path: Path | str, strength: float = 1.0) -> GlideModel:
    """Merge a LoRA into a model's weights, in place; returns the model.

    strength: 0 changes nothing, 1 is what was trained, a negative value subtracts the change.
    GlideError when the file is not a LoRA, or fits another model; a warning when it was trained
    from other weights.
    """
    number = isinstance(strength, (int, float)) and not isinstance(strength, bool)
    if not number or not -1000 <= strength <= 1000:
        raise GlideError(f"the LoRA's strength is {short(strength)}: expected -1000 to 1000")
    file = read_tensors(path)
    changes = _read_pairs(file)
    changes = _from_diffusers(changes, model.config.unet) or changes
    _check_info(model, file)
    layers = {lora_key(n): m for n, m in model.named_modules() if isinstance(m, LAYERS)}
    for key, (down, up) in changes.items():  # before any weight changes
        changed = [len(up), *down.shape[1:]]
        fits = key in layers and changed == list(layers[key].weight.shape)
        if not fits or up.flatten(1).shape[1] != len(down):
            raise GlideError(
                f"The LoRA {path} changes a layer {key} of the shape {changed}, which this model "
                "does not have: it was trained for another model."
            )
        most = abs(strength) * len(down) * float(down.abs().max()) * float(up.abs().max())
        if not most <= _MAX_CHANGE:
            raise GlideError(
                f"{path} changes {key} by up to {most:g} at strength {strength:g}. Expected at "
                f"most {_MAX_CHANGE:,}: the file is damaged, or its training diverged."
            )
    if strength:
        for key, (down, up) in changes.items():
            weight = layers[key].weight
            change = strength * (up.flatten(1) @ down.flatten(1))
            new = weight.float() + change.to(weight.device).view_as(weight)
            # not in place: the tensor may be the file, mapped into memory
            layers[key].weight.data = torch.empty_like(weight).copy_(new)
    return model


def convert_lora(config: GlideConfig, path: Path | str, destination: Path | str) -> Path:
    """Rewrite a LoRA of the UNet in diffusers' form as ComfyUI's LoraLoader reads it.

    config: of the model that it is for. GlideError when the destination exists, or the file is not
    such a LoRA of this model.
    """
    check_new(Path(destination))
    file = read_tensors(path)
    pairs = _from_diffusers(_read_pairs(file), config.unet)
    if pairs is None:
        raise GlideError(
            f"{path} is not a LoRA of this {config.kind} model's UNet in diffusers' form. Expected "
            "layers such as unet.mid_block.attentions.0.to_q, all of which this model has."
        )
    return write_tensors(_tensors(pairs), destination, dict(file.metadata))


def _tensors(layers: Mapping[str, Pair], alpha: float | None = None) -> dict[str, Tensor]:
    """A file's tensors; alpha None: of the rank, as the scale is inside `up` already."""
    tensors: dict[str, Tensor] = {}
    for key, (down, up) in layers.items():
        own = torch.tensor(float(len(down)) if alpha is None else alpha)
        tensors |= {key + _DOWN: down, key + _UP: up, key + _ALPHA: own}
    return tensors


def _check_info(model: GlideModel, file: TensorFile) -> None:
    stored = file.metadata.get(METADATA_KEY)
    if stored is None:  # from another trainer: the layers alone must fit
        return
    this = _trained_for(model)
    with as_glide_error(f"{file.path} carries metadata that cannot be read"):
        info = json.loads(stored)
        for name in ("prediction_type", "tokenizer"):
            if info[name] != this[name]:
                raise GlideError(
                    f"{file.path} was trained from {short(info['base'])} with the {name} "
                    f"{shorten(info[name])}. Expected this model's, {this[name]}."
                )
        if info["fingerprint"] != this["fingerprint"]:
            log.warning("%s was trained from other weights (%s)", file.path, shorten(info["base"]))


def _read_pairs(file: TensorFile) -> dict[str, Pair]:
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
    for key, down in tensors.items():
        for first, second in _HALVES:
            name = key.removesuffix(first)
            up = tensors.get(name + second)
            if name == key or up is None or min(down.ndim, up.ndim) < 2:
                continue
            if down.is_floating_point() and up.is_floating_point():
                alpha = tensors.get(name + _ALPHA, common)
                with as_glide_error(f"{file.path}: the alpha of {name} is not one number"):
                    scale = 1.0 if alpha is None else float(alpha) / len(down)
                pairs[name] = down.float(), up.float() * scale
    if not pairs or 2 * len(pairs) + alphas != len(tensors):
        raise GlideError(
            f"{file.path} is not a LoRA that can be read here. Expected only pairs of floating "
            "point tensors such as *.lora_down.weight and *.lora_up.weight."
        )
    return pairs


def _file_alpha(file: TensorFile) -> float | None:
    """The alpha of a LoRA whose layers have none of their own, from the metadata or from peft's
    adapter_config.json beside the file; None without either. GlideError: not a number.
    """
    beside = file.path.with_name("adapter_config.json")
    fields: dict[str, Any] = {}
    with as_glide_error(f"{file.path} has an alpha that cannot be read"):
        if beside.is_file() and beside.stat().st_size < _MAX_CONFIG:
            fields |= json.loads(beside.read_text(encoding="utf-8"))
        fields |= json.loads(file.metadata.get("lora_adapter_metadata", "{}"))
        fields |= file.metadata
        return next((float(fields[name]) for name in _ALPHAS if name in fields), None)


def _from_diffusers(pairs: Mapping[str, Pair], unet: UNetConfig) -> dict[str, Pair] | None:
    """Give changes of diffusers' layers by our files' names of the layers that hold them.

    None unless all of them are changes of diffusers' layers of this UNet.
    """
    left = {}
    for name, pair in pairs.items():
        left[name.removeprefix("unet.").removeprefix("lora_unet_").replace(".", "_")] = pair
    found: dict[str, Pair] = {}
    for ours, theirs in unet_layers(unet):
        given = [left.pop(name.replace(".", "_"), None) for name in theirs]
        if any(given):
            message = f"The LoRA's changes of {theirs[0]} do not fit this model"
            with as_glide_error(message, (RuntimeError, IndexError)):
                down, up = _fused(given, unet.num_head_channels)
                if ".attentions." in theirs[0]:  # a convolution with a kernel of 1
                    down, up = down.reshape(*down.shape[:2], 1), up.reshape(*up.shape[:2], 1)
                found[lora_key(f"unet.{ours}")] = down, up
    return None if left else found


def _fused(given: Sequence[Pair | None], head_channels: int) -> Pair:
    """One change of a fused layer: every part's ranks, acting on that part's rows alone."""
    there = [pair for pair in given if pair is not None]
    if len(given) == 1:
        return there[0]
    nothing = there[0][1][:, :0]  # of a part without a change
    ups = [nothing if pair is None else pair[1] for pair in given]
    whole: Tensor = torch.block_diag(*ups)  # type: ignore[no-untyped-call]
    rows = torch.split(whole, [len(up) for up in ups])
    return torch.cat([down for down, _ in there]), fuse(rows, head_channels)
