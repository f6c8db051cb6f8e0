"""What the picture commands share: finding models, guides, progress bars, and the PNG's text."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_core.checkpoints.catalog import find_model

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from glide_core.config import GlideConfig, ModelKind, SamplerConfig
    from glide_core.diffusion.types import ConditionFn, StepCallback, StepInfo
    from glide_core.models.glide import GlideModel
    from glide_core.models.noisy_clip import NoisyClip

log = logging.getLogger("glide")

# What says where and how fast, not what: and the seed, which every picture has its own.
_NOT_IN_PICTURES = ("out", "quiet", "device", "batch", "n", "seed", "version")


@dataclass(frozen=True)
class Session:
    """Device, number format and verbosity of one command."""

    device: torch.device
    dtype: torch.dtype
    quiet: bool

    @staticmethod
    def of(arguments: argparse.Namespace) -> Session:
        from glide_core import io
        from glide_core.devices import pick_device, pick_dtype

        io.check_folder(arguments.out)
        device = pick_device(arguments.device)
        return Session(device, pick_dtype(arguments.dtype, device), arguments.quiet)

    def model(
        self, name: str, *kinds: ModelKind, loras: Sequence[tuple[str, float]] | None = None
    ) -> GlideModel:
        """Load a model by name or file, with LoRAs (file, strength) merged into it."""
        from glide_core.checkpoints.loading import load_model
        from glide_core.checkpoints.lora import apply_lora

        model = load_model(find_model(name), device=self.device, dtype=self.dtype, kinds=kinds)
        for file, strength in loras or ():
            apply_lora(model, Path(file).expanduser(), strength)
        return model

    def guide(self, arguments: argparse.Namespace, prompt: str) -> ConditionFn | None:
        """The noisy CLIP's pull towards the prompt; None when --clip-scale is 0."""
        if arguments.clip_scale == 0:
            return None
        import torch

        from glide_core.checkpoints.loading import load_clip
        from glide_core.guidance import noisy_clip_guide

        paths = [find_model(name) for name in arguments.clip or ["clip"]]
        clip: NoisyClip = load_clip(paths, device=self.device, dtype=self.dtype)
        with torch.no_grad():
            text = clip.encode_prompts([prompt])
        return noisy_clip_guide(clip, text, arguments.clip_scale)

    @contextmanager
    def progress(self, label: str) -> Iterator[StepCallback]:
        """A bar with the time left, over the steps of one sampling run."""
        from tqdm import tqdm

        with tqdm(desc=label, unit="step", disable=self.quiet, leave=True) as bar:

            def step(info: StepInfo) -> None:
                if bar.total != info.total:
                    bar.reset(total=info.total)
                bar.update(1)

            yield step


def warn_if_cut(config: GlideConfig, arguments: argparse.Namespace) -> None:
    """Say so when the model cannot read all of a prompt, or of the negative one."""
    from glide_core.tokenizer import get_tokenizer, warn_if_truncated

    length = config.text.context_length
    tokenizer = get_tokenizer(config.tokenizer)
    for name, text in (("prompt", arguments.prompt), ("negative prompt", arguments.negative)):
        warn_if_truncated(tokenizer.encode(text, length), f"the {name}")


def sampler_of(arguments: argparse.Namespace) -> str:
    """The sampler asked for; by default ddim, and the paper's ddpm under CLIP guidance.

    Ancestral sampling weighs CLIP's gradient by each step's variance. DDIM does not, and burns
    pictures at scales that are mild there.
    """
    if arguments.sampler is not None:
        return str(arguments.sampler)
    return "ddpm" if getattr(arguments, "clip_scale", 0) else "ddim"


def settings_of(arguments: argparse.Namespace) -> SamplerConfig:
    """The 64x64 stage, from --steps, --respacing, --sampler, --eta, --cfg."""
    from glide_core.config import SamplerConfig

    return SamplerConfig(
        steps=arguments.steps,
        respacing=arguments.respacing,
        sampler=sampler_of(arguments),
        eta=arguments.eta,
        guidance_scale=arguments.cfg,
    )


def upsample_settings_of(arguments: argparse.Namespace, sampler: str = "ddim") -> SamplerConfig:
    """The 256x256 stage, from --upsample-steps, --upsample-cfg, --upsample-temperature."""
    from glide_core.config import SamplerConfig
    from glide_core.request import upsample_respacing

    return SamplerConfig(
        steps=arguments.upsample_steps,
        respacing=upsample_respacing(arguments.upsample_steps),
        sampler=sampler,
        guidance_scale=arguments.upsample_cfg,
        temperature=arguments.upsample_temperature,
    )


def chunks(seed: int, count: int, size: int) -> Iterator[list[int]]:
    """Seeds of `count` pictures, `size` at a time: picture i has seed + i in any chunking."""
    for start in range(0, count, size):
        yield [(seed + i) % 2**64 for i in range(start, min(start + size, count))]


def write(
    pictures: Tensor, arguments: argparse.Namespace, seeds: Sequence[int], facts: Mapping[str, Any]
) -> list[Path]:
    """Write pictures [B, C, H, W] with what made them, print their paths, and give them."""
    from glide_core import io
    from glide_core.images import to_pil

    images = to_pil(pictures)
    each = []
    for picture, seed in zip(images, seeds, strict=True):
        own = {**facts, "seed": seed, "size": f"{picture.width}x{picture.height}"}
        each.append({"parameters": parameters(own), "glide": own})
    paths = io.save_images(images, arguments.out, "glide", each=each)
    for path in paths:
        print(path)
    return paths


def facts_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that belong into the PNG, by their options' names: all that shape a picture."""
    from glide_core import __version__

    given = {k: v for k, v in vars(arguments).items() if k not in _NOT_IN_PICTURES}
    if "sampler" in given:
        given["sampler"] = sampler_of(arguments)
    plain = {k: v.name if isinstance(v, Path) else v for k, v in given.items() if v is not None}
    return {**plain, "glide_version": __version__}


def parameters(facts: Mapping[str, Any]) -> str:
    """The text that picture viewers show: prompt, negative prompt, then settings in one line."""
    lines = [str(facts.get("prompt", ""))]
    if facts.get("negative"):
        lines.append(f"Negative prompt: {facts['negative']}")
    rest = [(k, v) for k, v in facts.items() if k not in ("prompt", "negative") and v != ""]
    lines.append(", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in rest))
    return "\n".join(lines)
