"""Whatever a file holds, loading it gives a model or one GlideError that names the file."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from glide_core.checkpoints.files import read_tensors
from glide_core.checkpoints.loading import inspect, load_clip, load_model
from glide_core.cli import main
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from tools.tiny_models import TINY, TINY_CLIP

STATE = {key: value.detach() for key, value in GlideModel(TINY).openai_state_dict().items()}
CLIP_STATE = dict(NoisyClip(TINY_CLIP).state_dict())
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def refused(path: Path) -> str:
    """The message with which every way of reading refuses a file."""
    messages = []
    for read in (inspect, load_model, load_clip):
        with pytest.raises(GlideError) as caught:
            read(path)
        assert path.name in str(caught.value)
        messages.append(str(caught.value))
    return messages[1]


def legacy(body: bytes) -> bytes:
    """A pickle that starts as torch's legacy format does."""
    return pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + body


PICKLES = {
    "no opcode": b"\x80\x02\xff.",
    "pop from nothing": b"\x80\x020.",
    "unknown memo": b"\x80\x02h\x05.",
    "short struct": b"\x80\x02J\x01",
    "build on a number": b"\x80\x02K\x01}b.",
    "set item of a number": b"\x80\x02K\x01K\x02K\x03s.",
    "append to a number": b"\x80\x02K\x01K\x02a.",
    "persistent id": b"\x80\x02K\x01Q.",
    "tensor of nothing": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "tensor of numbers": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02K\x03K\x04tR.",
    "parameter of a number": b"\x80\x02ctorch._utils\n_rebuild_parameter\n(K\x01K\x02K\x03tR.",
    "nested": b"\x80\x02" + b"]" * 9000 + b"a" * 8999 + b".",
    "bad utf-8": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
    "dict of lists": pickle.dumps({"a": [1]}, 2),
    "none": pickle.dumps(None, 2),
}


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("form", ["plain", "legacy", "zip"])
def test_an_odd_pickle_is_refused(name: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", PICKLES[name])
            archive.writestr("archive/version", "3\n")
    else:
        path.write_bytes(legacy(PICKLES[name]) if form == "legacy" else PICKLES[name])
    refused(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(1).expand(10**6, 10**6),
        torch.zeros(2, 2, device="meta"),
        torch.quantize_per_tensor(torch.zeros(2, 2), 0.1, 0, torch.qint8),
        torch.zeros(32, 32, 3, 3, dtype=torch.complex64),
        torch.zeros(32, 32, 3, 3, dtype=torch.bool),
        torch.zeros(()),
        torch.zeros(0, 32, 3, 3),
        torch.zeros(32),
        torch.zeros(32, 32, 3, 3, 1),
    ],
    ids=lambda t: f"{t.layout}-{t.dtype}-{t.ndim}-{t.numel()}",
)
def test_a_tensor_that_is_not_a_weight_is_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    for key in ("input_blocks.1.0.in_layers.2.weight", "input_blocks.0.0.weight"):
        torch.save({**STATE, key: tensor}, tmp_path / "x.pt")
        with pytest.raises(GlideError, match=r"x\.pt"):
            load_model(tmp_path / "x.pt", config=TINY)
        with pytest.raises(GlideError, match=r"x\.pt"):
            load_model(tmp_path / "x.pt")


@pytest.mark.parametrize("key", sorted(STATE))
def test_every_tensor_is_checked_for_rank_before_it_is_used(key: str, tmp_path: Path) -> None:
    shape = list(STATE[key].shape)
    for wrong in ([], [0], shape[1:], [*shape, 1], [0, *shape[1:]], [n + 1 for n in shape]):
        state = {**STATE, key: torch.zeros(wrong)}
        (tmp_path / "x").write_bytes(save(state, metadata={"glide": TINY.to_json()}))
        with pytest.raises(GlideError, match=r"/x "):
            load_model(tmp_path / "x")


def test_a_size_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(77)}, tmp_path / "x", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x").read_bytes()
    huge = content.replace(b"K\x4d", b"\x8a\x06" + (2**46).to_bytes(6, "little"))
    assert content.count(b"K\x4d") == 2  # elements of the storage and of the tensor
    (tmp_path / "x").write_bytes(huge)
    with pytest.raises(GlideError, match="x does not fit"):
        read_tensors(tmp_path / "x")


def test_metadata_is_limited_in_size_and_depth(tmp_path: Path) -> None:
    for text in ("[" * 60_000, '{"a":' * 10_000, "x" * 70_000, "9" * 60_000):
        save_file(STATE, tmp_path / "x", metadata={"glide": text})
        assert "cannot be read: not a GlideConfig" in refused(tmp_path / "x")
    save_file(STATE, tmp_path / "y", metadata={"other": "x" * 2_000_000})
    assert "metadata" in refused(tmp_path / "y")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"0" * 10_000)
    assert "compressed" in refused(tmp_path / "x.pt")


def test_long_names_and_many_tensors_are_refused(tmp_path: Path) -> None:
    save_file({"input_blocks." * 1000: torch.zeros(1)}, tmp_path / "x")
    assert "name of 13,000 characters" in refused(tmp_path / "x")
    save_file({str(i): torch.zeros(1) for i in range(20_001)}, tmp_path / "y")
    assert "20,001 tensors" in refused(tmp_path / "y")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pt")
    assert "not a file" in refused(tmp_path / "x.pt")
    assert "not a file" in refused(Path(os.devnull))


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
def test_a_name_that_is_not_text_is_refused_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(STATE, tmp_path / "x.safetensors", metadata={"glide": TINY.to_json()})
    torch.save(STATE, tmp_path / "x.pt")
    monkeypatch.setenv("GLIDE_MODELS", str(tmp_path))
    for suffix in (".safetensors", ".pt"):
        path = tmp_path / os.fsdecode(b"\xff" + suffix.encode())
        (tmp_path / f"x{suffix}").rename(path)
        assert "not UTF-8" in refused(path)
    assert main(["models"]) == 0
    assert capsys.readouterr().out.count("not a GLIDE model") == 2


def test_one_bad_file_does_not_break_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLIDE_MODELS", str(tmp_path))
    save_file(STATE, tmp_path / "good.safetensors", metadata={"glide": TINY.to_json()})
    bad = json.loads(TINY.to_json())
    bad["unet"]["patch_size"] = 0
    save_file(STATE, tmp_path / "bad.safetensors", metadata={"glide": json.dumps(bad)})
    for name, content in PICKLES.items():
        (tmp_path / f"{name}.pt").write_bytes(content)
    (tmp_path / "huge.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{" * 20)
    (tmp_path / "notes.txt").write_text("not a model")
    (tmp_path / "loop.pt").symlink_to("loop.pt")
    (tmp_path / "folder.pt").mkdir()
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert "good.safetensors" in printed and "GLIDE base model" in printed
    assert printed.count("not a GLIDE model") == len(PICKLES) + 2
    assert "notes.txt" not in printed


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    VALUES,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v),
    max_leaves=5,
)


@QUICK
@given(section=st.sampled_from(["text", "unet", "schedule"]), value=JSON, data=st.data())
def test_any_config_in_the_metadata_loads_or_is_a_glide_error(
    section: str, value: Any, data: st.DataObject, tmp_path: Path
) -> None:
    raw = json.loads(TINY.to_json())
    raw[section][data.draw(st.sampled_from(sorted(raw[section])))] = value
    save_file(STATE, tmp_path / "x", metadata={"glide": json.dumps(raw)})
    try:
        model = load_model(tmp_path / "x")
    except GlideError as error:
        assert str(tmp_path / "x") in str(error)
    else:
        assert model.openai_state_dict().keys() == STATE.keys()


@QUICK
@given(data=st.data())
def test_any_shapes_load_or_are_a_glide_error(data: st.DataObject, tmp_path: Path) -> None:
    whole = data.draw(st.sampled_from([STATE, CLIP_STATE]))
    keys = st.sampled_from(sorted(whole))
    shapes = st.lists(st.integers(0, 9), max_size=5)
    changed = data.draw(st.dictionaries(keys, shapes, max_size=3))
    gone = data.draw(st.sets(keys, max_size=3))
    state = {key: value for key, value in whole.items() if key not in gone}
    state |= {key: torch.zeros(shape) for key, shape in changed.items()}
    (tmp_path / "x").write_bytes(save(state))
    for read in (inspect, load_model, load_clip):
        try:
            read(tmp_path / "x")
        except GlideError as error:
            assert str(tmp_path / "x") in str(error)


@QUICK
@given(at=st.integers(0, 2000), with_=st.binary(min_size=1, max_size=8))
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_any_damage_is_read_or_a_glide_error(
    form: str, at: int, with_: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    state = {key: STATE[key] for key in ("out.2.weight", "time_embed.0.weight")}
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    content = bytearray(path.read_bytes())
    at = at if form != "zip" or at % 2 else len(content) - 1 - at // 4  # the zip's directory too
    content[at : at + len(with_)] = with_
    path.write_bytes(content)
    for meta in (True, False):
        try:
            read_tensors(path, meta=meta)
        except GlideError as error:
            assert str(path) in str(error)
