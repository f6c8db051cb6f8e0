"""A measured set as a file: features, mean and covariance, and what they were made from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from glide_core.errors import GlideError
from glide_core.evaluation.frechet import Statistics
from glide_core.evaluation.measure import Measured
from glide_core.io import atomic_write


def save_stats(found: Measured, path: Path) -> None:
    """Write features, mean (mu), covariance (sigma) and their origin as .npz, whole or not."""
    assert found.features is not None
    about = {"extractor": dict(found.extractor), "crop": found.crop, "size": found.size}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            mu=found.statistics.mean.numpy(),
            sigma=found.statistics.covariance.numpy(),
            n=np.array(found.n),
            features=found.features.numpy(),
            about=np.array(json.dumps(about)),
        )


def load_stats(path: Path) -> Measured:
    """Read what `save_stats` wrote, or a file with mu and sigma alone (pytorch-fid's)."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        mean, covariance = (torch.from_numpy(arrays[k]).double() for k in ("mu", "sigma"))
        about = json.loads(str(arrays["about"])) if "about" in arrays else {}
        features = torch.from_numpy(arrays["features"]) if "features" in arrays else None
        count = int(arrays["n"]) if "n" in arrays else 0
    except FileNotFoundError as error:
        raise GlideError(f"there is no file {path}. Expected statistics: check it.") from error
    except Exception as error:  # a damaged zip raises almost anything
        raise GlideError(
            f"{path} holds no statistics ({type(error).__name__}: {error}). Expected .npz with mu "
            "and sigma: write it with `glide evaluate PICTURES --save-stats`."
        ) from error
    return Measured(
        features=features,
        n=count,
        extractor=about.get("extractor", {}),
        crop=about.get("crop", "unknown"),
        size=about.get("size", "unknown"),
        stored=Statistics(mean, covariance, count),
    )
