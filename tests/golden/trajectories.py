"""Whole sampling runs against recorded ones: step by step, and left to themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from recordings import Case, Recordings, compare
from torch import Tensor

from glide_core.diffusion import Denoiser, Schedule
from glide_core.diffusion.samplers import (
    StepFn,
    ddim,
    ddim_reverse,
    ddpm,
    sample_loop,
)
from glide_core.diffusion.types import (
    ConditionFn,
    CondUncondModel,
    DenoisedFn,
    EpsModel,
    NoiseSource,
    Prediction,
    StepInfo,
)
from glide_core.errors import GlideError
from glide_core.guidance.clip import noisy_clip_guide
from glide_core.guidance.guides import classifier_free
from glide_core.models.glide import GlideModel
from glide_core.sampling import condition_model, inpaint_denoised_fn
from glide_core.tokenizer import Tokens, get_tokenizer

LOOPS = ("p_sample", "ddim", "ddim_reverse")


@dataclass(frozen=True)
class _Run:
    """One way of running a case; `kept` is the part of the recorded batch that it computes."""

    label: str
    denoiser: Denoiser
    kept: slice
    cond_fn: ConditionFn | None  # of the ancestral steps; other loops have it in the denoiser


def check_trajectory(recordings: Recordings, case: Case) -> None:
    """Compare every step, teacher-forced (from the recorded state) and free-running.

    Classifier-free runs were recorded as the notebooks make them, the batch doubled and each half
    with its own variance. They are checked twice: the kept half through classifier_free, as the
    product samples, and the whole doubled state.
    """
    if case.option("loop") not in LOOPS:
        raise GlideError(
            f"unknown loop {case.option('loop')!r}: expected one of {', '.join(LOOPS)}"
        )
    model = recordings.model(case.option("model"))
    full = Schedule.named(case.option("schedule"), model.config.schedule.diffusion_steps)
    schedule = full.respaced(case.option("respacing"))
    steps = len(case.output("samples"))
    if case.has_output("model_timesteps"):
        case.check("model_timesteps", torch.from_numpy(schedule.timestep_map))
    for run in _runs(recordings, case, model, full):
        _teacher_forced(case, run, schedule, steps)
        _free_running(case, run, schedule, steps)


def _runs(recordings: Recordings, case: Case, model: GlideModel, full: Schedule) -> Iterator[_Run]:
    scale, batch = case.option("cfg_scale"), len(case.input("x_T"))
    everything = _conditioned(case, model, slice(None), [slice(None)])
    if scale is None:
        alone = classifier_free(everything, 1.0, schedule=full)
        yield _run(recordings, case, "", alone, slice(None), full)
        return
    if batch % 2:
        raise GlideError(f"a guided run's batch must be even, not {batch}")
    half = batch // 2
    both = _conditioned(case, model, slice(half), [slice(half), slice(half, None)])
    guided = classifier_free(both, scale, schedule=full)

    def doubled(x_t: Tensor, t: Tensor, /) -> Prediction:
        # the notebooks' model_fn: the first half of x_t twice, eps shared, variances not
        ((eps, variance),) = everything(torch.cat([x_t[:half], x_t[:half]]), t, False)
        cond, uncond = eps.chunk(2)
        return Prediction((uncond + scale * (cond - uncond)).repeat(2, 1, 1, 1), variance)

    yield _run(recordings, case, "kept half, ", guided, slice(half), full)
    yield _run(recordings, case, "both halves, ", doubled, slice(None), full)


def _run(
    recordings: Recordings, case: Case, label: str, model: EpsModel, kept: slice, full: Schedule
) -> _Run:
    denoised_fn: DenoisedFn | None = None
    if case.option("denoised_fn"):
        image, keep_mask = case.input("inpaint_image"), case.input("inpaint_mask")
        denoised_fn = inpaint_denoised_fn(image[kept], keep_mask[kept])
    cond_fn: ConditionFn | None = None
    if case.option("clip_scale") is not None:
        clip = recordings.clip()
        tokenizer = get_tokenizer(clip.config.tokenizer)
        tokens = [
            tokenizer.encode(prompt, clip.config.context_length)
            for prompt in case.option("prompts")
        ]
        lengths = torch.tensor([int(t.mask.sum()) for t in tokens])
        with torch.no_grad():
            text = clip.encode_text(torch.stack([t.ids for t in tokens]), lengths)
        text = text.repeat(max(1, len(case.input("x_T")) // len(text)), 1)  # doubled batches too
        cond_fn = noisy_clip_guide(clip, text[kept], case.option("clip_scale"))
    denoiser = Denoiser(
        model,
        full,
        clip_denoised=case.option("clip_denoised"),
        denoised_fn=denoised_fn,
        cond_fn=None if case.option("loop") == "p_sample" else cond_fn,
        clip_guided=False,  # as the reference
    )
    return _Run(label, denoiser, kept, cond_fn)


def _conditioned(
    case: Case, model: GlideModel, kept: slice, prompts: list[slice]
) -> CondUncondModel:
    """The recorded model as the pipeline runs it, on those rows of the recorded batch."""
    ids, mask = case.input("tokens"), case.input("mask")
    # a text of its own for every row: what was recorded is the ids
    rows = [Tokens(f"row {i}", ids[i], mask[i], truncated=0) for i in range(len(ids))]

    def image(name: str) -> Tensor | None:
        recorded = case.optional_input(name)
        return None if recorded is None else recorded[kept]

    with torch.no_grad():
        return condition_model(
            model,
            *(rows[part] for part in prompts),
            low_res=image("low_res"),
            image=image("inpaint_image"),
            keep_mask=image("inpaint_mask"),
        ).predict


def _step(case: Case, run: _Run, schedule: Schedule, noise: NoiseSource) -> StepFn:
    loop = case.option("loop")
    if loop == "p_sample":
        return ddpm(run.denoiser, schedule, noise, run.cond_fn)
    if loop == "ddim":
        return ddim(run.denoiser, schedule, noise, case.option("eta"))
    return ddim_reverse(run.denoiser, schedule)


def _teacher_forced(case: Case, run: _Run, schedule: Schedule, steps: int) -> None:
    """Take each step from the recorded state before it: an error cannot hide behind a later one."""
    samples = case.output("samples")[:, run.kept]
    noise, loop = case.optional_input("noise"), case.option("loop")
    allowed = case.option("teacher_forced_fair_atol_per_step")
    if len(allowed) != steps:
        raise GlideError(f"{len(allowed)} step tolerances for {steps} recorded steps")

    def recorded_noise(like: Tensor, /) -> Tensor:
        if noise is None:
            raise GlideError("this run draws noise and the recording holds none")
        return noise[i][run.kept]

    step = _step(case, run, schedule, recorded_noise)
    state = case.input("x_T")[run.kept]
    clipped = []
    for i in range(steps):
        index = i if loop == "ddim_reverse" else len(schedule) - 1 - i
        with torch.no_grad():
            out = step(state, index)
        label = f"{run.label}teacher-forced step {i}"
        case.comparisons.append(
            compare(label, out.x_next, samples[i], atol=float(allowed[i]), rtol=0.0)
        )
        clipped.append((out.x0.abs() >= 1).float().mean())
        state = samples[i]
    if case.has_output("clip_frac") and run.kept == slice(None):
        # A count of pixels at the bound has no rounding error that could grow: it is compared from
        # the recorded states, where none has added up. Recorded over the whole batch.
        case.check("clip_frac", torch.stack(clipped), f"{run.label}clipped share of x0")


def _free_running(case: Case, run: _Run, schedule: Schedule, steps: int) -> None:
    """Sample the way a user does and compare every state on the way."""
    x_T = case.input("x_T")[run.kept]
    noise = case.optional_input("noise")
    supply = iter(() if noise is None else noise[:, run.kept])

    def recorded_noise(like: Tensor, /) -> Tensor:
        step_noise: Tensor | None = next(supply, None)
        if step_noise is None:
            raise GlideError("this run draws noise and the recording holds none (left)")
        return step_noise

    taken: list[StepInfo] = []
    step = _step(case, run, schedule, recorded_noise)
    reverse = case.option("loop") == "ddim_reverse"
    indices = range(steps) if reverse else range(len(schedule))[::-1]
    sample_loop(step, x_T, schedule, indices, taken.append)
    part = (slice(None), run.kept)
    x0 = torch.stack([step.x0 for step in taken])
    case.check(
        "samples",
        torch.stack([step.x_t for step in taken]),
        f"{run.label}free-running samples",
        part,
    )
    if case.has_output("pred_xstart"):
        case.check("pred_xstart", x0, f"{run.label}free-running x0", part)
