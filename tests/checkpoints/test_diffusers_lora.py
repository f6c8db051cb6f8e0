"""A LoRA trained on the UNet in diffusers' form changes OpenAI's layers by the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glide_core.checkpoints.diffusers_format import from_diffusers, to_diffusers
from glide_core.checkpoints.loading import save_model
from glide_core.checkpoints.lora import apply_lora, convert_lora
from glide_core.cli import main
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel
from tools.tiny_models import TINY

STYLES = {
    "peft": ("unet.{}", ".lora_A.weight", ".lora_B.weight"),
    "plain": ("{}", ".lora.down.weight", ".lora.up.weight"),
    "kohya": ("lora_unet_{}", ".lora_down.weight", ".lora_up.weight"),
}
# parts of fused layers and whole ones, convolutions among them; of one attention only q and v
LAYERS = (
    "mid_block.attentions.0.to_q",
    "mid_block.attentions.0.to_v",
    "mid_block.attentions.0.add_k_proj",
    "down_blocks.1.attentions.0.to_out.0",
    "up_blocks.0.resnets.0.conv1",
    "down_blocks.0.downsamplers.0.time_emb_proj",
)


def made() -> GlideModel:
    torch.manual_seed(0)
    return GlideModel(TINY).eval()


def write(model: GlideModel, style: str, path: Path) -> dict[str, torch.Tensor]:
    """Write a LoRA of rank 2 and 3; gives the state dict that diffusers would have with it."""
    name, first, second = STYLES[style]
    state = {key: value.clone() for key, value in to_diffusers(model)[1].items()}
    tensors = {}
    for number, layer in enumerate(LAYERS):
        weight, rank = state[f"{layer}.weight"], 2 + number % 2
        down = torch.randn(rank, *weight.shape[1:])
        up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2))
        key = name.format(layer.replace(".", "_") if style == "kohya" else layer)
        tensors |= {key + first: down, key + second: up}
        scale = 1.0
        if style == "kohya":
            tensors[key + ".alpha"], scale = torch.tensor(1.0), 1 / rank
        weight += scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)
    save_file(tensors, path)
    return state


@pytest.mark.parametrize("style", STYLES)
def test_it_is_merged_as_diffusers_would(tmp_path: Path, style: str) -> None:
    model = made()
    state = write(model, style, tmp_path / "lora.safetensors")
    expected = from_diffusers(state, model)
    merged = apply_lora(made(), tmp_path / "lora.safetensors")
    for key, value in expected.openai_state_dict().items():
        torch.testing.assert_close(merged.openai_state_dict()[key], value, rtol=1e-5, atol=1e-5)


def test_the_converted_file_equals_the_original_under_openais_names(tmp_path: Path) -> None:
    model = made()
    write(model, "peft", tmp_path / "lora.safetensors")
    converted = convert_lora(model.config, tmp_path / "lora.safetensors", tmp_path / "ours")
    a = apply_lora(made(), tmp_path / "lora.safetensors", 0.5).openai_state_dict()
    b = apply_lora(made(), converted, 0.5).openai_state_dict()
    for key, value in a.items():
        torch.testing.assert_close(b[key], value, rtol=1e-5, atol=1e-5)


def test_a_layer_missing_in_the_model_is_refused(tmp_path: Path) -> None:
    tensors = {
        "unet.down_blocks.7.attentions.0.to_q.lora_A.weight": torch.zeros(2, 32),
        "unet.down_blocks.7.attentions.0.to_q.lora_B.weight": torch.zeros(32, 2),
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(GlideError, match="LoRA"):
        apply_lora(made(), tmp_path / "lora.safetensors")
    with pytest.raises(GlideError, match="LoRA"):
        convert_lora(TINY, tmp_path / "lora.safetensors", tmp_path / "ours.safetensors")
    assert not (tmp_path / "ours.safetensors").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write(made(), "peft", tmp_path / "lora.safetensors")
    with pytest.raises(GlideError, match="already"):
        convert_lora(TINY, tmp_path / "lora.safetensors", tmp_path / "lora.safetensors")


def test_the_command_converts_for_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_model(made(), tmp_path / "base.safetensors", dtype=torch.float32)
    write(made(), "peft", tmp_path / "lora.safetensors")
    target = tmp_path / "ours.safetensors"
    arguments = [tmp_path / "lora.safetensors", "--for", checkpoint, "--to", target]
    assert main(["models", "convert-lora", *map(str, arguments)]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    apply_lora(made(), target)


@pytest.mark.parametrize("where", ["adapter_config.json", "lora_adapter_metadata"])
def test_the_alpha_of_a_peft_file_is_read(tmp_path: Path, where: str) -> None:
    path = tmp_path / "lora.safetensors"
    write(made(), "peft", path)
    tensors = load_file(path)
    plain = apply_lora(made(), path, 4.0).openai_state_dict()
    alpha = {"lora_alpha": 8.0} if where == "adapter_config.json" else {"unet.lora_alpha": 8.0}
    if where == "adapter_config.json":
        (tmp_path / where).write_text(json.dumps(alpha))
    kept = {key: value for key, value in tensors.items() if len(tensors[rank_of(key)]) == 2}
    rest = {where: json.dumps(alpha)} if where != "adapter_config.json" else None
    save_file(kept, path, metadata=rest)  # the layers of rank 2: a scale of 8 / 2
    scaled = apply_lora(made(), path).openai_state_dict()
    changed = fixed = 0
    for key, value in made().openai_state_dict().items():
        if torch.equal(scaled[key], value):
            fixed += 1
        elif "qkv" not in key and "encoder_kv" not in key:
            torch.testing.assert_close(scaled[key], plain[key], rtol=1e-5, atol=1e-5)
            changed += 1
    assert changed and fixed


def rank_of(key: str) -> str:
    """The down half of the layer that a key belongs to."""
    return key.replace("lora_B", "lora_A")


def test_a_missing_alpha_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(made(), "peft", tmp_path / "lora.safetensors")
    apply_lora(made(), tmp_path / "lora.safetensors")
    assert "does not say its alpha" in caplog.text


@pytest.mark.parametrize(
    ("alpha", "said"),
    [
        (torch.ones(3), "not one number"),
        (torch.tensor(float("nan")), "by up to nan"),
        (torch.tensor(float("inf")), "by up to inf"),
    ],
)
def test_an_alpha_that_is_not_one_number_is_refused(
    tmp_path: Path, alpha: torch.Tensor, said: str
) -> None:
    path = tmp_path / "lora.safetensors"
    write(made(), "kohya", path)
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith(".alpha"))
    save_file({**tensors, key: alpha}, path)
    with pytest.raises(GlideError, match=said):
        apply_lora(made(), path)


@pytest.mark.parametrize("shape", [(2, 5), (3, 32, 1), (2, 32, 3, 3), (0, 0)], ids=str)
def test_parts_that_do_not_fit_each_other_are_one_error(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    tensors = {}
    for layer, down in (("to_q", (2, 64)), ("to_v", shape)):
        key = f"unet.mid_block.attentions.0.{layer}"
        tensors[f"{key}.lora_A.weight"] = torch.ones(down)
        tensors[f"{key}.lora_B.weight"] = torch.ones(64, 2)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(GlideError):
        apply_lora(made(), tmp_path / "x.safetensors")
    with pytest.raises(GlideError):
        convert_lora(TINY, tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert not (tmp_path / "y.safetensors").exists()


@pytest.mark.parametrize(
    "metadata",
    [
        {"glide_lora": "[" * 100_000},
        {"lora_adapter_metadata": '{"lora_alpha": 1' + "0" * 400 + "}"},
    ],
    ids=["deep", "huge"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_odd_metadata_and_dtypes_are_one_error(
    metadata: dict[str, str], dtype: torch.dtype, tmp_path: Path
) -> None:
    key = "lora_unet_middle_block_1_proj_out"
    tensors = {
        f"{key}.lora_down.weight": torch.ones(2, 64, 1, dtype=dtype),
        f"{key}.lora_up.weight": torch.ones(64, 2, 1, dtype=dtype),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(GlideError, match=r"x\.safetensors"):
        apply_lora(made(), tmp_path / "x.safetensors")


@pytest.mark.parametrize("value", [1e38, 1e4])
def test_a_change_that_no_weight_can_hold_is_refused(value: float, tmp_path: Path) -> None:
    model = made()
    key = "lora_unet_middle_block_1_proj_out"
    up = torch.full((64, 2, 1), value)
    tensors = {f"{key}.lora_down.weight": torch.full((2, 64, 1), value)}
    save_file({**tensors, f"{key}.lora_up.weight": up}, tmp_path / "x.safetensors")
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(GlideError, match="by up to"):
        apply_lora(model, tmp_path / "x.safetensors")
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("strength", [None, True, "1", float("nan"), 2**70, [], torch.ones(2)])
def test_a_strength_that_is_no_number_is_refused(strength: Any, tmp_path: Path) -> None:
    with pytest.raises(GlideError, match="strength is"):
        apply_lora(made(), tmp_path / "x.safetensors", strength)
