"""A sampling step never waits for the device.

Models and images are on the meta device, whose tensors have no values: reading one, or copying one
to the CPU, is an error of PyTorch. `NoWaiting` and `NoNewTensors` add the operations that work on
the meta device and wait for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from guidance.tiny_clips import FULL, clean_clip, noisy_clip, text
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from glide_core import diffusion, sampling
from glide_core.config import ModelKind, SamplerConfig
from glide_core.diffusion.types import StepInfo
from glide_core.guidance.clip import noisy_clip_guide, open_clip_guide
from glide_core.guidance.guides import add_guides, limit_to_interval
from glide_core.models.glide import GlideModel
from glide_core.names import SAMPLERS
from tools.tiny_models import tiny_config

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

READS = (NotImplementedError, RuntimeError, TypeError)  # of a meta tensor's values


class NoWaiting(TorchDispatchMode):
    """While armed, refuses blocking copies to the device and indices that are not on it.

    A mask as an index is counted (`nonzero`) on the device and its size read by the CPU; an index
    on the CPU is copied to the device, and that copy waits.
    """

    armed = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.armed:
            check_operation(func.overloadpacket.__name__, args, kwargs)
        return func(*args, **kwargs)


def check_operation(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    first = args[0] if args and isinstance(args[0], Tensor) else None
    if first is None:
        return
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        indices = [x for x in pytree.tree_leaves(args[1]) if isinstance(x, Tensor)]
        masks = [x for x in indices if x.dtype in (torch.bool, torch.uint8)]
        assert not first.is_meta or not masks, "a mask as an index waits for the device"
        assert all(x.device == first.device for x in indices), "an index is on another device"
    elif name == "_to_copy":
        up = first.device.type == "cpu" and str(kwargs.get("device")) == "meta"
        assert not up or kwargs.get("non_blocking"), "a copy to the device waits for it"
    elif name == "_linalg_check_errors":
        assert not first.is_meta, "a check for singular matrices waits for the device"
    elif name == "copy_":
        up = first.is_meta and args[1].device.type == "cpu"
        blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        assert not up or not blocking, "a copy to the device waits for it"


class NoNewTensors(TorchFunctionMode):
    """While `NoWaiting` is armed, refuses tensors made on the device from Python's numbers."""

    def __init__(self, mode: NoWaiting) -> None:
        super().__init__()
        self.mode = mode

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.mode.armed and getattr(func, "__name__", "") in ("tensor", "new_tensor"):
            assert not out.is_meta, "a copy to the device waits for it"
        return out


@pytest.fixture(autouse=True)
def result_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is read once, after the last step."""
    monkeypatch.setattr(diffusion.FiniteCheck, "raise_for", lambda check, result: None)
    monkeypatch.setattr(diffusion, "warn_if_saturated", lambda x0: None)


def run(sampler: str, callback: Any, kind: ModelKind = "base") -> Tensor:
    """v-prediction, guidance in an interval, and both kinds of CLIP, on 16x16 pixels."""
    config = tiny_config(kind)
    schedule = replace(config.schedule, prediction_type="v_prediction")
    model = GlideModel(replace(config, schedule=schedule)).eval().requires_grad_(False).to("meta")
    noisy, clean = noisy_clip().to("meta"), clean_clip().to("meta")
    inside = (float(FULL.sigma(200)), float(FULL.sigma(800)))
    embedding = text().to("meta")
    guides = (
        limit_to_interval(noisy_clip_guide(noisy, embedding, 2.0), inside, FULL),
        open_clip_guide(clean, embedding, 2.0, schedule=FULL, seed=[4, 5], cutouts=3),
    )
    known: dict[str, Tensor] = {}
    if model.config.is_upsampler:
        known["low_res"] = torch.zeros(1, 3, 4, 4)
    if model.config.is_inpaint:
        known |= {"image": torch.zeros(1, 3, 16, 16), "keep_mask": torch.ones(1, 1, 16, 16)}
    prompts = [sampling.tokenize(model.config, [prompt] * 2) for prompt in ("a cat", "")]
    with torch.no_grad():
        conditioned = sampling.condition_model(
            model, *prompts, cond_fn=add_guides(*guides), **known
        )
        return sampling.sample_model(
            conditioned,
            SamplerConfig(
                steps=6,
                sampler=sampler,
                eta=0.5,
                guidance_interval=inside,
                guidance_scale=3.0,
                guidance_rescale=0.5,
            ),
            seeds=[1, 2],
            size=(16, 16),
            callback=callback,
        )


def steps_without_waiting(
    sampler: str, kind: ModelKind = "base", mode: NoWaiting | None = None
) -> int:
    mode, steps = mode or NoWaiting(), []

    def callback(info: StepInfo) -> None:
        assert info.x_t.is_meta and info.x0.is_meta
        steps.append(info.index)
        mode.armed = True  # the first step copies the schedule's tables to the device

    with mode, NoNewTensors(mode):
        run(sampler, callback, kind)
    return len(steps)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "unipc"])
def test_no_step_waits_for_the_device(sampler: str) -> None:
    assert steps_without_waiting(sampler) >= 5


def test_unipc_waits_for_the_device_in_diffusers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    mode = NoWaiting()
    theirs = UniPCMultistepScheduler.step

    def step(*args: Any, **kwargs: Any) -> Any:
        mode.armed = False
        return theirs(*args, **kwargs)

    monkeypatch.setattr(UniPCMultistepScheduler, "step", step)
    assert steps_without_waiting("unipc", mode=mode) == 5


@pytest.mark.parametrize("kind", ["upsampler", "upsampler-inpaint", "inpaint"])
def test_no_step_of_a_model_with_images_waits_for_the_device(kind: ModelKind) -> None:
    assert steps_without_waiting("ddpm", kind) == 6


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.to(device="cpu", non_blocking=True),
        lambda x: x.numpy(force=True),
        lambda x: np.asarray(x),
        lambda x: x.tolist(),
        lambda x: torch.empty(x.shape).copy_(x),
        lambda x: x[x > 0],
        lambda x: torch.where(x > 0),
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
        lambda x: torch.allclose(x, x),
        lambda x: float(x.mean()),
        lambda x: x.mean().item(),
        lambda x: bool((x > 0).any()),
        lambda x: [0, 1][(x > 0).any().long()],
        lambda x: torch.tensor([x.mean(), x.mean()]),
        lambda x: x[: x.argmax()],
    ],
)
def test_a_read_in_a_step_is_detected(read: Callable[[Tensor], Any]) -> None:
    with pytest.raises(READS):
        run("ddim", lambda info: read(info.x0))


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.__setitem__(x > 0, x.flatten()),
        lambda x: x.__setitem__(x > 0, 1.0),
        lambda x: x[torch.tensor([1])],
        lambda x: x.__setitem__(torch.tensor([1]), x[:1]),
        lambda x: torch.zeros(x.shape).to(x.device),
        lambda x: torch.zeros(x.shape).to(x),
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: x.copy_(torch.zeros(x.shape)),
        lambda x: torch.linalg.solve(x, x),
    ],
)
def test_an_operation_that_waits_is_detected(operation: Callable[[Tensor], Any]) -> None:
    mode = NoWaiting()
    mode.armed = True
    error = pytest.raises(AssertionError, match=r"waits for|another device")
    with mode, NoNewTensors(mode), error:
        operation(torch.empty(2, 3, 4, 4, device="meta"))
