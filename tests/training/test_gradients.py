"""Gradients: of the loss against finite differences, in parts, and computed twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_runs import TINY, Colours, trainer

from glide_core.diffusion.schedule import Schedule
from glide_core.training.config import JobName, TrainConfig
from glide_core.training.distributed import make_accelerator
from glide_core.training.examples import Steps, split_batch
from glide_core.training.jobs import ClipJob, DiffusionJob, checkpoint_gradients, make_job
from glide_core.training.losses import hybrid_loss

SCHEDULE = Schedule.named("squaredcos_cap_v2")


def backward(job: DiffusionJob | ClipJob, step: int, parts: int = 1) -> dict[str, Tensor]:
    config = replace(job.config, grad_accum_steps=parts)
    accelerator = make_accelerator(config, "cpu")
    share = split_batch(config.batch, 0, 1, parts)
    steps = Steps(config, job.model.config, Colours(12), share)
    return job.backward(accelerator, accelerator.prepare(job.model), steps[step])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("t", [0, 1, 500, 900])
def test_the_losses_gradients_are_their_finite_differences(kind: str, t: int) -> None:
    """In float64; the variance's channels for the bound, into which the mean enters detached."""
    rng = torch.Generator().manual_seed(t)
    x0 = (torch.rand(1, 3, 2, 2, generator=rng, dtype=torch.float64) * 2 - 1) * 0.9
    noise = torch.randn(x0.shape, generator=rng, dtype=torch.float64)
    steps = torch.tensor([t])
    x_t = SCHEDULE.q_sample(x0, steps, noise)
    mean = torch.randn(x0.shape, generator=rng, dtype=torch.float64, requires_grad=True)
    fraction = torch.rand(x0.shape, generator=rng, dtype=torch.float64, requires_grad=True)

    def loss(mean: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
        raw = torch.cat([mean, fraction], dim=1)
        return hybrid_loss(raw, x0, x_t, steps, noise, SCHEDULE, kind)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(lambda m: loss(m, fraction.detach())[0], mean)
    assert torch.autograd.gradcheck(lambda f: loss(mean.detach(), f)[1], fraction, atol=1e-4)


def test_the_networks_gradient_is_the_losses_slope(tiny_models: Path) -> None:
    config = replace(TINY, vlb_weight=0.0)
    job = make_job(config, [tiny_models / "tiny_base.safetensors"])
    backward(job, 0)
    weights = [p for p in job.model.parameters() if p.grad is not None]
    grads = [p.grad.clone() for p in weights if p.grad is not None]
    norm = torch.stack([g.norm() for g in grads]).norm()
    small = 1e-2 / float(norm)  # along the gradient: the loss should rise by norm per unit

    def moved(by: float) -> float:
        with torch.no_grad():
            for weight, grad in zip(weights, grads, strict=True):
                weight.add_(grad, alpha=by)
        return float(backward(job, 0)["loss"])

    up = moved(small)
    down = moved(-2 * small)
    assert (up - down) / (2 * small) == pytest.approx(float(norm) ** 2, rel=0.02)


def gradients(config: TrainConfig, start: Path, parts: int, recompute: bool) -> dict[str, Tensor]:
    job = make_job(config, [start])
    if recompute:
        assert checkpoint_gradients(job.model) > 1
    losses = backward(job, 3, parts)
    grads = {name: p.grad for name, p in job.model.named_parameters() if p.grad is not None}
    return {**grads, "loss": losses["loss"]}


JOBS = pytest.mark.parametrize("job", ["base", "inpaint", "clip"])


def start_of(job: JobName, models: Path) -> tuple[TrainConfig, Path]:
    size = None if job == "clip" else 16
    return replace(TINY, job=job, batch=6, size=size), models / f"tiny_{job}.safetensors"


@JOBS
@pytest.mark.parametrize("parts", [2, 6])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(
    job: JobName, parts: int, tiny_models: Path
) -> None:
    config, start = start_of(job, tiny_models)
    whole = gradients(config, start, 1, False)
    divided = gradients(config, start, parts, False)
    assert whole.keys() == divided.keys()
    for key, value in whole.items():
        difference = float((divided[key] - value).norm())
        assert difference <= 1e-4 * float(value.norm()) + 1e-6, key


@JOBS
def test_activation_checkpointing_leaves_the_gradients_as_they_are(
    job: JobName, tiny_models: Path
) -> None:
    config, start = start_of(job, tiny_models)
    kept = gradients(config, start, 1, False)
    recomputed = gradients(config, start, 1, True)
    assert kept.keys() == recomputed.keys()
    for key, value in kept.items():
        torch.testing.assert_close(recomputed[key], value, rtol=1e-6, atol=1e-7, msg=key)


def test_activation_checkpointing_stores_fewer_activations(tiny_models: Path) -> None:
    config, start = start_of("base", tiny_models)
    kept = []
    for recompute in (False, True):
        job = make_job(config, [start])
        if recompute:
            checkpoint_gradients(job.model)
        sizes: dict[int, int] = {}

        def note(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        (found,) = Steps(config, job.model.config, Colours(12), split_batch(6, 0, 1, 1))[0]
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            job.loss(job.model, found)  # type: ignore[union-attr]
        weights = {p.data_ptr() for p in job.model.parameters()}
        kept.append(sum(size for place, size in sizes.items() if place not in weights))
    assert kept[1] < 0.5 * kept[0]


def test_a_run_with_checkpointing_takes_the_same_steps(tiny_models: Path, tmp_path: Path) -> None:
    start = tiny_models / "tiny_base.safetensors"
    plain = trainer(TINY, tmp_path / "plain", start)
    twice = trainer(replace(TINY, gradient_checkpointing=True), tmp_path / "twice", start)
    for _ in range(2):
        assert twice.one_step()["loss"] == pytest.approx(plain.one_step()["loss"], rel=1e-5)
