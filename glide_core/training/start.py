"""Models to train: an architecture with random weights, or any checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from glide_core.checkpoints.catalog import find
from glide_core.checkpoints.loading import inspect, load_clip, load_model, model_from_state_dict
from glide_core.config import ClipConfig, GlideConfig, ModelKind
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from glide_core.training.config import JobName, TrainConfig

FIRST = "input_blocks.0.0.weight"
STARTS: dict[ModelKind, tuple[ModelKind, ...]] = {
    "base": ("base",),
    "inpaint": ("base", "inpaint"),
    "upsampler": ("upsampler",),
    "upsampler-inpaint": ("upsampler", "upsampler-inpaint"),
}


def small_architecture(job: JobName) -> GlideConfig | ClipConfig:
    """The architecture of the bundled model of a job, the default for random weights."""
    return inspect(find(job).path())


def make_model(
    config: TrainConfig,
    start: Sequence[Path] = (),
    architecture: GlideConfig | ClipConfig | None = None,
) -> GlideModel:
    """Make the model of a diffusion job, to be trained: float32, on the CPU.

    start: a checkpoint of the job's kind, or of the kind that inpainting adds channels to; its
        config decides all but the kind. None: random weights, of `architecture` or the default.
    """
    assert config.job != "clip"
    kind: ModelKind = config.job
    if not start:
        wanted = architecture or small_architecture(kind)
        assert isinstance(wanted, GlideConfig)
        model = GlideModel(_asked(wanted, config))
        initialise(model, config.seed)
        return model
    if len(start) > 1:
        raise GlideError(f"{kind} starts from one file: {len(start)} were given", "init_from")
    found = load_model(start[0], kinds=STARTS[kind])
    prediction = found.config.schedule.prediction_type
    if config.prediction not in (None, prediction):
        raise GlideError(
            f"{start[0]} predicts {prediction}, which cannot be changed: the prediction type is "
            "chosen only for training from scratch",
            "prediction",
        )
    wanted = _sized(replace(found.config, kind=kind), config.size)
    if wanted.kind != found.config.kind:
        state = widened(found.openai_state_dict(), wanted)
        found = model_from_state_dict(state, wanted, where=str(start[0]))
    found.config = found.unet.config = wanted
    return found.requires_grad_(True).train()


def make_clip(
    config: TrainConfig,
    start: Sequence[Path] = (),
    architecture: GlideConfig | ClipConfig | None = None,
) -> NoisyClip:
    """Make the noisy CLIP to be trained; start: one file with both encoders, or OpenAI's two."""
    if not start:
        wanted = architecture or small_architecture("clip")
        assert isinstance(wanted, ClipConfig)
        if config.size is not None:
            wanted = replace(wanted, image_size=config.size)
        torch.manual_seed(config.seed)
        return NoisyClip(wanted)
    clip = load_clip(list(start))
    if config.size not in (None, clip.config.image_size):
        raise GlideError(
            f"{start[0]} takes images of {clip.config.image_size}x{clip.config.image_size}, "
            "which cannot be changed: omit the size",
            "size",
        )
    return clip.requires_grad_(True).train()


def initialise(model: GlideModel, seed: int) -> None:
    """Set random weights: torch's for layers, wide embeddings, zeros where a block ends.

    Token embeddings at std 0.5 bind the text sooner than 0.02 does in an encoder this small.
    """
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv1d | nn.GroupNorm | nn.LayerNorm):
            module.reset_parameters()
    nn.init.normal_(model.text.token_embedding.weight, std=0.5)
    nn.init.normal_(model.text.positional_embedding, std=0.1)
    nn.init.normal_(model.text.padding_embedding, std=0.1)
    for name, module in model.unet.named_modules():
        if name.endswith(("out_layers.3", "proj_out", "out.2")):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)


def widened(state: dict[str, Tensor], config: GlideConfig) -> dict[str, Tensor]:
    """Give the first convolution the input channels of `config`'s kind, the new ones at zero.

    The mask and the known pixels stand between x and low_res, as in OpenAI's inpainting models.
    Under pixel_unshuffle a channel is patch_size ** 2 inputs, side by side; the coordinate
    channels come last.
    """
    old = state[FIRST]
    if old.shape[1] == config.first_channels:
        return dict(state)
    pixels = config.unet.channels * config.unet.patch_size**2
    new = old.new_zeros(len(old), config.first_channels, *old.shape[2:])
    new[:, :pixels] = old[:, :pixels]
    after = (pixels if config.is_upsampler else 0) + 2 * config.unet.coord_channels
    if after:
        new[:, -after:] = old[:, -after:]
    return {**state, FIRST: new}


def _asked(preset: GlideConfig, config: TrainConfig) -> GlideConfig:
    if config.prediction is not None:
        schedule = replace(preset.schedule, prediction_type=config.prediction)
        preset = replace(preset, schedule=schedule)
        if config.prediction != "v_prediction":  # the preconditioning is v's
            preset = replace(preset, unet=replace(preset.unet, sigma_data=0.0))
    return _sized(preset, config.size)


def _sized(model: GlideConfig, size: int | None) -> GlideConfig:
    if size is None:
        return model
    step = max(model.unet.side_multiple, 4 if model.is_upsampler else 1)
    if size < step or size % step:
        raise GlideError(
            f"images of {size}x{size} do not fit this model: expected a multiple of {step}",
            "size",
        )
    return replace(model, unet=replace(model.unet, image_size=size))
