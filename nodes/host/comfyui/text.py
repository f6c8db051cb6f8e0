"""GLIDE's text encoder as ComfyUI's CLIP: CLIPTextEncode, prompt weights, LoRA, offloading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch
from torch import Tensor, nn

from glide_core.config import GlideConfig
from glide_core.models.text_encoder import TextEncoder
from glide_core.tokenizer import get_tokenizer, warn_if_truncated

from ..values import GLIDE_IDS, GLIDE_MASK, GLIDE_TEXT, GLIDE_TOKENIZER
from .operations import GlideOperations
from .versions import text_encoder

# Private extras of a CONDITIONING: whose features it holds, and the prompt with its weights, for
# the MODELs that must encode it with a text encoder of their own. The weights are JSON: ComfyUI's
# training node walks tuples and fails on the strings in them.
GLIDE_TEXT_ENCODER = "glide_text_encoder"
GLIDE_SEGMENTS = "glide_segments"

Segments = tuple[tuple[str, float], ...]  # pieces of a prompt and the weight of each


class PromptTokens(list):
    """ComfyUI's tokens of one prompt, [[(id, weight), ...]], and the prompt that they came from.

    A list, because other packs walk tokens as lists; unpadded: the text encoder pads.
    """

    def __init__(self, batches: list[list[tuple[Any, ...]]], segments: Segments) -> None:
        super().__init__(batches)
        self.segments = segments


class GlideTextTokenizer:
    """What comfy.sd.CLIP needs of a tokenizer.

    A prompt longer than the context is cut, as in the reference, and not encoded in chunks.
    """

    def __init__(self, config: GlideConfig) -> None:
        self.name = config.tokenizer
        self.context_length = config.text.context_length

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **options: Any
    ) -> dict[str, PromptTokens]:
        """Tokenize; "(word:0.5)" weighs unless `disable_weights` is given."""
        segments: Segments = ((text, 1.0),)
        if not options.get("disable_weights", False):
            segments = parse_weights(text)
        return {"glide": self.tokenize_segments(segments, return_word_ids)}

    def tokenize_segments(self, segments: Segments, return_word_ids: bool = False) -> PromptTokens:
        """Tokenize the prompt without its brackets; each token weighs what its piece does.

        The ids are those of the whole plain text: byte-pair tokens carry the space before a word,
        so pieces that were tokenized one by one would give others.
        """
        tokenizer, length = get_tokenizer(self.name), self.context_length
        plain = "".join(piece for piece, _ in segments)
        tokens = tokenizer.encode(plain, length)
        warn_if_truncated(tokens)
        ids = tokens.ids[tokens.mask].tolist()
        weights = [1.0] * len(ids)
        if any(weight != 1.0 for _, weight in segments):
            done, end = "", 0
            for piece, weight in segments:
                done += piece
                start, end = end, tokenizer.encode(done.rstrip(), length).length
                weights[start:end] = [weight] * (end - start)
        words = [(i + 1,) if return_word_ids else () for i in range(len(ids))]
        batch = [(i, w, *word) for i, w, word in zip(ids, weights, words, strict=True)]
        return PromptTokens([batch], segments)

    def untokenize(self, tokens: Any) -> list[tuple[Any, str]]:
        return [(token, str(token[0])) for token in tokens]

    def state_dict(self) -> dict[str, Tensor]:
        return {}


def parse_weights(text: str) -> Segments:
    """Split a prompt by ComfyUI's brackets: "(word:1.2)", "(word)" for 1.1, "\\(" for a bracket."""
    escaped = comfy.sd1_clip.escape_important(text)
    parsed = comfy.sd1_clip.token_weights(escaped, 1.0)
    return tuple((comfy.sd1_clip.unescape_important(piece), weight) for piece, weight in parsed)


class GlideTextModel(nn.Module):
    """What comfy.sd.CLIP needs of a model: GLIDE's text encoder under the name "glide"."""

    def __init__(self, encoder: TextEncoder, config: GlideConfig, fingerprint: str) -> None:
        super().__init__()
        self.glide = encoder
        self.tokenizer_name = config.tokenizer
        self.fingerprint = fingerprint
        self.dtypes = {encoder.token_embedding.weight.dtype}
        self.disable_offload = True  # no DynamicVRAM, see `versions.text_encoder`
        self.execution_device: Any = None  # set before every prompt by ComfyUI 0.4 and newer

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Take the device to run on. "layer" has no effect: the UNet reads the last layer only."""
        self.execution_device = options.get("execution_device", self.execution_device)

    def reset_clip_options(self) -> None:
        self.execution_device = None

    def encode_token_weights(
        self, tokens: dict[str, PromptTokens]
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Encode one prompt: states [1, L, W], pooled [1, E] and the CONDITIONING's extras.

        A weight w moves a token's state to empty + w * (state - empty), ComfyUI's convention,
        where empty is the unconditional prompt's. The pooled vector stays unweighted.
        """
        prompt = tokens["glide"]
        device = self.execution_device
        if device is None:
            device = comfy.model_management.text_encoder_device()
        ids, mask, weights = self._pad(prompt[0] if prompt else [])
        weighted = bool((weights != 1.0).any())
        if weighted:
            ids, mask = torch.cat([ids, ids]), torch.cat([mask, torch.zeros_like(mask)])
        states, pooled = self.glide(ids.to(device), mask.to(device))
        out = comfy.model_management.intermediate_device()
        states, pooled = states.float().to(out), pooled[:1].float().to(out)
        if weighted:
            state, empty = states.chunk(2)
            states = empty + weights[..., None].to(out) * (state - empty)
        return states, pooled, self.extras(tokens)

    def extras(self, tokens: dict[str, PromptTokens]) -> dict[str, Any]:
        """Give what a CONDITIONING carries of its prompt beside the features."""
        prompt = tokens["glide"]
        ids, mask, _ = self._pad(prompt[0] if prompt else [])
        found: dict[str, Any] = {
            GLIDE_IDS: ids,
            GLIDE_MASK: mask,
            GLIDE_TOKENIZER: self.tokenizer_name,
            GLIDE_TEXT_ENCODER: self.fingerprint,
        }
        segments = getattr(prompt, "segments", None)
        if segments is not None:
            found[GLIDE_SEGMENTS] = json.dumps(segments)
            found[GLIDE_TEXT] = "".join(piece for piece, _ in segments)
        return found

    def _pad(self, tokens: list[tuple[Any, ...]]) -> tuple[Tensor, Tensor, Tensor]:
        length = self.glide.config.context_length
        tokens = tokens[:length]
        empty = get_tokenizer(self.tokenizer_name).encode("", length)
        ids, weights = empty.ids.clone(), torch.ones(length)
        ids[: len(tokens)] = torch.tensor([token[0] for token in tokens], dtype=torch.int64)
        weights[: len(tokens)] = torch.tensor([float(token[1]) for token in tokens])
        mask = torch.arange(length) < len(tokens)
        return ids[None], mask[None], weights[None]  # each [1, L]

    def load_sd(self, sd: dict[str, Tensor]) -> Any:
        return self.glide.load_state_dict(sd, strict=False)


class GlideTextClip(comfy.sd.CLIP):
    """A CLIP whose prompts keep their extras where hooks schedule the weights, too.

    ComfyUI drops what a text encoder returns beside its features there.
    """

    def clone(self, *args: Any, **options: Any) -> Any:
        copied = super().clone(*args, **options)
        copied.__class__ = type(self)  # CLIP.clone makes a plain CLIP
        return copied

    def encode_from_tokens_scheduled(
        self, tokens: Any, unprojected: bool = False, add_dict: Any = None, **options: Any
    ) -> Any:
        known = {**self.cond_stage_model.extras(tokens), **(add_dict or {})}
        return super().encode_from_tokens_scheduled(tokens, unprojected, known, **options)


class LoadedText(NamedTuple):
    """A text encoder and the fingerprint that its features carry."""

    clip: comfy.sd.CLIP
    fingerprint: str


def build_clip(encoder: TextEncoder, config: GlideConfig) -> LoadedText:
    """Put glide_core's text encoder into a comfy.sd.CLIP, in float32.

    It runs once per prompt, so the precision costs little; ComfyUI's default of float16 would
    change the image on every device.
    """
    print_of = fingerprint(encoder, config)

    def make(device: Any, dtype: torch.dtype, **unused: Any) -> GlideTextModel:
        width = config.unet.embedding_width
        with torch.device("meta"):
            casting = TextEncoder(config.text, width, operations=GlideOperations)
        casting.load_state_dict(encoder.float().state_dict(), assign=True)
        return GlideTextModel(casting.to(device=device, dtype=dtype), config, print_of).eval()

    def make_tokenizer(**unused: Any) -> GlideTextTokenizer:
        return GlideTextTokenizer(config)

    target = comfy.supported_models_base.ClipTarget(make_tokenizer, make)
    size = sum(p.numel() for p in encoder.parameters())
    clip = text_encoder(GlideTextClip, target, parameters=size, dtype=torch.float32)
    return LoadedText(clip, print_of)


def encode_again(clip: comfy.sd.CLIP, extras: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Encode a CONDITIONING's weighted prompt with this text encoder: its states and extras."""
    stored = extras.get(GLIDE_SEGMENTS)
    segments: Segments = ((str(extras[GLIDE_TEXT]), 1.0),)
    if stored:
        segments = tuple((piece, weight) for piece, weight in json.loads(stored))
    tokens = {"glide": clip.tokenizer.tokenize_segments(segments)}
    found = clip.encode_from_tokens(tokens, return_pooled=True, return_dict=True)
    return found.pop("cond"), found


def fingerprint(encoder: TextEncoder, config: GlideConfig) -> str:
    """Identify a text encoder by its weights, so that two loads of one file compare equal."""
    digest = hashlib.sha256(config.tokenizer.encode())
    for weight in (
        encoder.transformer_proj.weight,
        encoder.final_ln.weight,
        encoder.padding_embedding,
    ):
        digest.update(weight.detach().half().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
