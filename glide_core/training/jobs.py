"""The networks to train and their losses: one job per kind of model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from glide_core.config import ClipConfig, GlideConfig
from glide_core.data.source import Source
from glide_core.diffusion.schedule import Schedule
from glide_core.errors import GlideError
from glide_core.models import noisy_clip, text_encoder, unet
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from glide_core.training.config import TrainConfig
from glide_core.training.examples import ClipSteps, DiffusionSteps, Examples
from glide_core.training.losses import contrastive_loss, hybrid_loss, loss_weights
from glide_core.training.start import make_clip, make_model

if TYPE_CHECKING:
    from accelerate import Accelerator

_BLOCKS = (unet.ResBlock, unet.AttentionBlock, text_encoder.Block, noisy_clip.Block)


class DiffusionJob:
    """Training of one of the four diffusion models."""

    def __init__(self, config: TrainConfig, model: GlideModel) -> None:
        self.config, self.model = config, model
        scheduled = self.model.config.schedule
        self.schedule = Schedule.named(scheduled.noise_schedule, scheduled.diffusion_steps)
        weights = loss_weights(config.weighting, scheduled.prediction_type, self.schedule)
        self.weights = torch.from_numpy(weights).float()  # [T]

    def steps(self, source: Source, share: Sequence[range]) -> DiffusionSteps:
        return DiffusionSteps(self.config, self.model.config, source, share)

    def backward(
        self, accelerator: Accelerator, network: nn.Module, parts: Sequence[Examples]
    ) -> dict[str, Tensor]:
        """Add the gradients of one process's share of a batch; returns its mean losses."""
        sums: dict[str, Tensor] = {}
        for examples in _moved(parts, accelerator.device):
            with accelerator.accumulate(network), self._dropout(examples, accelerator.device):
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
        hybrid = hybrid_loss(raw, x0, x_t, t, noise, self.schedule, prediction)
        self.weights = self.weights.to(t.device)  # copied at the first step
        weights = self.weights[t]
        if self.model.unet.precondition is not None:  # the error of the network's own output
            weights = weights * self.model.unet.precondition.weight(t, t)
        each = weights * hybrid.simple + self.config.vlb_weight * hybrid.bound
        return {
            "loss": (examples.weight * each).mean(),
            "simple": hybrid.simple.mean(),
            "bound": hybrid.bound.mean(),
        }

    @contextmanager
    def _dropout(self, examples: Examples, device: torch.device) -> Iterator[None]:
        """Make dropout, where the model has any, a function of the step, too."""
        if not self.model.config.unet.dropout:
            yield
            return
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(examples.seed)
            yield


class ClipJob:
    """Training of the noisy CLIP: images at every noise level against their captions.

    The loss compares all of a batch with all of it, so that accumulation steps and processes are
    encoded twice: first all without gradient, then each with gradient among the others' features
    (Gao et al. 2021).
    """

    def __init__(self, config: TrainConfig, model: NoisyClip) -> None:
        if config.lora:
            raise GlideError(
                "a noisy CLIP is trained whole: only the diffusion models take a LoRA", "lora"
            )
        if config.weighting != "uniform":
            raise GlideError(
                "a noisy CLIP's loss takes no weighting: choose the distribution of timesteps",
                "timesteps",
            )
        self.config, self.model = config, model
        self.schedule = Schedule.named(model.config.noise_schedule, model.config.n_timesteps)

    def steps(self, source: Source, share: Sequence[range]) -> ClipSteps:
        return ClipSteps(self.config, self.model.config, source, share)

    def backward(
        self, accelerator: Accelerator, network: nn.Module, parts: Sequence[Examples]
    ) -> dict[str, Tensor]:
        """Add the gradients of one process's share of a batch; returns the batch's loss."""
        parts = list(_moved(parts, accelerator.device))
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
        for start, part in zip(range(first, first + size * len(parts), size), parts, strict=True):
            with accelerator.accumulate(network):
                image, text = (
                    torch.cat([others[:start], own, others[start + size :]])
                    for others, own in zip(
                        (images, texts), self._encode(network, part), strict=True
                    )
                )
                loss = contrastive_loss(image, text, scale)
                # gradients are averaged over processes and steps: their sum is the batch's
                accelerator.backward(loss * accelerator.num_processes * len(parts))
        return {"loss": loss.detach()}

    def _encode(self, network: nn.Module, part: Examples) -> tuple[Tensor, Tensor]:
        x_t = self.schedule.q_sample(part.images, part.t, part.noise)
        image, text = network(x_t, part.t, part.ids, part.text)
        return image.float(), text.float()


def _moved(parts: Sequence[Examples], device: torch.device) -> Iterator[Examples]:
    from accelerate.utils import send_to_device

    return (send_to_device(part, device, non_blocking=True) for part in parts)


def make_job(
    config: TrainConfig,
    start: Sequence[Path] = (),
    architecture: GlideConfig | ClipConfig | None = None,
) -> DiffusionJob | ClipJob:
    """Make the job of a config.

    start: checkpoints to train on from (none: random weights, of `architecture` or the default).
    """
    if config.job == "clip":
        return ClipJob(config, make_clip(config, start, architecture))
    return DiffusionJob(config, make_model(config, start, architecture))


def checkpoint_gradients(model: nn.Module) -> int:
    """Recompute every block's activations in the backward pass; returns the number of blocks.

    Same gradients, less memory, one more forward pass.
    """
    blocks = [module for module in model.modules() if isinstance(module, _BLOCKS)]
    for block in blocks:
        recomputed = partial(checkpoint, block.forward, use_reentrant=False)
        block.forward = recomputed  # type: ignore[method-assign]
    return len(blocks)
