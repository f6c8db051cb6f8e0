"""One or several processes: `accelerate launch` or `torchrun`, on one machine or several."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch

from glide_core.devices import pick_device
from glide_core.errors import GlideError, as_glide_error
from glide_core.training.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def make_accelerator(config: TrainConfig, device: str = "auto") -> Accelerator:
    """Make the accelerator of a run, and join the group of processes that the launcher announces.

    device: "auto", "cpu", "cuda", "mps", or one GPU ("cuda:1") where there is one process; of
    several processes each takes the GPU of its local rank.
    """
    missing = 'training needs accelerate (pip install "glide-diffusion[train]")'
    with as_glide_error(missing, ImportError):
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, GradientState
        from accelerate.utils import InitProcessGroupKwargs
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone:
        chosen = pick_device(device)
        device = chosen.type
        if chosen.index is not None:
            torch.cuda.set_device(chosen)
    elif device not in ("auto", "cpu", "cuda"):
        raise GlideError(
            f"device {device}: each of several processes takes the GPU of its local rank. Expected "
            "cpu or cuda.",
            "device",
        )
    # accelerate keeps one state per process; a second run in it may have other settings
    AcceleratorState._reset_state(reset_partial_state=alone)
    GradientState._reset_state()
    with as_glide_error("bfloat16 cannot be used here, train in float32", ValueError, "fp32"):
        accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision="bf16" if config.bf16 else "no",
            gradient_accumulation_steps=config.grad_accum_steps,
            # the others wait while the first process checks the data or generates images
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],
        )
    if device == "cuda" and accelerator.device.type != "cuda":
        raise GlideError("no GPU was found: expected the device cpu", "device")
    return accelerator


def on_main(accelerator: Accelerator, make: Callable[[], T]) -> T:
    """Call a function in the first process; returns its result, or raises its error, in all."""
    from accelerate.utils import broadcast_object_list

    if accelerator.num_processes == 1:
        return make()
    found: list[object] = [None, None]
    if accelerator.is_main_process:
        try:
            found[0] = make()
        except Exception as error:
            found[1] = error if isinstance(error, GlideError) else RuntimeError(repr(error))
    broadcast_object_list(found)
    if isinstance(found[1], Exception):
        raise found[1]
    return found[0]  # type: ignore[return-value]


def check_same_step(accelerator: Accelerator, step: int) -> None:
    """Raise GlideError in every process unless all of them resume from the same step."""
    steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise GlideError(
            f"the processes start from different steps ({steps}). Give all machines the same files "
            "and the same output folder, which all of them can read.",
            "out",
        )
