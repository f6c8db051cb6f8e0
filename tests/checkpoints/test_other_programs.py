"""Files of other training programs load; other architectures are named."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glide_core.checkpoints.detect import config_of
from glide_core.checkpoints.files import TensorFile, read_tensors
from glide_core.checkpoints.loading import inspect, load_model, save_model
from glide_core.cli import main
from glide_core.config import GlideConfig, ScheduleConfig
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel
from tools.tiny_models import LIKE_OPENAI


def made(config: GlideConfig = LIKE_OPENAI) -> GlideModel:
    torch.manual_seed(0)
    model = GlideModel(config)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.05)
    return model.eval()


class Flat(nn.Module):
    """Any module whose state dict has OpenAI's names, as their class has."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            module: nn.Module = self
            *parents, last = name.split(".")
            for parent in parents:
                if not hasattr(module, parent):
                    module.add_module(parent, nn.Module())
                module = getattr(module, parent)
            module.register_buffer(last, tensor)


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda state: OrderedDict((prefix + key, value) for key, value in state.items())


FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "glide-ft-0x1000.pt": lambda state: OrderedDict(state),
    "compiled": lambda state: torch.compile(Flat(state)).state_dict(),
    "averaged": lambda state: torch.optim.swa_utils.AveragedModel(Flat(state)).state_dict(),
    "data-parallel": lambda state: nn.DataParallel(Flat(state)).state_dict(),
    "compiled data-parallel": prefixed("_orig_mod.module."),
    "lightning": lambda state: {"state_dict": prefixed("model.")(state), "epoch": 3},
    "deepspeed": lambda state: {"module": state, "global_steps": 7, "optimizer": None},
    "deepspeed compiled": lambda state: {"module": prefixed("_orig_mod.")(state)},
    "ema": lambda state: {"ema": state, "step": 1, "model": {k: v * 0 for k, v in state.items()}},
    "ema in a dict": lambda state: {"ema": {"model": state, "decay": 0.99}, "args": {"lr": 1e-5}},
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
    "nested": lambda state: {"state_dict": {"model": {"module": prefixed("module.")(state)}}},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("form", FORMS)
def test_a_fine_tuned_model_loads(form: str, zipped: bool, tmp_path: Path) -> None:
    state = {key: value.detach() for key, value in made().openai_state_dict().items()}
    torch.save(FORMS[form](state), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    assert inspect(tmp_path / "x.pt") == LIKE_OPENAI
    loaded = load_model(tmp_path / "x.pt").openai_state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["input_blocks.0.0.weight", "token_embedding.weight", "clip_to_time.0.weight"], "latent"),
        (["input_blocks.0.0.weight", "token_embedding.weight", "clip_to_xf.weight"], "latent"),
        (["encoder.cnn.conv.weight", "decoder.input_blocks.0.0.weight"], "PITI"),
        (["model.input_blocks.0.0.weight", "model.clip_tok_proj.weight"], "Karlo"),
        (["model.transformer.resblocks.0.ln_1.weight", "model.prd_emb"], "Karlo"),
        (["backbone.resblocks.0.attn.c_qkv.weight", "input_proj.weight"], "Point-E"),
        (["input_blocks.0.0.weight", "to_model_dim_n.weight"], "Kandinsky"),
        (["input_blocks.0.0.weight", "encoder_pooling.0.weight"], "DeepFloyd"),
        (["model.diffusion_model.out.0.weight"], "Stable Diffusion"),
        (["input_blocks.0.0.weight", "label_emb.weight"], "guided-diffusion"),
        (["input_blocks.0.0.weight", "time_embed.0.weight"], "guided-diffusion"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_another_architecture_is_named(
    keys: list[str], said: str, prefix: str, tmp_path: Path
) -> None:
    torch.save({prefix + key: torch.zeros(2, 2) for key in keys}, tmp_path / "x.pt")
    for read in (inspect, load_model):
        with pytest.raises(GlideError, match=rf"x\.pt is .*{said}"):
            read(tmp_path / "x.pt")


def test_the_schedule_can_be_overridden(tmp_path: Path) -> None:
    wanted = ScheduleConfig("linear", 500, "v_prediction")
    torch.save(made().openai_state_dict(), tmp_path / "x.pt")
    assert load_model(tmp_path / "x.pt").config.schedule == ScheduleConfig()
    assert load_model(tmp_path / "x.pt", schedule=wanted).config.schedule == wanted
    save_model(made(), tmp_path / "x.safetensors")  # whose metadata holds another
    assert load_model(tmp_path / "x.safetensors", schedule=wanted).config.schedule == wanted


@pytest.mark.parametrize("kind", ["inpaint", "upsampler-inpaint"])
def test_an_inpainting_model_without_a_mask_channel_loads(kind: Any, tmp_path: Path) -> None:
    model = made(replace(LIKE_OPENAI, kind=kind))
    state = model.openai_state_dict()
    weight = state["input_blocks.0.0.weight"]
    kept = [i for i in range(weight.shape[1]) if i != 6]
    torch.save({**state, "input_blocks.0.0.weight": weight[:, kept]}, tmp_path / "x.pt")
    loaded = load_model(tmp_path / "x.pt", kind=kind)
    assert loaded.config.kind == kind
    found = loaded.openai_state_dict()["input_blocks.0.0.weight"]
    assert torch.equal(found[:, kept], weight[:, kept])
    assert not found[:, 6].any()


def test_a_kind_with_other_input_channels_is_refused(tmp_path: Path) -> None:
    torch.save(made().openai_state_dict(), tmp_path / "x.pt")
    with pytest.raises(GlideError, match=r"input_blocks.* is \[64, 3, 3, 3\], not \[64, 7, 3, 3\]"):
        load_model(tmp_path / "x.pt", kind="inpaint")


def test_conversion_stores_the_kind_and_schedule_asked_for(tmp_path: Path) -> None:
    state = made(replace(LIKE_OPENAI, kind="upsampler")).openai_state_dict()
    torch.save(state, tmp_path / "x.pt")
    options = ["--kind", "inpaint", "--prediction-type", "v_prediction"]
    assert main(["models", "convert", str(tmp_path / "x.pt"), *options]) == 0
    config = inspect(tmp_path / "x.safetensors")
    assert config == replace(
        LIKE_OPENAI, kind="inpaint", schedule=ScheduleConfig(prediction_type="v_prediction")
    )
    first = read_tensors(tmp_path / "x.safetensors").tensors["input_blocks.0.0.weight"]
    assert first.shape[1] == 7


def test_a_clip_has_no_kind_to_override() -> None:
    clip = TensorFile(Path("x"), {"blocks.input.w_t": torch.zeros(4, 4)})
    with pytest.raises(GlideError, match="no kind"):
        config_of(clip, kind="base")
