"""Commands on the tiny models, and what they wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glide_core.cli import main

TWO_STAGES = ["--model", "tiny_base.safetensors", "--upsampler", "tiny_upsampler.safetensors"]
QUICK = ["--steps", "2", "--upsample-steps", "2", "--quiet"]


def glide(*words: object) -> int:
    return main([str(word) for word in words])


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path)).astype(int)
