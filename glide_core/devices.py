"""Choose the device and the number format."""

from __future__ import annotations

import torch

from glide_core.errors import GlideError, shorten
from glide_core.names import DTYPES


def pick_device(name: str = "auto") -> torch.device:
    """Give the named device, or for "auto" a GPU when there is one; GlideError if it is missing."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" is a device, and holds no numbers
    except Exception as error:  # backends that are not built in raise nearly every type
        reason = shorten(str(error).split(". ")[0], 100)
        raise GlideError(
            f"there is no device {shorten(repr(name))} here ({reason}): expected auto, cpu, cuda, "
            "cuda:1, mps..."
        ) from error
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Give the named dtype; "auto" is float16 on a GPU, as the reference, and float32 elsewhere."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise GlideError(f"unknown number format {name!r}. Expected one of: {', '.join(DTYPES)}.")
    dtype = getattr(torch, name)
    if dtype == torch.float16 and device.type == "cpu":
        raise GlideError(
            "float16 is not for a CPU: it is slow there. Expected float32 or bfloat16. "
            "Choose one of them, or another device."
        )
    assert isinstance(dtype, torch.dtype)
    return dtype
