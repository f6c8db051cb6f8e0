"""ComfyUI's progress bar, preview and interruption for the loops of this pack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import comfy.utils
import latent_preview
from tqdm.auto import tqdm

from glide_core.diffusion.types import StepCallback, StepInfo

from .model import PixelLatents


@contextmanager
def progress(label: str, stages: int) -> Iterator[StepCallback]:
    """Show `stages` runs on one bar, a preview a step where the user chose previews."""
    bar = comfy.utils.ProgressBar(1)
    previewer = latent_preview.get_previewer(
        comfy.model_management.get_torch_device(), PixelLatents()
    )
    stage = -1
    console = tqdm(desc=label, leave=True, disable=comfy.utils.PROGRESS_BAR_ENABLED is False)

    def step(info: StepInfo) -> None:
        nonlocal stage
        comfy.model_management.throw_exception_if_processing_interrupted()
        stage += info.index == 0
        console.total = info.total * stages
        console.update()
        preview = None
        if previewer is not None:
            preview = previewer.decode_latent_to_preview_image("JPEG", info.x0)
        done = max(stage, 0) * info.total + info.index + 1
        bar.update_absolute(done, info.total * stages, preview)

    with console:
        yield step
