"""Detect the type of a model and its config from the names and shapes of its tensors.

What shapes do not show comes from the metadata of files saved here, or is as in OpenAI's models:
heads of 64 channels, image size 2 ** (levels + 2), their schedules, epsilon prediction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

from glide_core.checkpoints.files import METADATA_KEY, Shape
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
    (r"clip_to_(time|xf)\.", "a latent GLIDE model (glide-finetune's latent mode), which needs a "
     "VAE and a CLIP image embedding and is not supported"),
    (r"decoder\.input_blocks\.", "a PITI model, whose text encoder is replaced by an encoder of "
     "masks or sketches, and is not supported"),
    (r"(clip_tok_proj|text_seq_proj|text_feat_proj|clip_img_proj|prd_emb)\b", "a Karlo (unCLIP) "
     "model"),
    (r"(clip_to_seq|to_model_dim_n|proj_n)\.", "a Kandinsky 2 UNet"),
    (r"encoder_pooling\.", "a DeepFloyd IF UNet"),
    (r"backbone\.resblocks\.", "a Point-E or Shap-E model"),
    (r"diffusion_model\.", "a whole Stable Diffusion checkpoint. Load it with its loader"),
    (r"(input_blocks|down_blocks)\..*transformer_blocks\.", "a Stable Diffusion UNet"),
    (r"down_blocks\..*add_k_proj", "a UNet in diffusers' format: convert it with from_diffusers"),
    (r"down_blocks\.", "a UNet in diffusers' format, of another family than GLIDE"),
    (r"(double_blocks|joint_blocks|transformer_blocks)\.", "a diffusion transformer"),
    (r"(first_stage_model\.|encoder\.down|decoder\.up)", "a VAE"),
    (r"visual\.", "an ordinary CLIP. GLIDE's guidance here needs one trained on noised images; "
     "load this one as an un-noised (open_clip) CLIP"),
    (r"(text_model|vision_model)\.", "an ordinary CLIP in the Hugging Face format"),
    (r"label_emb\.", "a class-conditional UNet (guided-diffusion), which takes no text"),
    (r"input_blocks\.", "a UNet without a text encoder, such as guided-diffusion's"),
    (r"token_embedding\.weight$", "a text encoder without its UNet"),
)  # fmt: skip
_NEVER_GLIDE = re.compile(r"(^|\.)(transformer_blocks|clip_to_time|clip_to_xf)\.")


def detect_model_type(shapes: Shapes, where: str = "The file") -> ModelType:
    """Tell a GLIDE model from a noisy CLIP, whole or one of its two encoders.

    where: the state dict's name in errors, which name other architectures, too.
    """
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
    for pattern, name in _OTHERS:
        expression = re.compile(rf"(^|\.)({pattern})")
        if any(map(expression.search, shapes)):
            raise GlideError(f"{where} is {name}. Expected a GLIDE model or a noisy CLIP.")
    some = ", ".join(list(shapes)[:3]) or "no tensor at all"
    raise GlideError(
        f"{where} is not of a known architecture (it holds {some}). "
        "Expected a GLIDE model or a noisy CLIP."
    )


def config_from_state_dict(
    shapes: Shapes,
    metadata: Mapping[str, str] | None = None,
    where: str = "The file",
    *,
    kind: ModelKind | None = None,
    schedule: ScheduleConfig | None = None,
) -> GlideConfig | ClipConfig:
    """Read the config from names and shapes, and from metadata what these do not show.

    kind, schedule: of a GLIDE model, instead of what the file says; the kind must fit its input
    channels, with or without a mask. One encoder of a noisy CLIP gives a config whose other half is
    the released model's. GlideError when a tensor is missing or metadata contradict tensors.
    """
    stored = (metadata or {}).get(METADATA_KEY)
    found = detect_model_type(shapes, where)
    try:
        if found == "glide":
            known = None if stored is None else GlideConfig.from_json(stored)
            if known is not None:
                known = replace(known, kind=kind or known.kind, schedule=schedule or known.schedule)
            return _glide_config(_Shapes(shapes), known, kind, schedule)
        if kind is not None or schedule is not None:
            raise GlideError("a noisy CLIP has no kind and no schedule to override")
        return _clip_config(shapes, found, None if stored is None else ClipConfig.from_json(stored))
    except GlideError as error:
        raise GlideError(f"{where} cannot be read: {error}") from error


def _glide_config(
    shape: _Shapes,
    known: GlideConfig | None,
    kind: ModelKind | None,
    schedule: ScheduleConfig | None,
) -> GlideConfig:
    up_blocks = shape.numbers(r"output_blocks\.(\d+)\.[12]\.in_layers\.0\.weight")
    levels = len(up_blocks) + 1
    blocks_per_level, rest = divmod(len(shape.numbers(r"output_blocks\.(\d+)\.0\.")), levels)
    if rest or blocks_per_level < 2:
        raise GlideError("blocks of its UNet are missing. Download or export it again.")
    unet = known.unet if known is not None else UNetConfig(image_size=2 ** (levels + 2))
    patch, waves = unet.patch_size, unet.coord_channels
    channels = shape("out.2.weight", 4)[0] // (2 * patch**2)
    model_channels = shape("time_embed.0.weight", 2)[1]
    first = [1 + level * blocks_per_level for level in range(levels)]
    widths = [shape(f"input_blocks.{i}.0.in_layers.2.weight", 4)[0] for i in first]
    if any(width % model_channels for width in widths):
        raise GlideError(
            f"its levels of {widths} channels are not multiples of its {model_channels} base "
            "channels. Expected a GLIDE UNet."
        )
    vocabulary, text_width = shape("token_embedding.weight", 2)
    in_channels = (shape("input_blocks.0.0.weight", 4)[1] - 2 * waves) // patch**2
    kind = _kind(in_channels, channels, kind)
    openai = ScheduleConfig("linear" if "upsampler" in kind else "squaredcos_cap_v2")
    if known is None:
        for width in shape.widths(r"(input_blocks\.\d+\.1|middle_block\.1)\.proj_out\.weight"):
            _heads("UNet's attention", width)
    seen = replace(
        known or GlideConfig(),  # how to sample is not in the tensors
        kind=kind,
        text=TextConfig(
            n_vocab=vocabulary,
            context_length=shape("positional_embedding", 2)[0],
            width=text_width,
            layers=len(shape.numbers(r"transformer\.resblocks\.(\d+)\.")),
            heads=known.text.heads if known is not None else _heads("text encoder", text_width),
        ),
        unet=replace(
            unet,
            model_channels=model_channels,
            num_res_blocks=blocks_per_level - 1,
            channel_mult=tuple(width // model_channels for width in widths),
            attention_factors=tuple(
                2**level
                for level, i in enumerate(first)
                if f"input_blocks.{i}.1.qkv.weight" in shape.shapes
            ),
            channels=channels,
        ),
        schedule=schedule or openai if known is None else known.schedule,
        tokenizer=_tokenizer(vocabulary) if known is None else known.tokenizer,
    )
    if known is not None:
        # an attention factor beyond the deepest level has no effect
        factors = tuple(sorted(f for f in known.unet.attention_factors if f < 2**levels))
        known = replace(known, unet=replace(known.unet, attention_factors=factors))
        _check_same(asdict(seen), asdict(known))
    return seen


def _clip_config(shapes: Shapes, found: ModelType, known: ClipConfig | None) -> ClipConfig:
    fields: dict[str, Any] = {}
    if found in ("clip", "clip-image"):
        shape = _Shapes(shapes, prefix="image." if found == "clip" else "")
        width, _, patch, _ = shape("blocks.input.patch_proj", 4)
        side = round((shape("blocks.input.w_pos", 2)[0] - 1) ** 0.5)
        heads = known.image_heads if known is not None else _heads("image encoder", width)
        fields |= {
            "image_size": side * patch,
            "patch_size": patch,
            "embedding": shape("blocks.output.f.w", 2)[0],
            "n_timesteps": shape("blocks.input.w_t", 2)[0],
            "image_width": width,
            "image_heads": heads,
            "image_layers": len(shape.numbers(r"blocks\.block_(\d+)\.")),
        }
    if found in ("clip", "clip-text"):
        shape = _Shapes(shapes, prefix="text." if found == "clip" else "")
        vocabulary, width = shape("blocks.input.w_voc", 2)
        heads = known.text_heads if known is not None else _heads("text encoder", width)
        fields |= {
            "embedding": shape("blocks.output.f.w", 2)[0],
            "n_vocab": vocabulary,
            "context_length": shape("blocks.input.w_pos", 2)[0],
            "text_width": width,
            "text_heads": heads,
            "tokenizer": known.tokenizer if known is not None else _tokenizer(vocabulary),
            "text_layers": len(shape.numbers(r"blocks\.block_(\d+)\.")),
        }
    if known is not None:
        fields |= {name: getattr(known, name) for name in ("logit_scale", "noise_schedule")}
    seen = ClipConfig(**fields)
    if known is not None and found == "clip":
        _check_same(asdict(seen), asdict(known))
    return seen


class _Shapes:
    """Shapes by key; GlideError for a tensor that is missing, empty or of another rank."""

    def __init__(self, shapes: Shapes, prefix: str = "") -> None:
        self.shapes, self.prefix = shapes, prefix

    def __call__(self, name: str, rank: int) -> Shape:
        key = self.prefix + name
        if key not in self.shapes:
            raise GlideError(f"it lacks the tensor {key}. Download or export it again.")
        shape = self.shapes[key]
        if len(shape) != rank or not all(shape):
            raise GlideError(
                f"{key} has the shape {list(shape)}. Expected {rank} dimensions, none empty."
            )
        return shape

    def numbers(self, pattern: str) -> set[int]:
        """All values of the group in keys that begin with `pattern`."""
        expression = re.compile(re.escape(self.prefix) + pattern)
        return {int(match[1]) for match in map(expression.match, self.shapes) if match}

    def widths(self, pattern: str) -> set[int]:
        """First sizes of the tensors whose keys match `pattern`."""
        found = (key for key in self.shapes if re.fullmatch(pattern, key))
        return {self.shapes[key][0] for key in found if self.shapes[key]}


def _kind(found: int, channels: int, wanted: ModelKind | None) -> ModelKind:
    unet = UNetConfig(channels=channels)
    expected = {kind: GlideConfig(kind=kind, unet=unet).in_channels for kind in KINDS}
    if wanted is not None:
        without_mask = "inpaint" in wanted and found == expected[wanted] - 1
        if found != expected[wanted] and not without_mask:
            raise GlideError(
                f"it has {found} input channels and cannot be loaded with kind {wanted}, which has "
                f"{expected[wanted]}."
            )
        return wanted
    for kind, count in expected.items():
        if count == found:
            return kind
    known = ", ".join(f"{count} ({kind})" for kind, count in expected.items())
    raise GlideError(f"it has {found} input channels. Expected {known}.")


def _heads(part: str, width: int) -> int:
    """The number of attention heads where no metadata say it."""
    if width % _HEAD_WIDTH:
        raise GlideError(
            f"it does not say how wide the attention heads of its {part} are, and {width} channels "
            f"are not a multiple of the usual {_HEAD_WIDTH}. Pass its config."
        )
    return width // _HEAD_WIDTH


def _tokenizer(vocabulary: int) -> TokenizerName:
    if vocabulary not in _TOKENIZERS:
        raise GlideError(
            f"its vocabulary of {vocabulary} tokens fits none of the tokenizers "
            f"({', '.join(f'{name}: {n}' for n, name in _TOKENIZERS.items())})."
        )
    return _TOKENIZERS[vocabulary]


def _check_same(seen: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for name, value in seen.items():
        if isinstance(value, Mapping):
            _check_same(value, known[name])
        elif value != known[name]:
            raise GlideError(
                f"its metadata say {name} = {known[name]}, but its tensors say {value}. Its config "
                "belongs to another model: convert the original again."
            )
