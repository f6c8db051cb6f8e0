"""The interface to the program that runs the nodes, which use `current()` and glide_core only.

MODEL, CLIP and VAE are opaque to nodes: a ModelPatcher, comfy.sd.CLIP and comfy.sd.VAE in ComfyUI,
small classes of `standalone` elsewhere. What a node may ask of them is in `Host`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .values import ClipGuide, Conditioning, GlideClip

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from glide_core.config import GlideConfig
    from glide_core.diffusion.types import StepCallback
    from glide_core.sampling import ConditionedModel

# What a file is for; bundled files are listed by it, the files in models/glide all are.
Purpose = Literal["base", "inpaint", "upsampler", "upsampler-inpaint", "clip", "open_clip"]


class Host(Protocol):
    """Everything that nodes need of the program around them. Errors are GlideError throughout."""

    name: Literal["comfyui", "standalone"]

    def checkpoint_names(self, *purposes: Purpose) -> list[str]:
        """List loadable files: "bundled/<file>" for the purposes first, then models/glide.

        Never raises and never creates folders: it runs whenever the node list is shown. May be
        empty.
        """
        ...

    def checkpoint_path(self, name: str) -> Path:
        """Resolve a listed name; GlideError says what is missing, where it was looked for."""
        ...

    def load_base(self, path: Path, dtype: str) -> tuple[Any, Any, Any]:
        """Load a base or inpaint model as (MODEL, CLIP, VAE); other kinds are a GlideError."""
        ...

    def load_upsampler(self, path: Path, dtype: str) -> Any:
        """Load an upsampler or upsampler-inpaint model as MODEL, with its text encoder."""
        ...

    def load_clip(self, paths: Sequence[Path], dtype: str) -> GlideClip:
        """Load a noisy CLIP from one safetensors, or OpenAI's image and text files."""
        ...

    def load_open_clip(
        self, architecture: str, weights: Path | None, tag: str, *, allow_download: bool
    ) -> GlideClip:
        """Load an open_clip model: from a file, or by tag (downloading only when allowed)."""
        ...

    def glide_config(self, model: Any) -> GlideConfig | None:
        """Say which GLIDE model is inside a MODEL; None when it is not GLIDE."""
        ...

    def encode_text(self, clip: Any, text: str) -> Conditioning:
        """Encode a prompt once; the extras carry the keys of `values` beside the features.

        Logs a warning (logger "glide") with the cut words when the prompt is too long.
        """
        ...

    def add_guide(self, model: Any, guide: ClipGuide) -> Any:
        """Give a clone of MODEL that is guided; the given MODEL stays as it was.

        In ComfyUI every built-in sampler then sees the guidance (a patch on the clone). `sample`
        passes the sum of all guides to the job as `cond_fn` instead, so that the exact
        sampler applies it once, as the reference does.
        """
        ...

    def sample(
        self,
        model: Any,
        conds: Sequence[Conditioning],
        job: Callable[[ConditionedModel], Tensor],
        *,
        batch: int,
        cfg: float = 1.0,
        low_res: Tensor | None = None,
        image: Tensor | None = None,
        keep_mask: Tensor | None = None,
    ) -> Tensor:
        """Load the MODEL, bind everything, run `job` with it, and give what it gives, on the CPU.

        conds: positive first, then negative where there is one; each serves all `batch` images.
        cfg: the job's guidance scale; in ComfyUI, CFG patches of the MODEL are called with it.
        low_res [batch, C, h, w], image [batch, C, H, W] in [-1, 1], keep_mask [batch, 1, H, W]
        (1 = keep): what the model's kind takes; they replace those of the CONDITIONING.
        The job runs while the model is loaded (in ComfyUI: as the sampler of a guider), so a host
        may free memory afterwards.
        """
        ...

    def progress(self, label: str, stages: int = 1) -> AbstractContextManager[StepCallback]:
        """Show one bar shared by this many sampling runs, one after the other.

        Every call of the callback is one step: it moves the bar (StepInfo carries the run's own
        index and total; index 0 begins the next stage), shows a preview of x0 where the program
        has one, and raises the program's own interruption when the user cancelled.
        """
        ...

    def sigma_at(self, model: Any, percent: float) -> float:
        """Give the noise level of a MODEL's schedule at a share of the sampling, 0 to 1."""
        ...

    def compared(self, before: Tensor, after: Tensor, result: tuple[Any, ...]) -> Any:
        """Give a node's `result`, with its images before and after where the program can show them.

        before, after: IMAGEs [B, H, W, C] in 0..1, each of its own size; image i of one belongs
        to image i of the other. The first four are shown.
        """
        ...

    def clip_loaded(self, clip: GlideClip) -> AbstractContextManager[torch.device | str]:
        """Have a GLIDE_CLIP's module on its device for the `with` block; gives the device."""
        ...


_CHOSEN: ContextVar[Host | None] = ContextVar("glide_host", default=None)


@contextmanager
def using(host: Host) -> Iterator[Host]:
    """Make `current()` give this host within the block: `glide run` sets device and dtype so."""
    token = _CHOSEN.set(host)
    try:
        yield host
    finally:
        _CHOSEN.reset(token)


def current() -> Host:
    """Give the current host: ComfyUI's where ComfyUI runs the nodes, else the standalone one."""
    chosen = _CHOSEN.get()
    if chosen is not None:
        return chosen
    if "folder_paths" in sys.modules and "comfy" in sys.modules:
        from .comfyui import ComfyHost

        return ComfyHost()
    from .standalone import StandaloneHost

    return StandaloneHost()
