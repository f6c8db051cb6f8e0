"""Models to train, with random weights or from any checkpoint, and their losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from glide_core.checkpoints.catalog import find
from glide_core.checkpoints.loading import inspect, load_clip, load_model, model_from_state_dict
from glide_core.config import ClipConfig, GlideConfig, ModelKind
from glide_core.diffusion.schedule import Schedule
from glide_core.errors import GlideError
from glide_core.models import noisy_clip, text_encoder, unet
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from glide_core.training.config import JobName, TrainConfig, check_side
from glide_core.training.examples import Examples
from glide_core.training.losses import contrastive_loss, hybrid_loss, loss_weights

if TYPE_CHECKING:
    from accelerate import Accelerator

FIRST = "input_blocks.0.0.weight"
STARTS: dict[ModelKind, tuple[ModelKind, ...]] = {
    "base": ("base",),
    "inpaint": ("base", "inpaint"),
    "upsampler": ("upsampler",),
    "upsampler-inpaint": ("upsampler", "upsampler-inpaint"),
}
_BLOCKS = (unet.ResBlock, unet.AttentionBlock, text_encoder.Block, noisy_clip.Block)


class DiffusionJob:
    """Training of one of the four diffusion models."""

    def __init__(self, config: TrainConfig, model: GlideModel) -> None:
        self.config, self.model = config, model
        scheduled = model.config.schedule
        self.schedule = Schedule.named(scheduled.noise_schedule, scheduled.diffusion_steps)
        weights = loss_weights(config.weighting, scheduled.prediction_type, self.schedule)
        sigma_data, ab = model.config.unet.sigma_data, self.schedule.alphas_cumprod
        if sigma_data:  # the error of the network's own output, see `Precondition`
            weights *= ab + (1 - ab) / sigma_data**2
        self.weights = torch.from_numpy(weights).float()  # [T]

    def backward(
        self, accelerator: Accelerator, network: nn.Module, parts: Sequence[Examples]
    ) -> dict[str, Tensor]:
        """Add the gradients of one process's share of a batch; returns its mean losses."""
        sums: dict[str, Tensor] = {}
        device = accelerator.device
        for examples in parts:
            own = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
            with accelerator.accumulate(network), own:
                torch.manual_seed(examples.seed)  # dropout is a function of the step, too
                losses = self.loss(network, examples)
                accelerator.backward(losses["loss"])
            for key, value in losses.items():
                sums[key] = sums.get(key, torch.zeros_like(value)) + value.detach() / len(parts)
        return sums

    def loss(self, network: nn.Module, examples: Examples) -> dict[str, Tensor]:
        """Mean losses of some examples; "loss" is what is minimized."""
        x0, t, noise = examples.images, examples.t, examples.noise
        x_t = self.schedule.q_sample(x0, t, noise)
        x_t = x_t.contiguous(memory_format=torch.channels_last)
        raw = network(x_t, t, examples.ids, examples.text, **examples.extra)
        prediction = self.model.config.schedule.prediction_type
        simple, bound = hybrid_loss(raw, x0, x_t, t, noise, self.schedule, prediction)
        self.weights = self.weights.to(t.device)  # copied at the first step
        each = self.weights[t] * simple + self.config.vlb_weight * bound
        loss = (examples.weight * each).mean()
        return {"loss": loss, "simple": simple.mean(), "bound": bound.mean()}


class ClipJob:
    """Training of the noisy CLIP: images at every noise level against their captions.

    The loss compares all of a batch with all of it, so that accumulation steps and processes are
    encoded twice: first all without gradient, then each with gradient among the others' features
    (Gao et al. 2021).
    """

    def __init__(self, config: TrainConfig, model: NoisyClip) -> None:
        if config.lora:
            raise GlideError("a noisy CLIP takes no LoRA: it is trained whole", "lora")
        if config.weighting != "uniform":
            raise GlideError("a noisy CLIP's loss takes no weighting", "weighting")
        self.config, self.model = config, model
        self.schedule = Schedule.named(model.config.noise_schedule, model.config.n_timesteps)

    def backward(
        self, accelerator: Accelerator, network: nn.Module, parts: Sequence[Examples]
    ) -> dict[str, Tensor]:
        """Add the gradients of one process's share of a batch; returns the batch's loss."""
        scale = self.model.config.logit_scale
        if accelerator.num_processes == len(parts) == 1:
            loss = contrastive_loss(*self._encode(network, parts[0]), scale)
            accelerator.backward(loss)
            return {"loss": loss.detach()}
        with torch.no_grad():
            known = [self._encode(accelerator.unwrap_model(network), part) for part in parts]
        images, texts = (accelerator.gather(torch.cat(rows)) for rows in zip(*known, strict=True))
        size = len(parts[0].t)
        first = accelerator.process_index * size * len(parts)
        for i, part in enumerate(parts):
            own = slice(first + i * size, first + (i + 1) * size)
            with accelerator.accumulate(network):
                image, text = images.clone(), texts.clone()
                image[own], text[own] = self._encode(network, part)
                loss = contrastive_loss(image, text, scale)
                # gradients are averaged over processes and steps: their sum is the batch's
                accelerator.backward(loss * accelerator.num_processes * len(parts))
        return {"loss": loss.detach()}

    def _encode(self, network: nn.Module, part: Examples) -> tuple[Tensor, Tensor]:
        x_t = self.schedule.q_sample(part.images, part.t, part.noise)
        image, text = network(x_t, part.t, part.ids, part.text)
        return image.float(), text.float()


def make_job(
    config: TrainConfig,
    start: Sequence[Path] = (),
    architecture: GlideConfig | ClipConfig | None = None,
) -> DiffusionJob | ClipJob:
    """Make the job of a config with its model, to be trained: float32, on the CPU.

    start: a checkpoint of the job's kind, or of the kind that inpainting adds channels to; its
        config decides all but the kind. Noisy CLIP: one file with both encoders, or OpenAI's two.
        None: random weights, of `architecture` or the default.
    """
    kind = config.job
    if kind == "clip":
        return ClipJob(config, _make_clip(config, start, architecture))
    if len(start) > 1:
        raise GlideError(f"{kind} starts from one file: {len(start)} were given", "init_from")
    found = load_model(start[0], kinds=STARTS[kind]) if start else None
    wanted = replace(found.config, kind=kind) if found else architecture or small_architecture(kind)
    assert isinstance(wanted, GlideConfig)
    prediction = wanted.schedule.prediction_type
    if config.prediction not in (None, prediction):
        if found:
            raise GlideError(
                f"{start[0]} predicts {prediction}, which cannot be changed: omit the prediction "
                "type",
                "prediction",
            )
        schedule = replace(wanted.schedule, prediction_type=config.prediction)
        # the preconditioning is v's
        wanted = replace(wanted, schedule=schedule, unet=replace(wanted.unet, sigma_data=0.0))
    if config.size is not None:
        check_side(wanted, config.size, "size")
        wanted = replace(wanted, unet=replace(wanted.unet, image_size=config.size))
    if not found:
        found = GlideModel(wanted)
        initialise(found, config.seed)
    elif found.config.kind != kind:
        state = widened(found.openai_state_dict(), wanted)
        found = model_from_state_dict(state, wanted, where=str(start[0]))
    found.config = found.unet.config = wanted
    return DiffusionJob(config, found.requires_grad_(True).train())


def small_architecture(job: JobName) -> GlideConfig | ClipConfig:
    """The architecture of the bundled model of a job, the default for random weights."""
    return inspect(find(job).path())


def _make_clip(
    config: TrainConfig, start: Sequence[Path], architecture: GlideConfig | ClipConfig | None
) -> NoisyClip:
    if start:
        clip = load_clip(list(start))
        side = clip.config.image_size
        if config.size not in (None, side):
            raise GlideError(f"{start[0]} takes only {side}x{side} images: omit the size", "size")
        return clip.requires_grad_(True).train()
    wanted = architecture or small_architecture("clip")
    assert isinstance(wanted, ClipConfig)
    torch.manual_seed(config.seed)
    return NoisyClip(replace(wanted, image_size=config.size or wanted.image_size))


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


def checkpoint_gradients(model: nn.Module) -> int:
    """Recompute every block's activations in the backward pass; returns the number of blocks.

    Same gradients, less memory, one more forward pass.
    """
    blocks = [module for module in model.modules() if isinstance(module, _BLOCKS)]
    for block in blocks:
        recomputed = partial(checkpoint, block.forward, use_reentrant=False)
        block.forward = recomputed  # type: ignore[method-assign]
    return len(blocks)
