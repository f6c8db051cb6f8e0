"""The values of a running step, sent to the browser's live chart: all that talks to the server.

One message of the kind EVENT a step and a charted node: {"node", "run", "step", "total", "sigma",
"similarity", "clip_strength", "cfg_strength"}. similarity is CLIP's mean cosine of the images
with the text; the strengths are `guidance.guides.guidance_strength`, means over the batch;
null where a guide was not evaluated. `run` tells one sampling run from the next; a step may be sent
again, by samplers that ask the model twice, and the later message holds.

Without a server, or without a browser connected to it, nothing is computed or sent.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy_execution.utils import get_executing_context
from torch import Tensor

from glide_core.diffusion.schedule import Schedule
from glide_core.diffusion.types import ConditionFn, StepInfo
from glide_core.guidance.guides import add_guides, guidance_strength

EVENT = "glide.step"
# After one guided call in ComfyUI: its arguments, and the x0 that the guide made of "denoised".
Report = Callable[[dict[str, Any], Tensor], None]


class Probe:
    """What a CLIP guide found at its last call. `record` is its guidance_callback."""

    def __init__(self) -> None:
        self._similarity: Tensor | None = None

    def record(self, _t: Tensor, cosine: Tensor) -> None:
        self._similarity = cosine.mean()

    def take(self) -> Tensor | None:
        found, self._similarity = self._similarity, None
        return found


@dataclass(frozen=True)
class WatchedGuide:
    """A guide of a GLIDE MODEL, what it measures, and the node that added it."""

    cond_fn: ConditionFn
    probe: Probe
    node: str | None  # None outside a running prompt


def executing_node() -> str | None:
    """The id of the node that ComfyUI runs at this moment."""
    context = get_executing_context()
    return None if context is None else context.node_id


def connected_server() -> Any | None:
    """Give ComfyUI's server when a browser waits for its messages."""
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    running = getattr(server, "instance", None)
    return running if getattr(running, "client_id", None) is not None else None


def make_reporter(node: str | None, probe: Probe, limit: float | None) -> Report:
    """Send what a guide did under a sampler of ComfyUI, to the node that added the guide.

    limit: of x0, see `guidance_strength`. A function, since ComfyUI copies a MODEL's objects.
    """

    def report(args: dict[str, Any], guided: Tensor) -> None:
        similarity = probe.take()
        options = args.get("model_options", {}).get("transformer_options", {})
        sigmas = options.get("sample_sigmas")
        if node is None or sigmas is None or connected_server() is None:
            return
        sigma = args["sigma"].max()
        total = len(sigmas) - 1
        # A call between two steps (heun's and dpm_2's second ones) counts for the step it leads
        # to, and that step's own call then replaces it; past the last step there is none.
        step = (sigmas[:-1].to(sigma) > sigma * 1.0001).sum()
        strength = guidance_strength(guided, args["denoised"], limit).mean()
        at, level, *values = numbers([step, sigma, similarity, strength])
        if at is not None and at < total:
            send(node, int(at), total, level, *values)

    return report


class Watch:
    """The values of a run of the exact sampler, gathered over a step and sent at its end."""

    def __init__(self, guides: Sequence[WatchedGuide], schedule: Schedule) -> None:
        self.guides, self.schedule = guides, schedule
        self.cond_fn = self._watched(add_guides(*map(self._guide, guides))) if guides else None
        self._cfg: Tensor | None = None
        self._found: dict[WatchedGuide | None, tuple[Tensor | None, Tensor]] = {}

    def record(self, _t: Tensor, strength: Tensor) -> None:
        """Be the guidance_callback of classifier-free guidance."""
        self._cfg = strength.mean()

    def step(self, info: StepInfo) -> None:
        """Be the callback of a step: send what was measured, to the sampler and to every guide."""
        empty: tuple[None, None] = (None, None)
        each = [self._found.get(guide, empty) for guide in self.guides]
        measured = [value for value, _ in each if value is not None]
        similarity = torch.stack(measured).mean() if measured else None
        total = self._found.get(None, empty)[1]
        flat = [similarity, total, self._cfg, *(value for pair in each for value in pair)]
        self._cfg, self._found = None, {}
        if all(value is None for value in flat):
            return
        found = numbers(flat)
        at = (info.index, info.total, float(self.schedule.sigma(info.timestep)))
        send(executing_node(), *at, *found[:3])
        for guide, start in zip(self.guides, range(3, len(found), 2), strict=True):
            send(guide.node, *at, *found[start : start + 2])

    def _guide(self, guide: WatchedGuide) -> ConditionFn:
        return self._watched(guide.cond_fn, guide)

    def _watched(self, cond_fn: ConditionFn, guide: WatchedGuide | None = None) -> ConditionFn:
        def watched(x_t: Tensor, t: Tensor, x0: Tensor, /) -> Tensor:
            gradient = cond_fn(x_t, t, x0)
            sigma = self.schedule.sigma(t).to(x0).reshape(-1, *[1] * (x0.ndim - 1))
            guided = x0 + sigma**2 / (1 + sigma**2).sqrt() * gradient.to(x0)
            similarity = None if guide is None else guide.probe.take()
            self._found[guide] = (similarity, guidance_strength(guided, x0).mean())
            return gradient

        return watched


def numbers(values: Sequence[Tensor | None]) -> list[float | None]:
    """Bring scalars from the device at once; None for those that are missing or not finite."""
    like = next(value for value in values if value is not None)
    missing = like.new_tensor(math.nan, dtype=torch.float32)
    known = [missing if v is None else v.detach().to(missing) for v in values]
    return [v if math.isfinite(v) else None for v in torch.stack(known).tolist()]


def send(
    node: str | None,
    step: int,
    total: int,
    sigma: float | None,
    similarity: float | None,
    clip_strength: float | None,
    cfg_strength: float | None = None,
) -> None:
    """Send the values of one step, counted from 0, to the browser; without one, do nothing."""
    server, context = connected_server(), get_executing_context()
    if server is None or context is None or node is None:
        return
    message = {
        "node": node,
        "run": f"{context.prompt_id}/{context.node_id}/{context.list_index}",
        "step": step,
        "total": total,
        "sigma": sigma,
        "similarity": similarity,
        "clip_strength": clip_strength,
        "cfg_strength": cfg_strength,
    }
    server.send_sync(EVENT, message, server.client_id)
