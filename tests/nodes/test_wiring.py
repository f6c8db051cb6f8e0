"""What switch nodes and arithmetic on connected inputs can give: refused by name, before a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from glide_pack.nodes.host.standalone import StandaloneHost
from node_calls import base, call, latent, make_image, noisy_clip, prompts, sample, upsampler

from glide_core.errors import GlideError

pytestmark = pytest.mark.usefixtures("standalone")


@pytest.fixture(autouse=True)
def no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a model is sampled at all."""

    def run(*args: Any, **options: Any) -> None:
        raise AssertionError("sampled")

    monkeypatch.setattr(StandaloneHost, "sample", run)


@pytest.fixture
def inputs() -> dict[str, Any]:
    """Inputs of every node by their names."""
    model, clip, _ = base()
    image = make_image(64, 64)
    return {"model": model, "image": image, "mask": torch.ones(1, 64, 64), **prompts(clip)}


WRONG = [None, "x", 5, {}, [], [[]], [None], ["ab"], [[torch.zeros(1, 2, 3)]], torch.zeros(3)]


@pytest.mark.parametrize("name", ["positive", "negative"])
@pytest.mark.parametrize("node", ["GlideUpsampleConditioning", "GlideInpaintConditioning"])
@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_is_not_a_prompt_is_refused(
    node: str, name: str, wrong: Any, inputs: dict[str, Any]
) -> None:
    names = ["image", "positive", "negative"]
    names += ["mask"] if node == "GlideInpaintConditioning" else []
    with pytest.raises(GlideError, match=rf"^GLIDE \w+ Conditioning: '{name}'"):
        call(node, **{key: inputs[key] for key in names} | {name: wrong})


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_is_not_a_prompt_is_not_sampled(wrong: Any) -> None:
    with pytest.raises(GlideError, match=r"^GLIDE Sampler: .*'positive'"):
        sample(positive=wrong)


@pytest.mark.parametrize("wrong", [None, "x", 5, [], {}], ids=str)
def test_what_is_not_a_clip_is_refused(wrong: Any, inputs: dict[str, Any]) -> None:
    with pytest.raises(GlideError, match="GLIDE CLIP Score: 'clip' is"):
        call("GlideClipScore", image=inputs["image"], clip=wrong, text="x")
    with pytest.raises(GlideError, match="GLIDE CLIP Guidance: 'clip' is"):
        call("GlideClipGuidance", model=inputs["model"], clip=wrong, text="x")
    if wrong is not None:
        with pytest.raises(GlideError, match="GLIDE Guidance Sweep: 'clip' is"):
            given = {name: inputs[name] for name in ("model", "positive", "negative")}
            call("GlideGuidanceSweep", clip=wrong, **given)


@pytest.mark.parametrize("wrong", [None, "x", 5, [], {}], ids=str)
def test_what_is_not_a_model_is_not_guided(wrong: Any) -> None:
    with pytest.raises(GlideError, match="GLIDE CLIP Guidance: 'model' is"):
        call("GlideClipGuidance", model=wrong, clip=noisy_clip(), text="x", start_percent=0.5)


@pytest.mark.parametrize("wrong", [None, 5, ["a"]], ids=str)
def test_what_is_not_a_text_is_refused(wrong: Any, inputs: dict[str, Any]) -> None:
    _, clip, _ = base()
    with pytest.raises(GlideError, match="GLIDE Text Encode: 'text' is"):
        call("GlideTextEncode", clip=clip, text=wrong)
    with pytest.raises(GlideError, match="GLIDE CLIP Score: 'text' is"):
        call("GlideClipScore", image=inputs["image"], clip=noisy_clip(), text=wrong)


@pytest.mark.parametrize("wrong", [None, 5], ids=str)
def test_what_is_not_a_file_s_name_is_refused(wrong: Any) -> None:
    with pytest.raises(GlideError, match="the name of a model file is"):
        call("GlideLoader", checkpoint=wrong)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"noise_mask": "x"}, "MASK on 'noise_mask' has the shape str"),
        ({"noise_mask": torch.ones(1, 3, 8, 8)}, "MASK on 'noise_mask' has the shape"),
        ({"batch_index": ["a"]}, "'batch_index' that is not a list of numbers"),
        ({"batch_index": 3}, "'batch_index' that is not a list of numbers"),
        ({"samples": torch.zeros(1, 3, 1, 32, 32)}, "has the shape"),
        ({"samples": torch.zeros(1, 4, 8, 8), "downscale_ratio_spacial": -8}, "spacial -8"),
        ({"samples": torch.zeros(1, 4, 8, 8), "downscale_ratio_spacial": "8"}, "spacial '8'"),
        ({"samples": object()}, "has the shape object"),  # ComfyUI's own for sound and video
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_a_latent_with_odd_parts_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(GlideError, match=f"the LATENT on 'latent_image'.*{words}"):
        sample(latent_image=latent() | given)


@pytest.mark.parametrize("wrong", [-1.0, 2.0, float("nan")])
def test_a_share_out_of_its_range_is_refused(wrong: float, inputs: dict[str, Any]) -> None:
    with pytest.raises(GlideError, match="GLIDE Sampler: denoise is"):
        sample(denoise=wrong)
    inputs.pop("mask")
    for name in ("denoise", "upsample_denoise"):
        with pytest.raises(GlideError, match=f"GLIDE Edit: {name} is"):
            call("GlideEdit", **inputs, upsampler=upsampler(), **{name: wrong})


def test_settings_of_the_second_stage_are_checked_before_the_first(inputs: dict[str, Any]) -> None:
    mask = inputs.pop("mask")
    with pytest.raises(GlideError, match="steps is 0"):
        call("GlideEdit", **inputs, upsampler=upsampler(), upsample_steps=0)
    inputs |= {"model": base("tiny_inpaint.safetensors")[0], "mask": mask}
    large = upsampler("tiny_upsampler_inpaint.safetensors")
    with pytest.raises(GlideError, match="steps is 0"):
        call("GlideInpaint", **inputs, upsampler=large, upsample_steps=0)
    with pytest.raises(GlideError, match="mask_blur is 0, feather -1"):
        call("GlideInpaint", **inputs, feather=-1)


def test_counts_and_sizes_below_one_are_refused(inputs: dict[str, Any]) -> None:
    with pytest.raises(GlideError, match="GLIDE Empty Latent: width is 64, height -8"):
        call("GlideEmptyLatent", height=-8)
    given = {name: inputs[name] for name in ("model", "positive", "negative")}
    with pytest.raises(GlideError, match="GLIDE Guidance Sweep: images is 0"):
        call("GlideGuidanceSweep", images=0, **given)
    with pytest.raises(GlideError, match="GLIDE CLIP Guidance: scale is nan"):
        call(
            "GlideClipGuidance",
            model=inputs["model"],
            clip=noisy_clip(),
            text="x",
            scale=float("nan"),
        )
