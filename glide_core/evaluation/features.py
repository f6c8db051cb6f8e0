"""Feature extractors: functions from images to the vectors that metrics compare."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glide_core.errors import GlideError
from glide_core.guidance.clip import LOGIT_SCALE, clip_preprocessing
from glide_core.images import to_uint8
from glide_core.io import sha256_file
from glide_core.models.noisy_clip import NoisyClip

_CAPTION_BATCH = 64
_MAX_PIXELS = 64  # per side; a larger grid makes the covariance too large for the memory

EncodeImage = Callable[[Tensor], Tensor]
EncodeText = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class FeatureExtractor:
    """A function from images to features, and what identifies it."""

    name: str
    dimension: int
    resize: str  # how an image reaches the size of the network
    # images [B, 3, H, W] in [-1, 1] of any size to features [B, D], float32 or float64
    encode_image: EncodeImage = field(repr=False)
    sha256: str = ""  # of the weights' file; "" without weights
    library: str = ""  # distribution that provides the network; "" for glide_core
    # captions to unnormalised features [n, D] in the same space; None: no text encoder
    encode_text: EncodeText | None = field(default=None, repr=False)
    logit_scale: float = LOGIT_SCALE  # of a CLIP
    # features [n, D] to class logits [n, C]; None: not a classifier
    logits: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)


def load_extractor(spec: str, *, device: torch.device | str = "cpu") -> FeatureExtractor:
    """Load the extractor that a specification names, in float32. Nothing is downloaded.

    spec: pixels or pixels:SIDE; clip:MODEL (a name of `glide models`, "bundled" or a file;
        IMAGE,TEXT for two files); open_clip:NAME:FILE, open_clip:NAME:TAG or open_clip:NAME
        (weights in its cache); inception:FILE. GlideError if unknown, missing or unreadable.
    """
    kind, _, rest = spec.partition(":")
    if kind == "pixels":
        if rest and not (rest.isdecimal() and 1 <= int(rest) <= _MAX_PIXELS):
            raise GlideError(f"{spec!r} has an invalid size. Allowed: pixels:1 to pixels:64.")
        return pixel_features(int(rest or 8))
    if kind == "clip":
        return _load_noisy_clip(rest or "bundled", device)
    if kind == "open_clip" and rest:
        architecture, _, weights = rest.partition(":")
        return _load_open_clip(architecture, weights, device)
    if kind == "inception" and rest:
        return load_inception(Path(rest), device=device)
    raise GlideError(
        f"Unknown feature extractor {spec!r}. Allowed: pixels, pixels:SIDE, clip:bundled, "
        "clip:FILE, open_clip:NAME:FILE, open_clip:NAME:TAG, inception:FILE."
    )


def cosines(extractor: FeatureExtractor, pixels: Tensor, captions: Sequence[str]) -> list[float]:
    """Cosine of each image [n, 3, H, W] with its caption, or with the only one. By a CLIP."""
    assert extractor.encode_text is not None
    known = list(dict.fromkeys(captions))
    text = extractor.encode_text(known)[[known.index(caption) for caption in captions]]
    found: list[float] = F.cosine_similarity(extractor.encode_image(pixels).cpu(), text).tolist()
    return found


def pixel_features(side: int = 8) -> FeatureExtractor:
    """Use mean colours over a grid of side x side: the baseline for every other extractor."""

    def encode_image(pixels: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(pixels.double(), side).flatten(1)

    resize = f"mean over a grid of {side}x{side}"
    return FeatureExtractor(f"pixels:{side}", 3 * side * side, resize, encode_image)


def noisy_clip_features(clip: NoisyClip, name: str = "clip", sha256: str = "") -> FeatureExtractor:
    """Use the unnormalised image features of a noisy CLIP at t = 0."""
    side = clip.config.image_size

    def encode_image(pixels: Tensor) -> Tensor:
        small = resize_square(pixels, side)
        t = torch.zeros(len(small), dtype=torch.int64, device=small.device)
        with torch.no_grad():
            return clip.encode_image(small, t).float()

    return FeatureExtractor(
        name,
        clip.config.embedding,
        _bicubic(side),
        encode_image,
        sha256,
        encode_text=_in_batches(clip.encode_prompts),
        logit_scale=float(clip.config.logit_scale),
    )


def open_clip_features(
    model: nn.Module, tokenizer: Any, name: str, sha256: str = ""
) -> FeatureExtractor:
    """Use the unnormalised image features of an open_clip model."""
    clip: Any = model
    side, mean, std = clip_preprocessing(model)
    weight = next(model.parameters())

    def encode_image(pixels: Tensor) -> Tensor:
        views = (resize_square(pixels, side) + 1) / 2
        views = (views - mean.to(views.device)) / std.to(views.device)
        with torch.no_grad():
            features: Tensor = clip.encode_image(views.to(weight.dtype)).float()
        return features

    def encode_text(captions: Sequence[str]) -> Tensor:
        features: Tensor = clip.encode_text(tokenizer(list(captions)).to(weight.device))
        return features

    with torch.no_grad():
        dimension = encode_text([""]).shape[1]
    scale = getattr(model, "logit_scale", None)
    return FeatureExtractor(
        name,
        dimension,
        _bicubic(side),
        encode_image,
        sha256,
        "open_clip_torch",
        _in_batches(encode_text),
        LOGIT_SCALE if scale is None else float(scale.detach().exp()),
    )


def load_inception(path: Path, *, device: torch.device | str = "cpu") -> FeatureExtractor:
    """Load the Inception network of FID's authors: 2048 features before the last layer.

    path: pt_inception-2015-12-05-6726825d.pth of pytorch-fid, or torch-fidelity's copy, read as
    plain tensors. Images are rounded to 8 bits and resized to 299x299 by TensorFlow 1's bilinear
    filter with align_corners=False and without antialiasing ("legacy"), as in the paper's
    evaluation and every FID before clean-fid (Parmar 2022). Logits have no bias, as in OpenAI's and
    torch-fidelity's inception score. GlideError for other weights or without torch-fidelity.
    """
    from glide_core.checkpoints.files import read_tensors

    tensors = dict(read_tensors(path).tensors)
    try:
        from torch_fidelity import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        raise GlideError(
            "the features inception:FILE need torch-fidelity: pip install torch-fidelity"
        ) from error
    # torch-fidelity would unpickle the file with any code in it, so it gets a copy of the tensors
    clean = io.BytesIO()
    torch.save(tensors, clean)
    clean.seek(0)
    try:
        with torch.inference_mode(False):
            network: Any = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=clean
            )
    except RuntimeError as error:
        reason = str(error).splitlines()[:2][-1].strip()
        raise GlideError(
            f"{path} does not hold the weights of FID's Inception network ({reason}). Expected "
            "pytorch-fid's pt_inception-2015-12-05-6726825d.pth or torch-fidelity's "
            "weights-inception-2015-12-05-6726825d.pth."
        ) from error
    network = network.to(device).eval()

    def encode_image(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            features: Tensor = network(to_uint8(pixels))[0].float()
        return features

    def logits(features: Tensor) -> Tensor:
        weight: Tensor = network.fc.weight  # [1008, 2048]
        return features.to(weight) @ weight.T

    return FeatureExtractor(
        "inception-2048",
        2048,
        "8 bits, TensorFlow 1 bilinear to 299x299 without antialias (legacy FID)",
        encode_image,
        sha256_file(path),
        "torch-fidelity",
        logits=logits,
    )


def _load_noisy_clip(name: str, device: torch.device | str) -> FeatureExtractor:
    from glide_core.checkpoints.catalog import find_model
    from glide_core.checkpoints.loading import load_clip

    paths = [find_model("clip" if part == "bundled" else part) for part in name.split(",")]
    return noisy_clip_features(load_clip(paths, device=device), f"clip:{name}", sha256_file(*paths))


def _load_open_clip(
    architecture: str, weights: str, device: torch.device | str
) -> FeatureExtractor:
    from glide_core.guidance.open_clip import cached_weights, load_open_clip

    path = Path(os.path.expanduser(weights))
    if weights and path.is_file():
        model, tokenizer = load_open_clip(architecture, path, device=device)
        name = f"open_clip:{architecture}:{path.name}"
        return open_clip_features(model, tokenizer, name, sha256_file(path))
    if path.suffix or len(path.parts) > 1:  # not the form of a tag
        raise GlideError(f"{weights} was not found. Expected weights of {architecture}.")
    tag = weights or _only_cached_tag(architecture)
    model, tokenizer = load_open_clip(architecture, None, tag, device=device)
    cached = cached_weights(architecture, tag)
    name = f"open_clip:{architecture}:{tag}"
    return open_clip_features(model, tokenizer, name, sha256_file(cached) if cached else "")


def _only_cached_tag(architecture: str) -> str:
    """Return the tag of an architecture if open_clip's cache holds exactly one."""
    import open_clip

    from glide_core.guidance.open_clip import cached_weights

    known = open_clip.list_pretrained_tags_by_model(architecture)
    tags = [str(tag) for tag in known if cached_weights(architecture, tag)]
    if len(tags) == 1:
        return tags[0]
    found = ", ".join(tags) if tags else "no weights"
    raise GlideError(
        f"open_clip's cache holds {found} for {architecture}. Name the weights, as in "
        f"open_clip:{architecture}:{tags[0] if tags else 'FILE'}. Nothing is downloaded."
    )


def resize_square(pixels: Tensor, side: int) -> Tensor:
    """Resize to squares of the given side; not cropped, since a score must cover all of it."""
    return F.interpolate(
        pixels.float(), (side, side), mode="bicubic", antialias=True, align_corners=False
    ).clamp(-1, 1)


def _bicubic(side: int) -> str:
    return f"whole image to {side}x{side}, torch bicubic with antialias"


def _in_batches(encode: Callable[[list[str]], Tensor]) -> EncodeText:
    def encode_text(captions: Sequence[str]) -> Tensor:
        starts = range(0, len(captions), _CAPTION_BATCH)
        with torch.no_grad():
            parts = [encode(list(captions[i : i + _CAPTION_BATCH])) for i in starts]
        return torch.cat([part.float().cpu() for part in parts])

    return encode_text
