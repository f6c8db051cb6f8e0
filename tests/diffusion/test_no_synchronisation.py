"""A sampling step never waits for the device.

A CPU is never waited for, so tensors are marked instead: those that would be on the device, and all
that is computed from them. Reading a value of one while sampling is an error.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import tiny_config
from guidance.test_clip_guidance import FULL, clean_clip, noisy_clip, text
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from glide_core import sampling
from glide_core.config import SamplerConfig
from glide_core.diffusion.noise import SeededNoise
from glide_core.diffusion.types import StepInfo
from glide_core.guidance import add_guides, limit_to_interval, noisy_clip_guide, open_clip_guide
from glide_core.models.glide import GlideModel
from glide_core.names import SAMPLERS

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

READING = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select"}


def on_device(tensor: Tensor) -> Tensor:
    tensor.on_device = True  # type: ignore[attr-defined]
    return tensor


class NoReading(TorchDispatchMode):
    """Refuses to read values of tensors on the device, or to copy them to the CPU, while armed."""

    armed = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        marked = any(getattr(x, "on_device", False) for x in given)
        if marked and self.armed:
            name = func.overloadpacket.__name__
            assert name not in READING, f"{name} waits for the device"
            to_cpu = name == "_to_copy" and str(kwargs.get("device")) == "cpu"
            assert not to_cpu, "copied to the CPU"
        out = func(*args, **kwargs)
        if marked:
            pytree.tree_map_only(Tensor, on_device, out)
        return out


class DeviceNoise(SeededNoise):
    def __call__(self, like: Tensor, /) -> Tensor:
        return on_device(super().__call__(like))


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "SeededNoise", DeviceNoise)


def run(sampler: str, callback: Any) -> Tensor:
    """v-prediction, guidance in an interval, and both kinds of CLIP, on 16x16 pixels."""
    config = tiny_config("base")
    schedule = replace(config.schedule, prediction_type="v_prediction")
    torch.manual_seed(0)
    model = GlideModel(replace(config, schedule=schedule)).eval().requires_grad_(False)
    clips = noisy_clip(), clean_clip()
    for module in (model, *clips):
        for weight in module.parameters():
            on_device(weight)
    inside = (float(FULL.sigma(200)), float(FULL.sigma(800)))
    embedding = on_device(text())
    guides = (
        limit_to_interval(noisy_clip_guide(clips[0], embedding, 2.0), inside, FULL),
        open_clip_guide(clips[1], embedding, 2.0, schedule=FULL, seed=[4, 5], cutouts=3),
    )
    prompts = [sampling.tokenize(model.config, [prompt] * 2) for prompt in ("a cat", "")]
    with torch.no_grad():
        conditioned = sampling.condition_model(model, *prompts, cond_fn=add_guides(*guides))
        return sampling.sample_model(
            conditioned,
            SamplerConfig(steps=6, sampler=sampler, eta=0.5, guidance_interval=inside),
            seeds=[1, 2],
            size=(16, 16),
            callback=callback,
        )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_step_reads_from_the_device(sampler: str, marked: None) -> None:
    mode, steps = NoReading(), []

    def callback(info: StepInfo) -> None:
        assert getattr(info.x_t, "on_device", False) and getattr(info.x0, "on_device", False)
        steps.append(info.index)
        mode.armed = info.index < info.total - 1  # the result is checked after the last step

    with mode:
        run(sampler, callback)
    assert len(steps) >= 5


def test_a_device_read_in_a_step_is_detected(marked: None) -> None:
    def callback(info: StepInfo) -> None:
        float(info.x0.mean())

    with NoReading(), pytest.raises(AssertionError, match="waits for the device"):
        run("ddim", callback)
