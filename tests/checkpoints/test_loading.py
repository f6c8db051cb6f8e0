"""Loading gives back what was saved, and says what is wrong with every file it refuses."""

import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from glide_core.checkpoints.files import read_tensors
from glide_core.checkpoints.loading import (
    inspect,
    load_clip,
    load_model,
    model_from_state_dict,
    save_model,
)
from glide_core.config import ClipConfig, GlideConfig, TextConfig, UNetConfig
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip

TINY = GlideConfig(
    text=TextConfig(n_vocab=2048, context_length=8, width=32, layers=1, heads=2),
    unet=UNetConfig(
        image_size=16,
        model_channels=32,
        num_res_blocks=1,
        channel_mult=(1, 2),
        attention_factors=(2,),
        num_head_channels=16,
    ),
    tokenizer="glide-small",
)
TINY_CLIP = ClipConfig(
    image_size=16,
    patch_size=4,
    embedding=16,
    image_width=32,
    image_heads=2,
    image_layers=1,
    n_vocab=2048,
    context_length=8,
    text_width=32,
    text_heads=2,
    text_layers=1,
    tokenizer="glide-small",
)


@pytest.fixture
def model() -> GlideModel:
    torch.manual_seed(0)
    return GlideModel(TINY)


@pytest.fixture
def clip() -> NoisyClip:
    torch.manual_seed(0)
    return NoisyClip(TINY_CLIP)


def test_a_saved_model_comes_back_bit_for_bit(model: GlideModel, tmp_path: Path) -> None:
    path = save_model(model, tmp_path / "a.safetensors", dtype=torch.float32)
    loaded = load_model(path)
    assert loaded.config == TINY
    state = loaded.openai_state_dict()
    assert state.keys() == model.openai_state_dict().keys()
    for key, tensor in model.openai_state_dict().items():
        assert torch.equal(tensor, state[key]), key


def test_a_saved_model_keeps_how_it_is_sampled(tmp_path: Path) -> None:
    config = replace(TINY, guidance_scale=1.5, temperature=0.0)
    path = save_model(GlideModel(config), tmp_path / "a.safetensors")
    assert load_model(path).config == config


def test_a_saved_model_has_the_permissions_of_a_new_file(model: GlideModel, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    saved = save_model(model, tmp_path / "model.safetensors")
    assert saved.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_loaded_model_is_frozen_and_in_eval_mode(model: GlideModel, tmp_path: Path) -> None:
    loaded = load_model(save_model(model, tmp_path / "a.safetensors"))
    assert not loaded.training
    assert not any(p.requires_grad or p.is_meta for p in loaded.parameters())


def test_stored_half_precision_is_loaded_as_float32(model: GlideModel, tmp_path: Path) -> None:
    path = save_model(model, tmp_path / "a.safetensors")
    assert {t.dtype for t in load_file(path).values()} == {torch.float16}
    assert {p.dtype for p in load_model(path).parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_dtype_is_for_the_heavy_layers_alone(
    model: GlideModel, tmp_path: Path, dtype: torch.dtype
) -> None:
    path = save_model(model, tmp_path / "a.safetensors", dtype=torch.float32)
    loaded = load_model(path, dtype=dtype)
    like = model.use_dtype(dtype).openai_state_dict()
    assert {k: t.dtype for k, t in loaded.openai_state_dict().items()} == {
        k: t.dtype for k, t in like.items()
    }


def test_weights_loaded_in_inference_mode_can_take_part_in_a_gradient(
    model: GlideModel, clip: NoisyClip, tmp_path: Path
) -> None:
    save_model(clip, tmp_path / "clip.safetensors", dtype=torch.float32)
    save_model(model, tmp_path / "model.safetensors")
    with torch.inference_mode():
        guide = load_clip(tmp_path / "clip.safetensors")
        loaded = load_model(tmp_path / "model.safetensors", dtype=torch.bfloat16)
    weights = [*guide.parameters(), *loaded.parameters()]
    assert not any(weight.is_inference() for weight in weights)
    x = torch.randn(1, 3, 16, 16, requires_grad=True)
    guide.encode_image(x, torch.zeros(1, dtype=torch.int64)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_changing_a_loaded_weight_leaves_the_file_alone(model: GlideModel, tmp_path: Path) -> None:
    path = save_model(model, tmp_path / "a.safetensors", dtype=torch.float32)
    before = path.read_bytes()
    with torch.no_grad():
        load_model(path).unet.out[2].weight.fill_(7)
    assert path.read_bytes() == before


def test_a_pt_file_of_plain_tensors_loads(model: GlideModel, tmp_path: Path) -> None:
    torch.save(model.openai_state_dict(), tmp_path / "base.pt")
    loaded = load_model(tmp_path / "base.pt", config=TINY)
    assert torch.equal(loaded.unet.out[2].weight, model.unet.out[2].weight)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_old_and_wrapped_pt_files_load(
    model: GlideModel, tmp_path: Path, zipped: bool, wrapper: str | None
) -> None:
    state = model.openai_state_dict()
    torch.save(
        {wrapper: state} if wrapper else state,
        tmp_path / "base.pt",
        _use_new_zipfile_serialization=zipped,
    )
    assert read_tensors(tmp_path / "base.pt").tensors.keys() == state.keys()
    load_model(tmp_path / "base.pt", config=TINY)


def test_the_file_name_does_not_matter(model: GlideModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "upsample.pt")
    assert load_model(tmp_path / "upsample.pt").config.kind == "base"


def test_inspect_reads_the_config_without_the_weights(model: GlideModel, tmp_path: Path) -> None:
    assert inspect(save_model(model, tmp_path / "a.safetensors")) == TINY


def test_a_clip_comes_back_from_one_file_and_from_two(clip: NoisyClip, tmp_path: Path) -> None:
    whole = save_model(clip, tmp_path / "clip.safetensors", dtype=torch.float32)
    loaded = load_clip(whole)
    assert loaded.config == TINY_CLIP
    for key, tensor in clip.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[key]), key
    stored = {"glide": TINY_CLIP.to_json()}
    save_file(dict(clip.image.state_dict()), tmp_path / "i.safetensors", metadata=stored)
    save_file(dict(clip.text.state_dict()), tmp_path / "t.safetensors", metadata=stored)
    for pair in (("i", "t"), ("t", "i")):
        both = load_clip([tmp_path / f"{name}.safetensors" for name in pair])
        assert both.config == TINY_CLIP
        assert torch.equal(both.text.blocks["input"].w_voc, clip.text.blocks["input"].w_voc)


def test_half_a_clip_is_not_enough(clip: NoisyClip, tmp_path: Path) -> None:
    stored = {"glide": TINY_CLIP.to_json()}
    save_file(dict(clip.image.state_dict()), tmp_path / "i.safetensors", metadata=stored)
    with pytest.raises(
        GlideError, match=r"image encoder of a noisy CLIP. Expected a noisy CLIP: .* both"
    ):
        load_clip(tmp_path / "i.safetensors")
    with pytest.raises(GlideError, match=r"image encoder of a noisy CLIP. Expected a GLIDE model"):
        load_model(tmp_path / "i.safetensors")


def test_halves_of_different_clips_are_refused(clip: NoisyClip, tmp_path: Path) -> None:
    other = replace(TINY_CLIP, embedding=24)
    save_file(
        dict(clip.image.state_dict()), tmp_path / "i", metadata={"glide": TINY_CLIP.to_json()}
    )
    text = NoisyClip(other).text.state_dict()
    save_file(dict(text), tmp_path / "t", metadata={"glide": other.to_json()})
    with pytest.raises(GlideError, match="different models"):
        load_clip([tmp_path / "i", tmp_path / "t"])


def test_a_model_where_a_clip_belongs_is_named(model: GlideModel, tmp_path: Path) -> None:
    path = save_model(model, tmp_path / "a.safetensors")
    with pytest.raises(GlideError, match=r"is a GLIDE model. Expected a noisy CLIP"):
        load_clip(path)


def test_a_clip_where_a_model_belongs_is_named(clip: NoisyClip, tmp_path: Path) -> None:
    path = save_model(clip, tmp_path / "a.safetensors")
    with pytest.raises(GlideError, match=r"is a noisy CLIP. Expected a GLIDE model"):
        load_model(path)


def test_an_upsampler_where_a_base_model_belongs_is_named(tmp_path: Path) -> None:
    path = save_model(GlideModel(replace(TINY, kind="upsampler")), tmp_path / "a.safetensors")
    with pytest.raises(GlideError, match=r"kind 'upsampler'. Expected base or inpaint"):
        load_model(path, kinds=("base", "inpaint"))


class Code:
    """What a hostile file holds: something to run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (os.environ["GLIDE_TEST_PROOF"],))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pickled_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    proof = tmp_path / "it-ran"
    monkeypatch.setenv("GLIDE_TEST_PROOF", str(proof))
    torch.save({"a": Code()}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    for read in (inspect, load_model, load_clip):
        with pytest.raises(GlideError, match="refused"):
            read(tmp_path / "x.pt")
    assert not proof.exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GlideError, match="cannot be read: No such file"):
        load_model(tmp_path / "no.safetensors")


def test_a_folder_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(GlideError, match="cannot be read"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git-lfs"),
        (b"hello there, this is a text file", "not a model file"),
        (struct.pack("<Q", 1 << 40) + b'{"a": 1}', "cut short"),
        (struct.pack("<Q", 8) + b'{"a": 1}', "cut short"),
        (b"\x80\x02}q\x00.", "cut short|state dict"),
        (b"PK\x03\x04" + bytes(100), "cut short"),
    ],
)
def test_a_file_that_is_not_a_checkpoint_is_named(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    for read in (inspect, load_model):
        with pytest.raises(GlideError, match=said):
            read(path)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.999])
def test_a_truncated_file_is_said_to_be_cut_short(
    model: GlideModel, tmp_path: Path, kind: str, kept: float
) -> None:
    path = tmp_path / "x"
    if kind == "safetensors":
        save_model(model, path)
    else:
        zipped = kind == "zip"
        torch.save(model.openai_state_dict(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(GlideError, match="damaged or was cut short"):
        load_model(path)


def test_a_pt_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(GlideError, match="holds a list"):
        load_model(tmp_path / "list.pt")
    torch.save({"epoch": 3, "weights": torch.zeros(1)}, tmp_path / "dict.pt")
    with pytest.raises(GlideError, match="holds a int under 'epoch'"):
        load_model(tmp_path / "dict.pt")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused_by_name(
    model: GlideModel, tmp_path: Path, bad: float, dtype: torch.dtype
) -> None:
    state = {key: t.detach().to(dtype) for key, t in model.openai_state_dict().items()}
    state["middle_block.1.qkv.weight"][3, 1, 0] = bad
    save_file(state, tmp_path / "x.safetensors", metadata={"glide": TINY.to_json()})
    with pytest.raises(GlideError, match=r"middle_block\.1\.qkv\.weight"):
        load_model(tmp_path / "x.safetensors")


def test_weights_too_large_for_the_dtype_are_refused_and_nothing_is_written(
    model: GlideModel, tmp_path: Path
) -> None:
    with torch.no_grad():
        model.text.positional_embedding[0, 0] = 1e6
    with pytest.raises(GlideError, match="positional_embedding"):
        save_model(model, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_missing_extra_and_misshapen_tensors_are_listed(model: GlideModel) -> None:
    state = model.openai_state_dict()
    del state["out.0.bias"]
    state["extra"] = torch.zeros(1)
    state["final_ln.weight"] = torch.zeros(3)
    with pytest.raises(GlideError) as caught:
        model_from_state_dict(state, TINY)
    for said in ("missing: out.0.bias", "model: extra", "final_ln.weight is [3], not [32]"):
        assert said in str(caught.value)


def test_integer_tensors_are_refused(model: GlideModel) -> None:
    state = {key: t.to(torch.int8) for key, t in model.openai_state_dict().items()}
    with pytest.raises(GlideError, match=r"of a dtype that is not supported: .*int8"):
        model_from_state_dict(state, TINY)


def test_an_interrupted_save_leaves_the_old_file(
    model: GlideModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glide_core.checkpoints.files.save_file", full)
    with pytest.raises(GlideError, match="No space left"):
        save_model(model, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_metadata_is_stored_beside_the_config(model: GlideModel, tmp_path: Path) -> None:
    path = save_model(model, tmp_path / "a", metadata={"licence": "MIT"})
    stored = read_tensors(path).metadata
    assert json.loads(stored["glide"])["kind"] == "base" and stored["licence"] == "MIT"
