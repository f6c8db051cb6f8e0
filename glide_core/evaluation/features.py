"""Feature extractors: what turns pictures into the numbers that sets are compared by.

Each says who it is, by the hash of its weights, and what it does to a picture first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glide_core.errors import GlideError
from glide_core.guidance.clip import LOGIT_SCALE, _preprocessing
from glide_core.guidance.score import _resized
from glide_core.io import sha256_file
from glide_core.models.noisy_clip import NoisyClip

_CAPTIONS_AT_ONCE = 64
_MOST_PIXELS = 64  # a side; the covariance of more would fill the memory


@runtime_checkable
class FeatureExtractor(Protocol):
    """Pictures [B, 3, H, W] in [-1, 1], of any size, to features [B, D], float32 or float64."""

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str:
        """Of the weights' file, 64 digits; "" where there are no weights."""
        ...

    @property
    def dimension(self) -> int: ...
    @property
    def side(self) -> int:
        """Pixels that its network sees."""
        ...

    @property
    def resize(self) -> str:
        """How a picture gets there, in words."""
        ...

    @property
    def library(self) -> str:
        """The distribution that holds the network; "" for our own."""
        ...

    def __call__(self, pictures: Tensor, /) -> Tensor: ...


@runtime_checkable
class ReadsText(Protocol):
    """An extractor that puts captions into the same space."""

    @property
    def logit_scale(self) -> float: ...
    def encode_text(self, captions: Sequence[str], /) -> Tensor:
        """Unnormalised features [n, D] of captions."""
        ...


@runtime_checkable
class Classifies(Protocol):
    """An extractor whose features lead to logits of classes."""

    def logits(self, features: Tensor, /) -> Tensor:
        """Logits [n, C] of features [n, D]."""
        ...


@dataclass(frozen=True)
class _About:
    name: str
    sha256: str
    dimension: int
    side: int
    resize: str
    library: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class PixelFeatures(_About):
    """The pixels themselves, averaged over a coarse grid: what every other extractor must beat."""

    @staticmethod
    def of(side: int = 8) -> PixelFeatures:
        return PixelFeatures(f"pixels:{side}", "", 3 * side * side, side, "mean over equal areas")

    def __call__(self, pictures: Tensor, /) -> Tensor:
        return F.adaptive_avg_pool2d(pictures.double(), self.side).flatten(1)


@dataclass(frozen=True)
class NoisyClipFeatures(_About):
    """Our noisy CLIP at t = 0: unnormalised outputs of its image tower."""

    clip: NoisyClip = field(repr=False)

    @staticmethod
    def of(clip: NoisyClip, name: str = "clip", sha256: str = "") -> NoisyClipFeatures:
        config = clip.config
        return NoisyClipFeatures(
            name, sha256, config.embedding, config.image_size, _BICUBIC, clip=clip
        )

    @property
    def logit_scale(self) -> float:
        return float(self.clip.config.logit_scale)

    def __call__(self, pictures: Tensor, /) -> Tensor:
        small = _resized(pictures, self.side)
        t = torch.zeros(len(small), dtype=torch.int64, device=small.device)
        with torch.no_grad():
            return self.clip.encode_image(small, t).float()

    def encode_text(self, captions: Sequence[str], /) -> Tensor:
        with torch.no_grad():
            return _in_parts(self.clip.encode_prompts, captions)


@dataclass(frozen=True)
class OpenClipFeatures(_About):
    """Any open_clip model: unnormalised outputs of its image tower."""

    model: nn.Module = field(repr=False)
    tokenizer: Any = field(repr=False)

    @staticmethod
    def of(model: nn.Module, tokenizer: Any, name: str, sha256: str = "") -> OpenClipFeatures:
        side, _, _ = _preprocessing(model)
        clip: Any = model
        with torch.no_grad():
            dimension = clip.encode_text(tokenizer([""]).to(_device(model))).shape[1]
        return OpenClipFeatures(
            name,
            sha256,
            int(dimension),
            side,
            _BICUBIC,
            model=model,
            tokenizer=tokenizer,
            library="open_clip_torch",
        )

    @property
    def logit_scale(self) -> float:
        scale = getattr(self.model, "logit_scale", None)
        return LOGIT_SCALE if scale is None else float(scale.detach().exp())

    def __call__(self, pictures: Tensor, /) -> Tensor:
        _, mean, std = _preprocessing(self.model)
        views = (_resized(pictures, self.side) + 1) / 2
        views = (views - mean.to(views.device)) / std.to(views.device)
        model: Any = self.model
        with torch.no_grad():
            features: Tensor = model.encode_image(views).float()
        return features

    def encode_text(self, captions: Sequence[str], /) -> Tensor:
        model: Any = self.model

        def encode(part: Sequence[str]) -> Tensor:
            features: Tensor = model.encode_text(self.tokenizer(list(part)).to(_device(model)))
            return features

        with torch.no_grad():
            return _in_parts(encode, captions)


def extractor_of(spec: str, *, device: torch.device | str = "cpu") -> FeatureExtractor:
    """Make the extractor that a `--features` names, in float32.

    pixels or pixels:SIDE; clip:MODEL (a name of `glide models`, "bundled", or a file; IMAGE,TEXT
    for two files); open_clip:NAME:FILE, open_clip:NAME:TAG or open_clip:NAME (weights in its
    cache); inception:FILE. GlideError for what is unknown, missing or unreadable. Nothing is
    downloaded.
    """
    kind, _, rest = spec.partition(":")
    if kind == "pixels":
        if rest and not (rest.isdecimal() and 1 <= int(rest) <= _MOST_PIXELS):
            raise GlideError(f"{spec} has no side in pixels. Expected 1 to 64, such as pixels:16.")
        return PixelFeatures.of(int(rest or 8))
    if kind == "clip":
        return _noisy_clip(rest or "bundled", device)
    if kind == "open_clip" and rest:
        architecture, _, weights = rest.partition(":")
        return _open_clip(architecture, weights, device)
    if kind == "inception" and rest:
        from glide_core.evaluation.inception import load_inception

        return load_inception(Path(rest), device=device)
    raise GlideError(
        f"there is no feature extractor {spec!r}. Expected pixels, clip:bundled, clip:FILE, "
        "open_clip:NAME:FILE or inception:FILE."
    )


def extract(extractor: FeatureExtractor, pictures: Tensor, batch: int = 32) -> Tensor:
    """Features [n, D] of pictures in memory [n, 3, H, W] in [-1, 1], on the CPU."""
    return torch.cat([extractor(part).cpu() for part in torch.split(pictures, batch)])


def _noisy_clip(name: str, device: torch.device | str) -> NoisyClipFeatures:
    from glide_core.checkpoints.catalog import find_model
    from glide_core.checkpoints.loading import load_clip

    paths = [find_model("clip" if part == "bundled" else part) for part in name.split(",")]
    return NoisyClipFeatures.of(
        load_clip(paths, device=device), f"clip:{name}", sha256_file(*paths)
    )


def _open_clip(architecture: str, weights: str, device: torch.device | str) -> OpenClipFeatures:
    from glide_core.guidance.open_clip import cached_weights, load_open_clip

    path, tag = Path(weights).expanduser(), weights
    if weights and path.is_file():
        model, tokenizer = load_open_clip(architecture, path, device=device)
        name = f"open_clip:{architecture}:{path.name}"
        return OpenClipFeatures.of(model, tokenizer, name, sha256_file(path))
    if path.suffix or len(path.parts) > 1:  # no tag looks like that
        raise GlideError(
            f"there is no file {weights}. Expected weights of open_clip's {architecture}: check "
            "the name."
        )
    tag = tag or _only_cached_tag(architecture)
    model, tokenizer = load_open_clip(architecture, None, tag, device=device)
    cached = cached_weights(architecture, tag)
    name = f"open_clip:{architecture}:{tag}"
    return OpenClipFeatures.of(model, tokenizer, name, sha256_file(cached) if cached else "")


def _only_cached_tag(architecture: str) -> str:
    """The one set of weights of an architecture that open_clip's cache holds."""
    import open_clip

    from glide_core.guidance.open_clip import cached_weights

    known = open_clip.list_pretrained_tags_by_model(architecture)
    tags = [tag for tag in known if cached_weights(architecture, tag)]
    if len(tags) == 1:
        return str(tags[0])
    raise GlideError(
        f"open_clip's cache holds {', '.join(tags) if tags else 'no weights'} for {architecture}. "
        f"Expected one choice: name it, as in open_clip:{architecture}:"
        f"{tags[0] if tags else 'FILE'}. Nothing is downloaded unasked."
    )


_BICUBIC = "whole picture to a square, torch bicubic with antialias"


def _in_parts(encode: Any, captions: Sequence[str]) -> Tensor:
    if not captions:
        raise GlideError("there is no caption. Expected one for every picture.")
    starts = range(0, len(captions), _CAPTIONS_AT_ONCE)
    parts = [encode(captions[i : i + _CAPTIONS_AT_ONCE]).float().cpu() for i in starts]
    return torch.cat(parts)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
