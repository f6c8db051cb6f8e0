"""Feature extractors: functions from images to the vectors that metrics compare."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glide_core.errors import GlideError, UsageError, as_glide_error
from glide_core.guidance.clip import LOGIT_SCALE, clip_preprocessing
from glide_core.images import to_uint8
from glide_core.io import sha256_file, user_path
from glide_core.models.noisy_clip import NoisyClip

_CAPTION_BATCH = 64
_MAX_PIXELS = 64  # per side; a larger grid makes the covariance too large for the memory


@dataclass(frozen=True)
class FeatureExtractor:
    """A function from images to features, and what identifies it."""

    name: str
    dimension: int
    resize: str  # how an image reaches the size of the network
    # images [B, 3, H, W] in [-1, 1] of any size to features [B, D], float32 or float64
    encode_image: Callable[[Tensor], Tensor]
    sha256: str = ""  # of the weights' file; "" without weights
    library: str = ""  # distribution that provides the network; "" for glide_core
    # captions to unnormalised features [n, D] in the same space; None: no text encoder
    encode_text: Callable[[Sequence[str]], Tensor] | None = None
    logit_scale: float = LOGIT_SCALE  # of a CLIP
    # features [n, D] to class logits [n, C]; None: not a classifier
    logits: Callable[[Tensor], Tensor] | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for features to compare."""
        return {key: getattr(self, key) for key in ("name", "sha256", "dimension", "resize")}


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
        from glide_core.checkpoints.catalog import find_model
        from glide_core.checkpoints.loading import load_clip

        names = (rest or "bundled").split(",")
        paths = [find_model("clip" if name == "bundled" else name) for name in names]
        clip = load_clip(paths, device=device)
        return noisy_clip_features(clip, f"clip:{','.join(names)}", sha256_file(*paths))
    if kind == "open_clip" and rest:
        architecture, _, weights = rest.partition(":")
        return _load_open_clip(architecture, weights, device)
    if kind == "inception" and rest:
        return _load_inception(Path(rest), device)
    raise UsageError(
        f"Unknown feature extractor {spec!r}. Allowed: pixels, pixels:SIDE, clip:bundled, "
        "clip:FILE, open_clip:NAME:FILE, open_clip:NAME:TAG, inception:FILE."
    )


def cosines(extractor: FeatureExtractor, pixels: Tensor, captions: Sequence[str]) -> Tensor:
    """Cosine [n] of each image [n, 3, H, W] with its caption, or with the only one. By a CLIP."""
    if extractor.encode_text is None:
        raise GlideError(f"{extractor.name} is not a CLIP, so it cannot score prompts.")
    known = list(dict.fromkeys(captions))
    text = extractor.encode_text(known)[[known.index(caption) for caption in captions]]
    return F.cosine_similarity(extractor.encode_image(pixels).cpu(), text)


def pixel_features(side: int = 8) -> FeatureExtractor:
    """Use mean colours over a grid of side x side: the baseline for every other extractor."""

    def encode_image(pixels: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(pixels.double(), side).flatten(1)

    resize = f"mean over a grid of {side}x{side}"
    return FeatureExtractor(f"pixels:{side}", 3 * side * side, resize, encode_image)


def noisy_clip_features(clip: NoisyClip, name: str = "clip", sha256: str = "") -> FeatureExtractor:
    """Use the unnormalised image features of a noisy CLIP at t = 0."""

    def encode_square(square: Tensor) -> Tensor:
        t = torch.zeros(len(square), dtype=torch.int64, device=square.device)
        return clip.encode_image(square, t)

    side, scale = clip.config.image_size, float(clip.config.logit_scale)
    made = _clip_features(clip, side, encode_square, clip.encode_prompts)
    return replace(made, name=name, sha256=sha256, logit_scale=scale)


def open_clip_features(
    model: nn.Module, tokenizer: Any, name: str, sha256: str = ""
) -> FeatureExtractor:
    """Use the unnormalised image features of an open_clip model."""
    clip: Any = model
    side, mean, std = clip_preprocessing(model)
    weight = next(model.parameters())

    def encode_square(square: Tensor) -> Tensor:
        views = ((square + 1) / 2 - mean.to(square)) / std.to(square)
        return cast(Tensor, clip.encode_image(views.to(weight.dtype)))

    def encode_captions(captions: list[str]) -> Tensor:
        return cast(Tensor, clip.encode_text(tokenizer(captions).to(weight.device)))

    made = _clip_features(model, side, encode_square, encode_captions)
    scale = float(clip.logit_scale.detach().exp())
    return replace(made, name=name, sha256=sha256, library="open_clip_torch", logit_scale=scale)


def _clip_features(
    model: nn.Module,
    side: int,
    encode_square: Callable[[Tensor], Tensor],
    encode_captions: Callable[[list[str]], Tensor],
) -> FeatureExtractor:
    device = next(model.parameters()).device

    @torch.no_grad()
    def encode_image(pixels: Tensor) -> Tensor:
        # not cropped, since a score must cover the whole image
        square = F.interpolate(
            pixels.to(device).float(), (side, side), mode="bicubic", antialias=True
        )
        return encode_square(square.clamp(-1, 1)).float()

    @torch.no_grad()
    def encode_text(captions: Sequence[str]) -> Tensor:
        starts = range(0, len(captions), _CAPTION_BATCH)
        parts = [encode_captions(list(captions[i : i + _CAPTION_BATCH])) for i in starts]
        return torch.cat(parts).float().cpu()

    resize = f"whole image to {side}x{side}, torch bicubic with antialias"
    dimension = encode_text([""]).shape[1]
    return FeatureExtractor("", dimension, resize, encode_image, encode_text=encode_text)


def _load_inception(path: Path, device: torch.device | str) -> FeatureExtractor:
    """Load the Inception network of FID's authors: 2048 features before the last layer.

    path: pt_inception-2015-12-05-6726825d.pth of pytorch-fid, or torch-fidelity's copy, read as
    plain tensors. Images are rounded to 8 bits and resized to 299x299 by TensorFlow 1's bilinear
    filter with align_corners=False and without antialiasing ("legacy"), as in the paper's
    evaluation and every FID before clean-fid (Parmar 2022). Logits have no bias, as in OpenAI's and
    torch-fidelity's inception score. GlideError for other weights or without torch-fidelity.
    """
    from glide_core.checkpoints.files import read_tensors

    # torch-fidelity would unpickle the file with any code in it, so it gets a copy of the tensors
    clean = io.BytesIO()
    torch.save(dict(read_tensors(path).tensors), clean)
    clean.seek(0)
    need = "the features inception:FILE need torch-fidelity (pip install torch-fidelity)"
    with as_glide_error(need, ModuleNotFoundError):
        from torch_fidelity import FeatureExtractorInceptionV3
    wrong = f"{path} does not hold the weights of pt_inception-2015-12-05-6726825d.pth"
    with as_glide_error(wrong, RuntimeError), torch.inference_mode(False):
        network: Any = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=clean
        )
    network = network.to(device)

    @torch.no_grad()
    def encode_image(pixels: Tensor) -> Tensor:
        return cast(Tensor, network(to_uint8(pixels.to(device)))[0])

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


def _load_open_clip(
    architecture: str, weights: str, device: torch.device | str
) -> FeatureExtractor:
    """weights: a file, a tag, or "" for the only tag of which open_clip's cache has weights."""
    import open_clip

    from glide_core.guidance.open_clip import cached_weights, load_open_clip

    file, tag = user_path(weights), weights
    if weights and file.is_file():
        tag = ""
    elif not weights:
        known = open_clip.list_pretrained_tags_by_model(architecture)
        tags = [one for one in known if cached_weights(architecture, one)]
        if len(tags) != 1:
            raise GlideError(
                f"open_clip's cache holds {', '.join(tags) or 'no weights'} for {architecture}. "
                f"Name the weights: open_clip:{architecture}:{tags[0] if tags else 'FILE'}."
            )
        tag = tags[0]
    model, tokenizer = load_open_clip(architecture, None if tag else file, tag, device=device)
    file = cached_weights(architecture, tag) or file
    name = f"open_clip:{architecture}:{tag or file.name}"
    return open_clip_features(model, tokenizer, name, sha256_file(file))
