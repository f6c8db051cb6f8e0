"""The host when ComfyUI is absent: `glide run`, the tests, any Python program."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from glide_core.checkpoints.catalog import models_directory
from glide_core.errors import GlideError

from .. import files
from ..clip_guidance import check_noisy, condition
from ..values import (
    GLIDE_IDS,
    GLIDE_MASK,
    GLIDE_TEXT,
    GLIDE_TOKENIZER,
    ClipGuide,
    Conditioning,
    GlideClip,
    part,
    tokens_for,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from glide_core.config import GlideConfig
    from glide_core.diffusion.types import StepCallback, StepInfo
    from glide_core.models.glide import GlideModel
    from glide_core.sampling import ConditionedModel

log = logging.getLogger("glide")


@dataclass(frozen=True)
class StandaloneModel:
    """MODEL: one GLIDE model on its device, and its CLIP guidance."""

    model: GlideModel
    guides: tuple[ClipGuide, ...] = ()


@dataclass(frozen=True)
class StandaloneClip:
    """CLIP: the configuration for tokenizing a prompt. Each MODEL has its own text encoder."""

    config: GlideConfig


@dataclass(frozen=True)
class PixelVae:
    """VAE: GLIDE works on pixels; only the range of values and the layout change."""

    def decode(self, samples: Tensor) -> Tensor:
        from glide_core import images

        return images.to_comfy(samples)

    def encode(self, image: Tensor) -> Tensor:
        from glide_core import images

        return images.from_comfy(image)


@dataclass(frozen=True)
class StandaloneHost:
    """See `Host`. device, dtype: "auto" or torch's names; folders: of model files."""

    device: str = "auto"
    dtype: str = "auto"  # for loaders set to "auto"
    folders: tuple[Path, ...] = field(default_factory=lambda: (models_directory(),))
    show_progress: bool = True
    name: Literal["standalone"] = "standalone"

    def checkpoint_names(self, *purposes: str) -> list[str]:
        return files.bundled_names(purposes) + files.folder_names(self.folders)

    def checkpoint_path(self, name: str) -> Path:
        """Resolve a listed name, or the path of a file anywhere, as --model does."""
        bundled = files.bundled_path(name)
        if bundled is not None:
            return bundled
        try:
            return files.folder_path(name, self.folders)
        except GlideError:
            path = Path(os.path.expanduser(name))
            if files.is_file(path):
                return path
            raise

    def load_base(self, path: Path, dtype: str) -> tuple[StandaloneModel, StandaloneClip, PixelVae]:
        model = self._load(path, dtype, ("base", "inpaint"))
        return StandaloneModel(model), StandaloneClip(model.config), PixelVae()

    def load_upsampler(self, path: Path, dtype: str) -> StandaloneModel:
        return StandaloneModel(self._load(path, dtype, ("upsampler", "upsampler-inpaint")))

    def _load(self, path: Path, dtype: str, kinds: Sequence[Any]) -> GlideModel:
        from glide_core.checkpoints.loading import load_model
        from glide_core.devices import pick_device

        device = pick_device(self.device)
        return load_model(path, device=device, dtype=self._dtype(dtype, device), kinds=kinds)

    def _dtype(self, asked: str, device: torch.device) -> torch.dtype:
        from glide_core.devices import pick_dtype

        return pick_dtype(self.dtype if asked == "auto" else asked, device)

    def load_clip(self, paths: Sequence[Path], dtype: str) -> GlideClip:
        from glide_core.checkpoints.loading import load_clip
        from glide_core.devices import pick_device

        device = pick_device(self.device)
        module = load_clip(list(paths), device=device, dtype=self._dtype(dtype, device))
        return GlideClip("noisy", paths[0].name, module)

    def load_open_clip(
        self, architecture: str, weights: Path | None, tag: str, *, allow_download: bool
    ) -> GlideClip:
        from glide_core.devices import pick_device
        from glide_core.guidance.open_clip import load_open_clip

        module, tokenizer = load_open_clip(
            architecture,
            weights,
            tag,
            allow_download=allow_download,
            device=pick_device(self.device),
        )
        return GlideClip("open_clip", architecture, module, tokenizer)

    def glide_config(self, model: Any) -> GlideConfig | None:
        return model.model.config if isinstance(model, StandaloneModel) else None

    def encode_text(self, clip: Any, text: str) -> Conditioning:
        import torch

        from glide_core.tokenizer import get_tokenizer, warn_if_truncated

        if not isinstance(clip, StandaloneClip):
            raise GlideError("the CLIP is not GLIDE's. Connect the CLIP output of GLIDE Loader.")
        config = clip.config
        tokens = get_tokenizer(config.tokenizer).encode(text, config.text.context_length)
        warn_if_truncated(tokens)
        # No features: outside ComfyUI only our own nodes read a CONDITIONING, and every model
        # encodes the ids with its own text encoder, once.
        states = torch.zeros(1, 0, config.text.width)
        extras = {
            GLIDE_TEXT: text,
            GLIDE_IDS: tokens.ids[None],
            GLIDE_MASK: tokens.mask[None],
            GLIDE_TOKENIZER: config.tokenizer,
        }
        return [[states, extras]]

    def add_guide(self, model: Any, guide: ClipGuide) -> StandaloneModel:
        if not isinstance(model, StandaloneModel):
            raise GlideError("the MODEL is not GLIDE's. Expected one from GLIDE Loader.")
        if guide.clip.kind == "noisy":
            check_noisy(guide, model.model.config)
        return replace(model, guides=(*model.guides, guide))

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
        import torch

        from glide_core import sampling
        from glide_core.guidance.guides import add_guides

        glide: GlideModel = model.model
        names = ("positive", "negative")
        extras = [part(cond, where=f"'{name}'") for name, cond in zip(names, conds, strict=False)]
        with torch.inference_mode():
            guides = [condition(g, glide.config, batch, glide.device) for g in model.guides]
            loaded = sampling.condition_model(
                glide,
                *([tokens_for(extra, glide.config)] * batch for extra in extras),
                low_res=low_res,
                image=image,
                keep_mask=keep_mask,
                cond_fn=add_guides(*guides) if guides else None,
            )
            return job(loaded).cpu()

    @contextmanager
    def progress(self, label: str, stages: int = 1) -> Iterator[StepCallback]:
        from tqdm import tqdm

        bar: Any = None
        stage = 0

        def step(info: StepInfo) -> None:
            nonlocal bar, stage
            if bar is None or info.index == 0:
                if bar is not None:
                    bar.close()
                stage += 1
                title = label if stages == 1 else f"{label} {stage}/{stages}"
                bar = tqdm(
                    total=info.total,
                    desc=title,
                    unit="step",
                    leave=True,
                    disable=not self.show_progress,
                )
            bar.update(1)

        try:
            yield step
        finally:
            if bar is not None:
                bar.close()

    def sigma_at(self, model: Any, percent: float) -> float:
        from glide_core.sampling import model_schedule

        if not isinstance(model, StandaloneModel):
            raise GlideError("the MODEL is not GLIDE's. Expected one from GLIDE Loader.")
        if percent <= 0 or percent >= 1:
            return 0.0 if percent > 0 else math.inf
        schedule = model_schedule(model.model.config)
        return float(schedule.sigma(round((1 - percent) * (len(schedule) - 1))))

    def compared(self, before: Tensor, after: Tensor, result: tuple[Any, ...]) -> tuple[Any, ...]:
        return result

    @contextmanager
    def clip_loaded(self, clip: GlideClip) -> Iterator[torch.device]:
        yield next(clip.module.parameters()).device
