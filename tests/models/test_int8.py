"""8-bit models: close to float32, the same in any batch, and refused where they cannot work."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from models.unet_calls import context, inputs, rms_over_std
from safetensors.torch import load_file

from glide_core import GlidePipeline, devices
from glide_core.checkpoints.loading import load_model, model_from_state_dict, save_model
from glide_core.checkpoints.lora import apply_lora, save_lora
from glide_core.cli import main
from glide_core.config import ModelKind
from glide_core.errors import GlideError
from glide_core.models import int8
from glide_core.models.glide import GlideModel
from glide_core.models.int8 import Int8Conv, Quantized, group_norm, quantize
from tools.tiny_models import tiny_model

pytestmark = pytest.mark.skipif(bool(int8.why_not_int8()), reason=int8.why_not_int8() or "-")

# Of the output's standard deviation. The released models' is under 0.03 (benchmarks/README.md); in
# these, each channel is a norm group of its own, which magnifies what was rounded. Without VNNI
# weights have half as many levels.
INT8_RMS = 0.08 if int8.highest_weight() == 127 else 0.1
KINDS: list[ModelKind] = ["base", "upsampler", "inpaint", "upsampler-inpaint"]


def as_int8(model: GlideModel) -> GlideModel:
    return model_from_state_dict(model.openai_state_dict(), model.config, dtype=torch.int8)


def dequantized(image: Quantized) -> torch.Tensor:
    return image.scale * (image.levels.float() - image.zero)


@pytest.mark.parametrize("kind", KINDS)
def test_int8_is_within_its_error_bound(kind: ModelKind) -> None:
    model, given = tiny_model(kind), inputs(kind)
    small = as_int8(model)
    with torch.inference_mode():
        wanted = model.unet(context=context(model, ["a fox", ""]), **given)
        got = small.unet(context=context(small, ["a fox", ""]), **given)
        again = small.unet(context=context(small, ["a fox", ""]), **given)
    assert 0 < rms_over_std(got, wanted) < INT8_RMS
    assert torch.equal(got, again)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_the_same_in_any_batch(kind: ModelKind) -> None:
    small, given = as_int8(tiny_model(kind)), inputs(kind, batch=3)
    prompts = ["a fox", "", "two red cubes"]
    with torch.inference_mode():
        together = small.unet(context=context(small, prompts), **given)
        for i, prompt in enumerate(prompts):
            own = {name: value[i : i + 1] for name, value in given.items()}
            alone = small.unet(context=context(small, [prompt]), **own)
            assert torch.equal(alone, together[i : i + 1])


def test_another_image_size_gives_the_result_of_a_fresh_model() -> None:
    used, fresh = as_int8(tiny_model("base")), as_int8(tiny_model("base"))
    with torch.inference_mode():
        used.unet(context=context(used, ["a fox", ""]), **inputs("base"))
        given = inputs("base", side=48)
        assert torch.equal(
            used.unet(context=context(used, ["a fox", ""]), **given),
            fresh.unet(context=context(fresh, ["a fox", ""]), **given),
        )


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("double", [True, False])
def test_quantized_values_are_within_half_a_level(normed: bool, double: bool) -> None:
    x = (3 * torch.randn(1, 24, 10, 12) + 5).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(24), torch.randn(24)
    norm = (4, weight, bias, 1e-5)
    image = quantize(x, 1, norm=norm if normed else None, double=double)
    expected = x
    if normed:
        expected = torch.nn.functional.group_norm(x, *norm)
        scale, shift, highest = group_norm(x, *norm)
        assert torch.allclose(scale[:, None, None] * x + shift[:, None, None], expected, atol=1e-5)
        assert abs(highest - float(expected.amax())) < 1e-4
        expected = torch.nn.functional.silu(expected)
    if double:
        expected = torch.nn.functional.interpolate(expected, scale_factor=2)
    assert image.levels.shape[2:] == (expected.shape[2] + 2, expected.shape[3] + 2)
    values = dequantized(image)
    inside = values[:, :, 1:-1, 1:-1]
    assert (inside - expected).abs().max() <= 0.52 * image.scale + normed * 0.02 * expected.amax()
    inside.zero_()
    assert not values.any()  # the border stands for zeros


@pytest.mark.parametrize("value", [0.0, 1e-30, -5.0, 1e4])
def test_a_constant_image_stays_finite(value: float) -> None:
    conv = torch.nn.Conv2d(8, 8, 3, padding=1)
    x = torch.full((1, 8, 6, 6), value)
    with torch.inference_mode():
        assert torch.allclose(Int8Conv(conv)(x), conv(x), rtol=0.02, atol=0.02 * max(1, abs(value)))


@pytest.mark.parametrize(
    "layer, shape",
    [
        (torch.nn.Conv2d(16, 24, 3, padding=1), (1, 16, 9, 7)),
        (torch.nn.Conv2d(16, 24, 1), (1, 16, 9, 7)),
        (torch.nn.Conv1d(16, 24, 1), (1, 16, 5)),
        (torch.nn.Linear(16, 24, bias=False), (1, 16)),
    ],
)
def test_a_layer_is_close_to_its_float32_original(
    layer: torch.nn.Module, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    with torch.inference_mode():
        wanted, got = layer(x), Int8Conv(layer)(x)  # type: ignore[arg-type]
    assert got.shape == wanted.shape
    assert rms_over_std(got, wanted) < 0.02


def test_sums_of_the_highest_levels_do_not_saturate() -> None:
    """Without VNNI, oneDNN adds products in pairs into int16."""
    conv = torch.nn.Conv2d(64, 16, 3, bias=False)
    conv.weight.data.fill_(0.5)
    image = torch.full((1, 64, 6, 6), 255, dtype=torch.uint8)
    image = image.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        sums = Int8Conv(conv).image(Quantized(image, 1.0, 0))
    assert torch.allclose(sums, torch.tensor(255 * 64 * 9 * 0.5), rtol=0.01)


def test_a_float16_file_is_quantized_as_its_float32_copy(tmp_path: Path) -> None:
    path = save_model(tiny_model("base"), tmp_path / "m.safetensors", dtype=torch.float16)
    tensors = {key: value.float() for key, value in load_file(path).items()}
    half = load_model(path, dtype=torch.int8)
    full = model_from_state_dict(tensors, half.config, dtype=torch.int8)
    with torch.inference_mode():
        results = [m.unet(context=context(m, ["", ""]), **inputs("base")) for m in (half, full)]
    assert torch.equal(*results)


def test_the_text_encoder_of_a_float16_file_stays_float16_and_gives_the_same(
    tmp_path: Path,
) -> None:
    save_model(tiny_model("base"), tmp_path / "half.safetensors", dtype=torch.float16)
    small, exact = (
        load_model(tmp_path / "half.safetensors", dtype=d) for d in (torch.int8, torch.float32)
    )
    stored = {p.dtype for p in small.text.transformer.parameters()}
    assert stored == {small.text.token_embedding.layer.weight.dtype} == {torch.float16}
    with torch.inference_mode():
        wanted, found = (context(model, ["a fox"]) for model in (exact, small))
    assert torch.equal(found.pooled, wanted.pooled)


def test_an_int8_model_is_not_saved_and_not_converted_back(tmp_path: Path) -> None:
    small = as_int8(tiny_model("base"))
    with pytest.raises(GlideError, match=r"int8.*Load it again as float32"):
        save_model(small, tmp_path / "m.safetensors")
    with pytest.raises(GlideError, match=r"int8.*Load it again as float32"):
        small.use_dtype(torch.float32)
    assert not list(tmp_path.iterdir())


def lora_file(model: GlideModel, path: Path) -> Path:
    layers = {}
    for name, module in model.named_modules():
        if name.endswith(("qkv", "out_layers.3")):
            out, width = module.weight.shape[0], module.weight[0].numel()
            down = torch.randn(2, *module.weight.shape[1:])
            layers[name] = (down / width**0.5, torch.randn(out, 2, *[1] * (down.dim() - 2)) / 4)
    return save_lora(layers, path, model, 2.0, "tiny")


def test_a_lora_is_merged_before_rounding_and_removed_again(
    model_folder: Path, tmp_path: Path
) -> None:
    pipe = GlidePipeline.from_pretrained(model_folder / "tiny_base.safetensors", torch_dtype="int8")
    before = pipe.models.model("base")
    exact = load_model(model_folder / "tiny_base.safetensors")
    lora = lora_file(exact, tmp_path / "lora.safetensors")
    given = inputs("base")

    def run(model: GlideModel) -> torch.Tensor:
        with torch.inference_mode():
            return model.unet(context=context(model, ["", ""]), **given)  # type: ignore[no-any-return]

    plain = run(before)
    pipe.load_lora_weights(lora, 0.5)
    changed = run(pipe.models.model("base"))
    assert rms_over_std(changed, run(apply_lora(exact, lora, 0.5))) < INT8_RMS
    assert rms_over_std(changed, plain) > INT8_RMS
    pipe.to(torch.float32)
    assert torch.allclose(run(pipe.models.model("base")), run(exact), atol=1e-5)
    pipe.to(torch.int8)
    assert torch.equal(run(pipe.models.model("base")), changed)
    pipe.unload_lora_weights()
    assert torch.equal(run(pipe.models.model("base")), plain)


def test_int8_falls_back_with_a_warning_where_it_cannot_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, model_folder: Path
) -> None:
    cpu = torch.device("cpu")
    assert devices.pick_dtype("int8", cpu) == torch.int8
    assert devices.pick_dtype("int8", torch.device("cuda")) == torch.float16

    def missing(*_: object) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(int8.Int8Conv, "image", missing)
    with caplog.at_level(logging.WARNING, "glide"):
        assert devices.pick_dtype("int8", cpu) == torch.float32
    assert "(no such instruction): float32 is used" in caplog.text
    with pytest.raises(GlideError, match=r"no such instruction.*Expected another dtype"):
        load_model(model_folder / "tiny_base.safetensors", dtype=torch.int8)


def test_fast_names_its_choice_and_measures_once(caplog: pytest.LogCaptureFixture) -> None:
    devices.fastest_dtype.cache_clear()
    cpu = torch.device("cpu")
    with caplog.at_level(logging.WARNING, "glide"):
        chosen = devices.pick_dtype("fast", cpu)
        assert devices.pick_dtype("fast", cpu) == chosen
    assert len(caplog.messages) == 1
    assert f"fast: {str(chosen).removeprefix('torch.')} has the quickest" in caplog.text
    assert all(name in caplog.text for name in ("float32 ", "bfloat16 ", "int8 "))
    assert devices.pick_dtype("fast", torch.device("cuda")) == torch.float16
    assert devices.pick_dtype("auto", cpu) == torch.float32


def test_generate_in_int8(model_folder: Path, out: Path) -> None:
    words = [
        "generate",
        "a fox",
        "--model",
        "tiny_base.safetensors",
        "--no-upsample",
        "--steps",
        "2",
    ]
    assert main([*words, "--dtype", "int8", "--out", str(out), "--quiet"]) == 0


@pytest.mark.parametrize(
    "files, cores",
    [
        ({}, 2**16),
        ({"cpu.max": "max 100000"}, 2**16),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 2**16),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_the_cpu_quota_of_a_container_is_read(
    tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert devices.cpu_quota(tmp_path) == cores


def test_threads_leave_the_cores_of_other_programs_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    for load, cores in ((0.0, 6), (1.0, 6), (5.2, 3), (30.0, 1)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0, 0), raising=False)
        assert devices.free_cores() == cores
