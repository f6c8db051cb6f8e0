"""What travels between nodes and hosts: GLIDE_CLIP, a guide, a prompt.

Everything here is a value: frozen, host-neutral, never changed after it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from glide_core.errors import GlideError

if TYPE_CHECKING:
    from torch import Tensor

    from glide_core.config import GlideConfig
    from glide_core.tokenizer import Tokens

# CONDITIONING, as in ComfyUI: one [states [1, L, W], extras] per part of a combined prompt.
Conditioning = Sequence[Sequence[Any]]

# Keys of a CONDITIONING's extras that every host writes and reads.
POOLED = "pooled_output"  # [1, E]; ComfyUI's own name
GLIDE_TEXT = "glide_text"  # str: the prompt as typed, so that any text encoder can read it again
GLIDE_IDS = "glide_ids"  # int64 [1, L]: what GLIDE_TOKENIZER made of it
GLIDE_MASK = "glide_mask"  # bool [1, L]: True = a real token
GLIDE_TOKENIZER = "glide_tokenizer"  # str: a name that glide_core.tokenizer.get_tokenizer knows
# Spatial conditions, set by GlideInpaintConditioning with ComfyUI's own names, so that its
# samplers pass them to the model, too: images in [-1, 1] and ComfyUI's polarity (1 = repaint).
INPAINT_IMAGE = "concat_latent_image"  # [B, C, H, W]
INPAINT_MASK = "concat_mask"  # [B, 1, H, W]
LOW_RES = "concat_image"  # [B, C, h, w]: the image that an upsampler enlarges


@dataclass(frozen=True)
class GlideClip:
    """The GLIDE_CLIP type: a CLIP that guides or scores images."""

    kind: Literal["noisy", "open_clip"]
    name: str  # for messages: the file or the open_clip architecture
    module: Any  # NoisyClip, or an open_clip model
    tokenizer: Callable[..., Any] | None = None  # open_clip's own; None for a noisy CLIP
    patcher: Any = None  # ComfyUI's ModelPatcher, where ComfyUI manages the memory


@dataclass(frozen=True)
class ClipGuide:
    """CLIP guidance of a MODEL towards a text; what GlideClipGuidance adds."""

    clip: GlideClip
    text: str
    scale: float
    interval: tuple[float, float] | None = None  # sigmas between which it acts; None = always
    cutouts: int = 8  # random crops per step, for an open_clip model
    seed: int = 0  # of the cutouts
    vae: Any = None  # for an open_clip model on a latent model that is not GLIDE's (ComfyUI only)


def part(conditioning: Conditioning, *, where: str) -> Mapping[str, Any]:
    """Give the extras of a CONDITIONING's first part; GlideError names `where` when there is none.

    GLIDE has one prompt per image: of a combined CONDITIONING the exact sampler uses the first.
    """
    if not isinstance(conditioning, Sequence) or not conditioning or isinstance(conditioning, str):
        raise GlideError(
            f"{where} is empty. Expected a CONDITIONING from GLIDE Text Encode (or CLIP Text "
            "Encode with a GLIDE CLIP). Connect one."
        )
    first = conditioning[0]
    pair = isinstance(first, Sequence) and not isinstance(first, str) and len(first) == 2
    extras = first[1] if pair else None
    if not isinstance(extras, Mapping) or GLIDE_TEXT not in extras:
        raise GlideError(
            f"{where} was not made by a GLIDE text encoder: it carries no GLIDE tokens. Expected a "
            "CONDITIONING encoded with the CLIP output of GLIDE Loader. Connect that CLIP to the "
            "text encode node."
        )
    return extras


def tokens_for(extras: Mapping[str, Any], config: GlideConfig) -> Tokens:
    """Give the carried ids where they fit the model's tokenizer and length, else encode again."""
    from glide_core.tokenizer import Tokens, get_tokenizer

    length = config.text.context_length
    text = str(extras[GLIDE_TEXT])
    ids = extras.get(GLIDE_IDS)
    if ids is not None and extras.get(GLIDE_TOKENIZER) == config.tokenizer:
        ids = ids.reshape(-1)
        if len(ids) == length:
            return Tokens(text=text, ids=ids, mask=extras[GLIDE_MASK].reshape(-1), truncated=0)
    return get_tokenizer(config.tokenizer).encode(text, length)


def with_extras(conditioning: Conditioning, **extras: Any) -> list[list[Any]]:
    """Copy a CONDITIONING with these extras set on every part; the given one stays as it was."""
    return [[states, {**old, **extras}] for states, old in conditioning]


def inpaint_extras(image: Tensor, keep_mask: Tensor) -> dict[str, Tensor]:
    """Give the extras of an image [B, C, H, W] and a keep_mask [B, 1, H, W] (1 = keep)."""
    from glide_core.images import invert_mask

    return {INPAINT_IMAGE: image, INPAINT_MASK: invert_mask(keep_mask)}


def known_pixels(
    extras: Mapping[str, Any], names: tuple[str, str] = (INPAINT_IMAGE, INPAINT_MASK)
) -> tuple[Tensor, Tensor] | None:
    """Give the image [B, C, H, W] and keep_mask [B, 1, H, W] that extras carry under two names.

    The mask is resized to the image; None where one of them is missing.
    """
    from glide_core.images import keep_mask

    image, mask = (extras.get(name) for name in names)
    if image is None or mask is None:
        return None
    if mask.ndim == 4:
        mask = mask[:, :1]  # a noise mask may come repeated over the channels
    return image, keep_mask(mask, (image.shape[2], image.shape[3]))


def check_carried(extras: Mapping[str, Any], config: GlideConfig, batch: int, where: str) -> None:
    """GlideError where a CONDITIONING carries images that the MODEL or the batch cannot use."""
    if extras.get(LOW_RES) is not None and not config.is_upsampler:
        raise GlideError(
            f"the MODEL on 'model' is GLIDE's {config.kind} model, and {where} carries an image to "
            "enlarge. Connect the MODEL of GLIDE Upsampler Loader, or a prompt without an image."
        )
    for name in (LOW_RES, INPAINT_IMAGE, INPAINT_MASK):
        count = len(extras[name]) if extras.get(name) is not None else 1
        if batch % count:
            raise GlideError(
                f"{where} carries {count} images, and the LATENT on 'latent_image' holds {batch}. "
                f"Expected one, or a number that divides {batch}: connect the LATENT of the node "
                "that added them."
            )


def one_of(values: Iterable[str]) -> str:
    """Join names for a message: 'a, b or c'."""
    names = list(values)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
