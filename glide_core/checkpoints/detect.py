"""Detect the type of a model and its config from the names and shapes of its tensors.

Files saved here have their config as metadata. In others, what shapes do not show is as in OpenAI's
models: heads of 64 channels, image size 2 ** (levels + 2), their schedules, epsilon prediction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from glide_core.checkpoints.files import METADATA_KEY, Shape, TensorFile
from glide_core.config import (
    KINDS,
    ClipConfig,
    GlideConfig,
    ModelKind,
    ScheduleConfig,
    TextConfig,
    TokenizerName,
    UNetConfig,
)
from glide_core.errors import GlideError

Shapes = Mapping[str, Shape]
ModelType = Literal["glide", "clip", "clip-image", "clip-text"]

_HEAD_WIDTH = 64
_TOKENIZERS: dict[int, TokenizerName] = {
    50257: "glide-bpe",
    49408: "clip-bpe",
    65536: "clip-bpe",
    2048: "glide-small",
}

# Models of other architectures: a pattern of their keys, the most specific ones first, and a name.
_OTHERS = (
    (r"lora_(up|down|A|B)\.|\.lokr_|\.hada_", "a LoRA, not a model. Apply it with a LoRA loader"),
    (r"clip_to_(time|xf)\.", "a latent GLIDE model, which needs a VAE and is not supported"),
    (r"decoder\.input_blocks\.", "a PITI model, which is given no text and is not supported"),
    (r"(clip_tok_proj|text_(seq|feat)_proj|clip_img_proj|prd_emb)\b", "a Karlo (unCLIP) model"),
    (r"(clip_to_seq|to_model_dim_n|proj_n)\.", "a Kandinsky 2 UNet"),
    (r"encoder_pooling\.", "a DeepFloyd IF UNet"),
    (r"backbone\.resblocks\.", "a Point-E or Shap-E model"),
    (r"diffusion_model\.", "a whole Stable Diffusion checkpoint. Load it with its loader"),
    (r"(input_blocks|down_blocks)\..*transformer_blocks\.", "a Stable Diffusion UNet"),
    (r"down_blocks\..*add_k_proj", "a UNet in diffusers' format: convert it with from_diffusers"),
    (r"down_blocks\.", "a UNet in diffusers' format, of another family than GLIDE"),
    (r"(double_blocks|joint_blocks|transformer_blocks)\.", "a diffusion transformer"),
    (r"(first_stage_model\.|encoder\.down|decoder\.up)", "a VAE"),
    (r"visual\.", "an ordinary CLIP, not trained on noised images. Load it as an un-noised CLIP"),
    (r"(text_model|vision_model)\.", "an ordinary CLIP in the Hugging Face format"),
    (r"label_emb\.", "a class-conditional UNet (guided-diffusion), which takes no text"),
    (r"input_blocks\.", "a UNet without a text encoder, such as guided-diffusion's"),
    (r"token_embedding\.weight$", "a text encoder without its UNet"),
)
_NEVER_GLIDE = re.compile(r"(^|\.)(transformer_blocks|clip_to_time|clip_to_xf)\.")


def detect_model_type(file: TensorFile) -> ModelType:
    """Tell a GLIDE model from a noisy CLIP, whole or one of its two encoders.

    GlideError names other architectures.
    """
    shapes = file.shapes
    whole = "input_blocks.0.0.weight" in shapes and "token_embedding.weight" in shapes
    if whole and not any(map(_NEVER_GLIDE.search, shapes)):
        return "glide"
    image, text = "blocks.input.w_t", "blocks.input.w_voc"
    if f"image.{image}" in shapes or f"text.{text}" in shapes:
        return "clip"
    if image in shapes:
        return "clip-image"
    if text in shapes:
        return "clip-text"
    others = (
        name
        for pattern, name in _OTHERS
        if any(re.search(rf"(^|\.)({pattern})", key) for key in shapes)
    )
    some = ", ".join(list(shapes)[:3]) or "no tensor at all"
    what = next(others, f"not of a known architecture (it holds {some})")
    raise GlideError(f"{file.path} is {what}. Expected a GLIDE model or a noisy CLIP.")


def config_of(
    file: TensorFile, kind: ModelKind | None = None, schedule: ScheduleConfig | None = None
) -> GlideConfig | ClipConfig:
    """Read the config from a file's metadata, or without any from names and shapes.

    kind, schedule: of a GLIDE model, instead of what the file says. One encoder of a noisy CLIP
    gives a config whose other half is the released model's. GlideError when a tensor that is needed
    is missing; whether all tensors fit the config is checked when they are loaded.
    """
    shapes, stored = file.shapes, file.metadata.get(METADATA_KEY)
    found = detect_model_type(file)
    try:
        if found == "glide":
            seen = GlideConfig.from_json(stored) if stored else _glide_config(shapes, kind)
            return replace(seen, kind=kind or seen.kind, schedule=schedule or seen.schedule)
        if kind is not None or schedule is not None:
            raise GlideError("a noisy CLIP has no kind and no schedule to override")
        return ClipConfig.from_json(stored) if stored else _clip_config(shapes, found)
    except GlideError as error:
        raise GlideError(f"{file.path} cannot be read: {error}") from error


def _glide_config(shapes: Shapes, kind: ModelKind | None) -> GlideConfig:
    levels = len(_numbers(shapes, r"output_blocks\.(\d+)\.[12]\.in_layers\.0\.weight")) + 1
    blocks = len(_numbers(shapes, r"output_blocks\.(\d+)\.0\.")) // levels
    first = [1 + level * blocks for level in range(levels)]  # input block of each level
    widths = [_sizes(shapes, f"input_blocks.{i}.0.in_layers.2.weight", 4)[0] for i in first]
    attended = [2**n for n, i in enumerate(first) if f"input_blocks.{i}.1.qkv.weight" in shapes]
    model_channels = _sizes(shapes, "time_embed.0.weight", 2)[1]
    channels = _sizes(shapes, "out.2.weight", 4)[0] // 2
    kind = kind or _kind(_sizes(shapes, "input_blocks.0.0.weight", 4)[1], channels)
    n_vocab, text_width = _sizes(shapes, "token_embedding.weight", 2)
    return GlideConfig(
        kind=kind,
        text=TextConfig(
            n_vocab=n_vocab,
            context_length=_sizes(shapes, "positional_embedding", 2)[0],
            width=text_width,
            layers=len(_numbers(shapes, r"transformer\.resblocks\.(\d+)\.")),
            heads=_heads(text_width),
        ),
        unet=UNetConfig(
            image_size=2 ** (levels + 2),
            model_channels=model_channels,
            num_res_blocks=blocks - 1,
            channel_mult=tuple(width // model_channels for width in widths),
            attention_factors=tuple(attended),
            channels=channels,
        ),
        schedule=ScheduleConfig("linear" if "upsampler" in kind else "squaredcos_cap_v2"),
        tokenizer=_tokenizer(n_vocab),
    )


def _clip_config(shapes: Shapes, found: ModelType) -> ClipConfig:
    fields: dict[str, Any] = {}
    for half in ("image", "text") if found == "clip" else (found.removeprefix("clip-"),):
        blocks = f"{half}.blocks." if found == "clip" else "blocks."
        embedding, width = _sizes(shapes, f"{blocks}output.f.w", 2)
        length = _sizes(shapes, f"{blocks}input.w_pos", 2)[0]
        fields |= {
            "embedding": embedding,
            f"{half}_width": width,
            f"{half}_heads": _heads(width),
            f"{half}_layers": len(_numbers(shapes, rf"{blocks}block_(\d+)\.")),
        }
        if half == "image":
            patch = _sizes(shapes, f"{blocks}input.patch_proj", 4)[-1]
            fields |= {"patch_size": patch, "image_size": round((length - 1) ** 0.5) * patch}
            fields["n_timesteps"] = _sizes(shapes, f"{blocks}input.w_t", 2)[0]
        else:
            n_vocab = _sizes(shapes, f"{blocks}input.w_voc", 2)[0]
            fields |= {"n_vocab": n_vocab, "tokenizer": _tokenizer(n_vocab)}
            fields["context_length"] = length
    return ClipConfig(**fields)


def _sizes(shapes: Shapes, key: str, rank: int) -> Shape:
    """One tensor's shape; GlideError for a tensor that is missing, empty or of another rank."""
    shape = shapes.get(key, ())
    if len(shape) != rank or not all(shape):
        found = f"has the shape {list(shape)}" if key in shapes else "is missing"
        raise GlideError(f"{key} {found}. Expected {rank} dimensions, none empty.")
    return shape


def _numbers(shapes: Shapes, pattern: str) -> set[int]:
    """All values of the group in keys that begin with `pattern`."""
    return {int(found[1]) for found in (re.match(pattern, key) for key in shapes) if found}


def _kind(found: int, channels: int) -> ModelKind:
    """The kind of a model by its input channels."""
    unet = UNetConfig(channels=channels)
    known = {GlideConfig(kind=kind, unet=unet).in_channels: kind for kind in KINDS}
    if found not in known:
        expected = ", ".join(f"{count} ({kind})" for count, kind in known.items())
        raise GlideError(f"it has {found} input channels. Expected {expected}.")
    return known[found]


def _heads(width: int) -> int:
    if width % _HEAD_WIDTH:
        usual = f"attention heads of the usual {_HEAD_WIDTH} channels"
        raise GlideError(f"its {width} channels cannot be split into {usual}. Pass its config.")
    return width // _HEAD_WIDTH


def _tokenizer(vocabulary: int) -> TokenizerName:
    if vocabulary not in _TOKENIZERS:
        sizes = " or ".join(map(str, _TOKENIZERS))
        raise GlideError(f"its vocabulary has {vocabulary} tokens. Expected {sizes}.")
    return _TOKENIZERS[vocabulary]
