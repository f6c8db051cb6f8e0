"""Check this code against recorded outputs of OpenAI's: `python tests/golden/verify.py DIR`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recordings import Case, Comparison, Recordings, compare
from torch import Tensor
from torch.nn.functional import normalize
from trajectories import check_trajectory

from glide_core.diffusion.schedule import Schedule
from glide_core.errors import GlideError
from glide_core.guidance.clip import noisy_clip_guide
from glide_core.models.conditions import spatial_conditions
from glide_core.models.layers import timestep_embedding
from glide_core.noise_schedules import named_betas
from glide_core.tokenizer import get_tokenizer

TABLE_RTOL = 1e-10  # float64 tables that no manifest gives a tolerance for


@dataclass(frozen=True)
class CaseResult:
    """How one case came out."""

    name: str
    ok: bool
    error: float  # at the element that used most of its allowance
    allowed: float
    detail: str  # which element that was, or why the case could not be checked

    def __str__(self) -> str:
        numbers = f"max error {self.error:9.3g}  allowed {self.allowed:9.3g}"
        return f"{'ok  ' if self.ok else 'FAIL'} {self.name:32} {numbers}  {self.detail}"


def main(directory: str | Path) -> int:
    """Check a folder, print one line a case and a closing count; 0 if everything holds."""
    try:
        results = []
        for result in iterate(directory):
            print(result, flush=True)
            results.append(result)
    except GlideError as error:
        print(f"cannot verify {directory}: {error}")
        return 1
    failed = sum(not result.ok for result in results)
    print(f"{len(results)} cases: {len(results) - failed} ok, {failed} failed")
    return 1 if failed or not results else 0


def verify(directory: str | Path) -> list[CaseResult]:
    """Check every case in a folder of recordings; GlideError if it has no readable manifest."""
    return list(iterate(directory))


def iterate(directory: str | Path) -> Iterator[CaseResult]:
    """Check the cases one by one, as `verify` does."""
    recordings = Recordings(directory)
    cases: dict[str, Any] = recordings.manifest.get("cases", {})
    listed: dict[str, Any] = recordings.manifest.get("other_files", {})
    found = [
        p.name for p in recordings.directory.glob("*.json") if p.name.startswith(tuple(_FILES))
    ]
    files = [*listed, *sorted(set(found) - set(listed))]
    if not cases and not files:
        raise GlideError(f"{recordings.directory / 'manifest.json'} lists no case")
    for name in cases:
        yield _result(name, partial(_check_case, recordings, name))
    for filename in files:
        yield _result(filename, partial(_check_file, recordings, filename))


def _result(name: str, check: Callable[[], list[Comparison]]) -> CaseResult:
    try:
        comparisons = check()
    # A recording may be wrong in any way; each must show up as a failed case, not end the run.
    except Exception as error:
        reason = str(error) if isinstance(error, GlideError) else f"{type(error).__name__}: {error}"
        return CaseResult(name, False, float("inf"), 0.0, reason.splitlines()[0])
    if not comparisons:
        return CaseResult(name, False, float("inf"), 0.0, "nothing to compare")
    worst = max(comparisons, key=lambda c: c.excess)
    failed = sum(not c.ok for c in comparisons)
    detail = f"({worst.label}; {len(comparisons)} compared"
    detail += f", {failed} over)" if failed else ")"
    return CaseResult(name, not failed, worst.error, worst.allowed, detail)


def _check_case(recordings: Recordings, name: str) -> list[Comparison]:
    kind = recordings.manifest["cases"][name].get("kind")
    if kind not in _KINDS:
        raise GlideError(f"unknown kind {kind!r}: expected one of {', '.join(_KINDS)}")
    case = recordings.case(name)
    _KINDS[kind](recordings, case)
    if case.unchecked:
        raise GlideError(f"recorded but not checked: {', '.join(case.unchecked)}")
    return case.comparisons


def _check_file(recordings: Recordings, filename: str) -> list[Comparison]:
    for prefix, check in _FILES.items():
        if filename.startswith(prefix):
            return check(recordings.json(filename))
    raise GlideError(f"unknown kind of file: expected a name beginning {', '.join(_FILES)}")


@torch.no_grad()
def _check_forward(recordings: Recordings, case: Case) -> None:
    model = recordings.model(case.option("model"))
    unet, x, t = model.unet, case.input("x"), case.input("t")
    features = model.encode(case.input("tokens"), case.input("mask"))
    given = {
        "low_res": case.optional_input("low_res"),
        "image": case.optional_input("inpaint_image"),
        "keep_mask": case.optional_input("inpaint_mask"),
    }
    sinusoid = timestep_embedding(t, model.config.unet.model_channels)
    case.check("out", unet(x, t, features, **given))
    for name, value in (
        ("xf_proj", features.pooled),
        ("xf_out", features.last_hidden_state.transpose(1, 2)),  # recorded channels first
        ("t_sinusoid", sinusoid),
        ("time_embed", unet.time_embed(sinusoid)),
    ):
        if case.has_output(name):
            case.check(name, value)
    if case.has_output("low_res_upsampled"):
        conditions = spatial_conditions(model.config, x, **given)
        case.check("low_res_upsampled", conditions[-1])


@torch.no_grad()
def _check_forward_cached(recordings: Recordings, case: Case) -> None:
    """The reference's text cache: its second call keeps the first call's mask; our context too."""
    model = recordings.model(case.option("model"))
    tokens, mask = case.input("tokens"), case.input("mask")
    kept = model.unet.context(model.encode(tokens, mask))
    fresh = model.encode(tokens, torch.ones_like(mask))
    case.check("out_first", model.unet(case.input("x"), case.input("t"), kept))
    case.check("out_second", model.unet(case.input("x2"), case.input("t2"), kept))
    case.check("out_second_uncached", model.unet(case.input("x2"), case.input("t2"), fresh))


@torch.no_grad()
def _check_clip(recordings: Recordings, case: Case) -> None:
    clip = recordings.clip(case.info.get("model"))
    x, t = case.input("x"), case.input("t")
    tokenizer = get_tokenizer(clip.config.tokenizer)
    tokens = [tokenizer.encode(p, clip.config.context_length) for p in case.option("prompts")]
    ids = torch.stack([entry.ids for entry in tokens])
    lengths = torch.tensor([int(entry.mask.sum()) for entry in tokens])
    text, image = clip.encode_text(ids, lengths), clip.encode_image(x, t)
    cosine = (normalize(text) * normalize(image)).sum(-1)

    def gradient(scale: float) -> Tensor:
        return noisy_clip_guide(clip, text, scale)(x, t, x)

    case.check("text_ids", ids)
    case.check("text_lens", lengths)
    case.check("text_unnormalised", text)
    case.check("text_embedding", normalize(text))
    case.check("image_unnormalised", image)
    case.check("image_embedding", normalize(image))
    case.check("logits_diag", clip.config.logit_scale * cosine)
    case.check("grad_scale1", gradient(1.0))
    case.check("grad_scaled", gradient(case.option("grad_scale")))


def _check_tokens(tokenizer_name: str) -> Callable[[Any], list[Comparison]]:
    def check(entries: list[tuple[str, int, list[int], list[int]]]) -> list[Comparison]:
        tokenizer = get_tokenizer(tokenizer_name)
        comparisons = []
        for prompt, context_length, ids, mask in entries:
            tokens = tokenizer.encode(prompt, context_length)
            for label, actual, wanted in (("ids", tokens.ids, ids), ("mask", tokens.mask, mask)):
                label = f"{label} of {prompt[:30]!a}"
                comparisons.append(compare(label, actual, torch.tensor(wanted), 0, 0))
        return comparisons

    return check


def _check_respacing(recorded: dict[str, Any]) -> list[Comparison]:
    steps = int(recorded["steps"])
    comparisons: list[Comparison] = []

    def table(label: str, actual: Any, wanted: Any, rtol: float = TABLE_RTOL) -> None:
        ours, theirs = (torch.from_numpy(np.asarray(values)) for values in (actual, wanted))
        comparisons.append(compare(label, ours, theirs, atol=0.0, rtol=rtol))

    for entry in recorded["entries"]:
        for name, tables in entry["schedules"].items():
            schedule = Schedule.named(name, steps).respaced(entry["string"])
            label = f"{name} {entry['string']!r}"
            table(f"{label} timesteps", schedule.timestep_map, entry["use_timesteps"], rtol=0.0)
            for key, wanted in tables.items():
                table(f"{label} {key}", getattr(schedule, key), wanted)
    for string, kind in recorded.get("errors", []):
        comparisons.append(_must_fail(string, kind, steps))
    for key, wanted in recorded.get("named_betas_other_T", {}).items():
        name, _, count = key.rpartition(":")
        table(f"betas of {key}", named_betas(name, int(count)), wanted)
    return comparisons


def _must_fail(string: str, kind: str, steps: int) -> Comparison:
    """What the reference refuses must be a GlideError here, at the latest when its tables are used.

    "1" is refused late: one step is enough to sample with, only its posterior variance is not.
    """
    try:
        _ = Schedule.named("linear", steps).respaced(string).posterior_log_variance_clipped
    except GlideError:
        return Comparison(f"{string!r} refused", 0.0, 0.0)
    return Comparison(f"{string!r} accepted; the reference raises {kind}", float("inf"), 0.0)


_KINDS: dict[str, Callable[[Recordings, Case], None]] = {
    "unet_forward": _check_forward,
    "unet_forward_cached": _check_forward_cached,
    "clip": _check_clip,
    "traj": check_trajectory,
}
_FILES: dict[str, Callable[[Any], list[Comparison]]] = {
    "tokens_glide_bpe": _check_tokens("glide-bpe"),
    "tokens_clip_simple": _check_tokens("clip-bpe"),
    "respacing": _check_respacing,
}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/golden/verify.py DIR")
    sys.exit(main(sys.argv[1]))
