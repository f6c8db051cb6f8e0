"""A LoRA that was trained does, in a file, what it did in the trainer."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from training_runs import TINY, trainer

from glide_core.checkpoints.files import read_tensors, write_tensors
from glide_core.checkpoints.loading import load_model, save_model
from glide_core.checkpoints.lora import LAYERS, apply_lora, lora_key
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel
from glide_core.training import lora
from glide_core.training.trainer import Trainer
from tools.tiny_models import tiny_model

LORA = replace(TINY, steps=2, lora=2, lora_alpha=4.0, lr=1e-2)


def output(model: GlideModel) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 16, 16, generator=rng)
    ids = torch.arange(48).view(2, 24)
    with torch.no_grad():
        features = model.encode(ids, ids >= 0)
        return model.eval().unet(x, torch.tensor([10, 900]), features)  # type: ignore[no-any-return]


@pytest.fixture(params=["UNet", "UNet and text", "attention"])
def run(request: pytest.FixtureRequest, tiny_models: Path, tmp_path: Path) -> Trainer:
    config = replace(
        LORA,
        lora_text=request.param == "UNet and text",
        lora_layers="attention" if request.param == "attention" else "all",
    )
    found = trainer(config, tmp_path, tiny_models / "tiny_base.safetensors")
    found.train()
    return found


def test_a_trained_lora_applied_is_the_trainers_model(run: Trainer, tiny_models: Path) -> None:
    base = load_model(tiny_models / "tiny_base.safetensors")
    before = output(base)
    with run.averaged():
        trained = output(run.model)  # type: ignore[arg-type]
    assert float((trained - before).abs().max()) > 1e-3
    applied = output(apply_lora(base, run.exported))
    torch.testing.assert_close(applied, trained, rtol=1e-4, atol=1e-5)


def test_strength_scales_a_lora_and_zero_changes_nothing(run: Trainer, tiny_models: Path) -> None:
    path = tiny_models / "tiny_base.safetensors"
    plain = load_model(path).openai_state_dict()
    key = "middle_block.1.qkv.weight"
    none, whole, half = (
        apply_lora(load_model(path), run.exported, strength).openai_state_dict()
        for strength in (0.0, 1.0, 0.5)
    )
    for name, value in plain.items():
        assert torch.equal(none[name], value), name
    assert not torch.equal(whole[key], plain[key])
    torch.testing.assert_close(half[key] - plain[key], (whole[key] - plain[key]) / 2)
    back = apply_lora(apply_lora(load_model(path), run.exported), run.exported, -1.0)
    torch.testing.assert_close(back.openai_state_dict()[key], plain[key])


def test_the_base_stays_as_it_was(run: Trainer, tiny_models: Path) -> None:
    plain = load_model(tiny_models / "tiny_base.safetensors").openai_state_dict()
    kept = {
        name.replace(".base.", "."): value
        for name, value in run.model.state_dict().items()
        if ".down." not in name and ".up." not in name
    }
    for name, value in kept.items():
        assert torch.equal(value, plain[name.split(".", 1)[1]]), name


def test_the_file_has_the_names_that_comfyui_reads(run: Trainer) -> None:
    file = read_tensors(run.exported)
    names = {name.rsplit(".lora_", 1)[0] for name in file.tensors if ".lora_" in name}
    assert "lora_unet_middle_block_1_qkv" in names
    text = "text_encoders.glide.transformer.resblocks.0.attn.c_qkv"
    assert (text in names) == run.config.lora_text
    assert file.metadata["ss_network_dim"] == "2"
    for name in names:
        assert float(file.tensors[f"{name}.alpha"]) == 4.0
        up, down = (file.tensors[f"{name}.lora_{end}.weight"] for end in ("up", "down"))
        assert up.shape[1] == down.shape[0] == 2


def test_attention_alone_is_fewer_layers_than_all() -> None:
    model = tiny_model("base")
    attention = lora.targets(model, "attention", text=False)
    every = lora.targets(model, "all", text=False)
    with_text = lora.targets(model, "all", text=True)
    assert set(attention) < set(every) < set(with_text)
    assert {name.rsplit(".", 1)[1] for name in attention} == {"qkv", "encoder_kv", "proj_out"}
    assert not any(name in every for name in ("unet.input_blocks.0.0", "unet.out.2"))


def test_no_two_layers_share_a_name() -> None:
    names = [n for n, m in tiny_model("base").named_modules() if isinstance(m, LAYERS)]
    assert len({lora_key(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("kind", "said"), [("inpaint", None), ("upsampler", "it was trained for another model")]
)
def test_a_lora_fits_models_of_the_same_layers_alone(
    kind: str, said: str | None, tiny_models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainer(LORA, tmp_path, tiny_models / "tiny_base.safetensors")
    run.train()
    other = tiny_model(kind, seed=1)  # type: ignore[arg-type]
    if said:
        with pytest.raises(GlideError, match=said):
            apply_lora(other, run.exported)
    else:
        with caplog.at_level(logging.WARNING):
            apply_lora(other, run.exported)
        assert "trained from other weights (tiny_base.safetensors" in caplog.text


def test_a_lora_for_eps_is_refused_by_a_model_of_v(tiny_models: Path, tmp_path: Path) -> None:
    run = trainer(LORA, tmp_path, tiny_models / "tiny_base.safetensors")
    run.train()
    base = tiny_model("base")
    schedule = replace(base.config.schedule, prediction_type="v_prediction")
    base.config = replace(base.config, schedule=schedule)
    with pytest.raises(GlideError, match=r"prediction_type epsilon\. Expected .*v_prediction"):
        apply_lora(base, run.exported)


def test_a_file_that_is_not_a_lora_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    with pytest.raises(GlideError, match="not a LoRA"):
        apply_lora(tiny_model("base"), tiny_models / "tiny_base.safetensors")
    bad = {"lora_unet_out_2.lora_down.weight": torch.full((1, 32, 3, 3), float("nan"))}
    bad["lora_unet_out_2.lora_up.weight"] = torch.zeros(6, 1, 1, 1)
    with pytest.raises(GlideError, match="NaN"):
        write_tensors(bad, tmp_path / "nan.safetensors", {})
    save_file(bad, tmp_path / "nan.safetensors")
    with pytest.raises(GlideError, match="by up to nan"):
        apply_lora(tiny_model("base"), tmp_path / "nan.safetensors")


def test_a_lora_needs_a_model_to_change(tiny_models: Path, tmp_path: Path) -> None:
    with pytest.raises(GlideError, match="give initial weights"):
        trainer(LORA, tmp_path)
    clip = replace(LORA, job="clip", size=None)
    with pytest.raises(GlideError, match="trained whole"):
        trainer(clip, tmp_path, tiny_models / "tiny_clip.safetensors")


def test_a_lora_run_resumes_only_from_its_own_base(tiny_models: Path, tmp_path: Path) -> None:
    trainer(LORA, tmp_path / "run", tiny_models / "tiny_base.safetensors").save()
    other = save_model(tiny_model("base", seed=5), tmp_path / "other.safetensors")
    with pytest.raises(GlideError, match="started from another model"):
        trainer(LORA, tmp_path / "run", other)


def test_a_lora_run_cannot_be_started_from_as_a_model(tiny_models: Path, tmp_path: Path) -> None:
    trainer(LORA, tmp_path, tiny_models / "tiny_base.safetensors").save()
    with pytest.raises(GlideError, match="holds a LoRA"):
        trainer(TINY, tmp_path / "next", tmp_path / "checkpoint.pt")
