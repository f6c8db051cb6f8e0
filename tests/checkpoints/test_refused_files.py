"""Files that are not a complete checkpoint of the right kind are refused, with what is wrong."""

import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from glide_core.checkpoints.loading import (
    inspect,
    load_clip,
    load_model,
    model_from_state_dict,
    save_model,
)
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from tools.tiny_models import TINY, TINY_CLIP


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
    with pytest.raises(GlideError, match=r"i and .*t does not fit .*: image\.blocks\.output\.f\.w"):
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
