"""Tell what a state dict is, and its config, from the names and shapes of its tensors.

What shapes cannot tell comes from the metadata our own files carry, or else is what OpenAI's models
have in common: attention heads 64 wide, a picture of 2 ** (levels + 2) pixels, the linear schedule
for upsamplers and the cosine one for all others, eps prediction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

from glide_core.checkpoints.files import METADATA_KEY, Shape
from glide_core.config import (
    ClipConfig,
    GlideConfig,
    ModelKind,
    ScheduleConfig,
    TextConfig,
    UNetConfig,
)
from glide_core.errors import GlideError

Shapes = Mapping[str, Shape]
Layout = Literal["glide", "clip", "clip-image", "clip-text"]

_HEAD_WIDTH = 64
_TOKENIZERS = {50257: "glide-bpe", 49408: "clip-bpe", 65536: "clip-bpe", 2048: "glide-small"}
# Config fields that no shape tells: these are taken from metadata, all others are checked.
_UNSEEN = {
    "": ("tokenizer", "schedule"),
    "text": ("heads",),
    "unet": (
        "image_size",
        "num_head_channels",
        "norm_groups",
        "dropout",
        "patch_size",
        "coord_channels",
        "sigma_data",
    ),
}
_UNSEEN_CLIP = ("image_heads", "text_heads", "logit_scale", "noise_schedule", "tokenizer")

# What else people load by mistake, most telling first: a pattern of its keys, and what it is.
_OTHERS = (
    (r"lora_(up|down|A|B)\.|\.lokr_|\.hada_", "a LoRA, not a model. Apply it with a LoRA loader"),
    (r"model\.diffusion_model\.", "a whole Stable Diffusion checkpoint. Load it with its loader"),
    (r"(input_blocks|down_blocks)\..*transformer_blocks\.", "a Stable Diffusion UNet"),
    (r"down_blocks\..*add_k_proj", "a UNet in diffusers' format: convert it with from_diffusers"),
    (r"down_blocks\.", "a UNet in diffusers' format, of another family than GLIDE"),
    (r"(double_blocks|joint_blocks|transformer_blocks)\.", "a diffusion transformer"),
    (r"(first_stage_model\.|encoder\.down|decoder\.up)", "a VAE"),
    (r"visual\.", "an ordinary CLIP. GLIDE's guidance here needs one trained on noised pictures; "
     "load this one as an un-noised (open_clip) CLIP"),
    (r"(text_model|vision_model)\.", "an ordinary CLIP in the Hugging Face format"),
    (r"label_emb\.", "a class-conditional UNet (guided-diffusion), which takes no text"),
    (r"input_blocks\.", "a UNet without a text tower, such as guided-diffusion's"),
    (r"token_embedding\.weight$", "a text tower without its UNet"),
)  # fmt: skip


def layout(shapes: Shapes, where: str = "The file") -> Layout:
    """Tell a GLIDE model from a noisy CLIP (whole, or one tower); GlideError says what it is else.

    where: how messages name the state dict.
    """
    whole = "input_blocks.0.0.weight" in shapes and "token_embedding.weight" in shapes
    if whole and not any("transformer_blocks" in key for key in shapes):
        return "glide"
    image, text = "blocks.input.w_t", "blocks.input.w_voc"
    if f"image.{image}" in shapes or f"text.{text}" in shapes:
        return "clip"
    if image in shapes:
        return "clip-image"
    if text in shapes:
        return "clip-text"
    for pattern, name in _OTHERS:
        if any(re.search(rf"(^|\.){pattern}", key) for key in shapes):
            raise GlideError(f"{where} is {name}. Expected a GLIDE model or a noisy CLIP.")
    some = ", ".join(list(shapes)[:3]) or "no tensor at all"
    raise GlideError(
        f"{where} is not a kind of model known here (it holds {some}). "
        "Expected a GLIDE model or a noisy CLIP."
    )


def config_from_state_dict(
    shapes: Shapes, metadata: Mapping[str, str] | None = None, where: str = "The file"
) -> GlideConfig | ClipConfig:
    """Read the config from names and shapes, and from metadata what these cannot tell.

    One tower of a noisy CLIP gives a config whose other half is the released model's.
    GlideError when a needed tensor is missing, or metadata and tensors contradict each other.
    """
    stored = (metadata or {}).get(METADATA_KEY)
    if layout(shapes, where) == "glide":
        known = _parsed(GlideConfig.from_json, stored, where)
        return glide_config(shapes, known, where)
    return clip_config(shapes, _parsed(ClipConfig.from_json, stored, where), where)


def glide_config(shapes: Shapes, known: GlideConfig | None, where: str = "The file") -> GlideConfig:
    """Read a GLIDE model's config; `known` (its metadata) fills in what shapes cannot tell."""
    shape = _Shapes(shapes, where)
    up_blocks = shape.numbers(r"output_blocks\.(\d+)\.[12]\.in_layers\.0\.weight")
    levels = len(up_blocks) + 1
    blocks_per_level, rest = divmod(len(shape.numbers(r"output_blocks\.(\d+)\.0\.")), levels)
    if rest or blocks_per_level < 2:
        raise GlideError(f"{where} is missing blocks of its UNet. Get the file anew.")
    patch, waves = 1, 0
    if known is not None:
        patch, waves = known.unet.patch_size, known.unet.coord_channels
    channels = shape["out.2.weight"][0] // (2 * patch**2)
    model_channels = shape["time_embed.0.weight"][1]
    first = [1 + level * blocks_per_level for level in range(levels)]
    widths = [shape[f"input_blocks.{i}.0.in_layers.2.weight"][0] for i in first]
    if any(width % model_channels for width in widths):
        raise GlideError(
            f"{where} has levels of {widths} channels, which are no multiples of its "
            f"{model_channels} base channels. Expected a GLIDE UNet."
        )
    vocabulary, text_width = shape["token_embedding.weight"]
    kind = _kind((shape["input_blocks.0.0.weight"][1] - 2 * waves) // patch**2, channels, where)
    seen = GlideConfig(
        kind=kind,
        text=TextConfig(
            n_vocab=vocabulary,
            context_length=shape["positional_embedding"][0],
            width=text_width,
            layers=len(shape.numbers(r"transformer\.resblocks\.(\d+)\.")),
            heads=text_width // _HEAD_WIDTH,
        ),
        unet=UNetConfig(
            image_size=2 ** (levels + 2),
            model_channels=model_channels,
            num_res_blocks=blocks_per_level - 1,
            channel_mult=tuple(width // model_channels for width in widths),
            attention_factors=tuple(
                2**level
                for level, i in enumerate(first)
                if f"input_blocks.{i}.1.qkv.weight" in shapes
            ),
            num_head_channels=_HEAD_WIDTH,
            channels=channels,
        ),
        schedule=ScheduleConfig(
            noise_schedule="linear" if "upsampler" in kind else "squaredcos_cap_v2"
        ),
        tokenizer=_TOKENIZERS.get(vocabulary, ""),
    )
    if known is not None:
        filled = replace(
            seen,
            tokenizer=known.tokenizer,
            schedule=known.schedule,
            text=_with(seen.text, known.text, _UNSEEN["text"]),
            unet=_with(seen.unet, known.unet, _UNSEEN["unet"]),
        )
        # an attention factor beyond the deepest level stands for nothing
        factors = tuple(sorted(f for f in known.unet.attention_factors if f < 2**levels))
        known = replace(known, unet=replace(known.unet, attention_factors=factors))
        _check_same(asdict(filled), asdict(known), where)
        return filled
    attended = shape.widths(r"(input_blocks\.\d+\.1|middle_block\.1)\.proj_out\.weight")
    _check_heads("UNet's attention", attended, where)
    _check_heads("text tower", {text_width}, where)
    _check_tokenizer(seen.tokenizer, vocabulary, where)
    return seen


def clip_config(shapes: Shapes, known: ClipConfig | None, where: str = "The file") -> ClipConfig:
    """Read a noisy CLIP's config, of both towers (prefixed `image.`, `text.`) or of one."""
    found = layout(shapes, where)
    seen = ClipConfig()
    if found in ("clip", "clip-image"):
        shape = _Shapes(shapes, where, prefix="image." if found == "clip" else "")
        width, _, patch, _ = shape["blocks.input.patch_proj"]
        side = round((shape["blocks.input.w_pos"][0] - 1) ** 0.5)
        seen = replace(
            seen,
            image_size=side * patch,
            patch_size=patch,
            embedding=shape["blocks.output.f.w"][0],
            n_timesteps=shape["blocks.input.w_t"][0],
            image_width=width,
            image_heads=width // _HEAD_WIDTH,
            image_layers=len(shape.numbers(r"blocks\.block_(\d+)\.")),
        )
        if known is None:
            _check_heads("image tower", {width}, where)
    if found in ("clip", "clip-text"):
        shape = _Shapes(shapes, where, prefix="text." if found == "clip" else "")
        vocabulary, width = shape["blocks.input.w_voc"]
        seen = replace(
            seen,
            embedding=shape["blocks.output.f.w"][0],
            n_vocab=vocabulary,
            context_length=shape["blocks.input.w_pos"][0],
            text_width=width,
            text_heads=width // _HEAD_WIDTH,
            text_layers=len(shape.numbers(r"blocks\.block_(\d+)\.")),
            tokenizer=_TOKENIZERS.get(vocabulary, ""),
        )
        if known is None:
            _check_heads("text tower", {width}, where)
            _check_tokenizer(seen.tokenizer, vocabulary, where)
    if known is None:
        return seen
    filled: ClipConfig = _with(seen, known, _UNSEEN_CLIP)
    if found == "clip":
        _check_same(asdict(filled), asdict(known), where)
    return filled


class _Shapes:
    """Shapes by key, with an error a person can act on for a key that is not there."""

    def __init__(self, shapes: Shapes, where: str, prefix: str = "") -> None:
        self.shapes, self.where, self.prefix = shapes, where, prefix

    def __getitem__(self, key: str) -> Shape:
        try:
            return self.shapes[self.prefix + key]
        except KeyError:
            raise GlideError(
                f"{self.where} lacks the tensor {self.prefix}{key}, so it is not a whole model. "
                "Get the file anew."
            ) from None

    def numbers(self, pattern: str) -> set[int]:
        """All values of the group in keys that begin with `pattern`."""
        expression = re.compile(re.escape(self.prefix) + pattern)
        return {int(match[1]) for match in map(expression.match, self.shapes) if match}

    def widths(self, pattern: str) -> set[int]:
        """First sizes of the tensors whose keys match `pattern`."""
        return {shape[0] for key, shape in self.shapes.items() if re.fullmatch(pattern, key)}


def _kind(in_channels: int, channels: int, where: str) -> ModelKind:
    kinds: dict[int, ModelKind] = {
        channels: "base",
        2 * channels: "upsampler",
        2 * channels + 1: "inpaint",
        3 * channels + 1: "upsampler-inpaint",
    }
    if in_channels not in kinds:
        expected = ", ".join(f"{n} ({kind})" for n, kind in kinds.items())
        raise GlideError(f"{where} takes {in_channels} input channels. Expected {expected}.")
    return kinds[in_channels]


def _check_heads(part: str, widths: Iterable[int], where: str) -> None:
    if odd := sorted(width for width in widths if width % _HEAD_WIDTH):
        raise GlideError(
            f"{where} does not say how wide the attention heads of its {part} are, and {odd[0]} "
            f"channels are no multiple of the usual {_HEAD_WIDTH}. Give its config as well."
        )


def _check_tokenizer(tokenizer: str, vocabulary: int, where: str) -> None:
    if not tokenizer:
        raise GlideError(
            f"{where} has a vocabulary of {vocabulary} tokens, which fits no tokenizer known here "
            f"({', '.join(f'{name}: {n}' for n, name in _TOKENIZERS.items())})."
        )


def _parsed(parse: Callable[[str], Any], stored: str | None, where: str) -> Any:
    if stored is None:
        return None
    try:
        return parse(stored)
    except (ValueError, TypeError, AttributeError) as error:
        raise GlideError(
            f"{where} carries a config that cannot be read ({error}). Convert the original anew."
        ) from error


def _with(config: Any, source: Any, names: Iterable[str]) -> Any:
    return replace(config, **{name: getattr(source, name) for name in names})


def _check_same(seen: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    for name, value in seen.items():
        if isinstance(value, Mapping):
            _check_same(value, known[name], where)
        elif value != known[name]:
            raise GlideError(
                f"{where} says {name} = {known[name]} in its metadata, but its tensors say "
                f"{value}. Its config belongs to another model: convert the original anew."
            )
