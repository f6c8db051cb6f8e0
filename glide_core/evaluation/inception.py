"""The Inception network of FID's authors, from a file on this machine, by torch-fidelity's code."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glide_core.checkpoints.files import read_tensors
from glide_core.errors import GlideError
from glide_core.evaluation.features import _About
from glide_core.images import to_uint8
from glide_core.io import sha256_file


@dataclass(frozen=True)
class InceptionFeatures(_About):
    """The 2048 features before the last layer, of pictures rounded to 8 bits.

    Resizing is TensorFlow 1's bilinear with align_corners=False and no antialiasing ("legacy"), the
    one of the paper's evaluation and of every FID before clean-fid (Parmar 2022), for files read
    whole and at once: 64x64 pictures are enlarged to 299x299 by it, large ones lose detail.
    """

    network: nn.Module = field(repr=False)

    def __call__(self, pictures: Tensor, /) -> Tensor:
        with torch.no_grad():
            (features,) = self.network(to_uint8(pictures))
        return features.float()  # type: ignore[no-any-return]

    def logits(self, features: Tensor, /) -> Tensor:
        """Logits [n, 1008] without the bias, as OpenAI's and torch-fidelity's inception score."""
        network: Any = self.network
        weight: Tensor = network.fc.weight
        return features.to(weight) @ weight.T


def load_inception(path: Path, *, device: torch.device | str = "cpu") -> InceptionFeatures:
    """Load pt_inception-2015-12-05-6726825d.pth of pytorch-fid, or torch-fidelity's same weights.

    The file is read as plain tensors; one that carries code is refused. GlideError for weights of
    another network, and where torch-fidelity is not installed (`pip install torch-fidelity`).
    """
    tensors = dict(read_tensors(path).tensors)
    try:
        from torch_fidelity import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        raise GlideError(
            "the Inception network needs torch-fidelity, which is not installed. Expected it for "
            "--features inception:FILE. Run `pip install torch-fidelity`."
        ) from error
    # torch-fidelity would unpickle the file as it is, code and all: it gets our own copy instead
    clean = io.BytesIO()
    torch.save(tensors, clean)
    clean.seek(0)
    try:
        with torch.inference_mode(False):
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=clean
            )
    except RuntimeError as error:
        raise GlideError(
            f"{path} does not hold the weights of FID's Inception network "
            f"({str(error).splitlines()[1 if len(str(error).splitlines()) > 1 else 0].strip()}). "
            "Expected pytorch-fid's pt_inception-2015-12-05-6726825d.pth, or torch-fidelity's "
            "weights-inception-2015-12-05-6726825d.pth."
        ) from error
    return InceptionFeatures(
        "inception-2048",
        sha256_file(path),
        2048,
        299,
        "8 bits, TensorFlow 1 bilinear without antialias (legacy FID)",
        network=network.to(device).eval(),
        library="torch-fidelity",
    )
