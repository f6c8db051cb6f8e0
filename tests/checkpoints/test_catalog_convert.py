"""The catalog names what exists; conversion writes what can be loaded again."""

from pathlib import Path

import pytest
import torch

from glide_core.checkpoints.catalog import ENTRIES, find, models_directory
from glide_core.checkpoints.files import read_tensors
from glide_core.checkpoints.loading import convert, inspect, load_clip, load_model
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel
from glide_core.models.noisy_clip import NoisyClip
from tools.tiny_models import CLIP_LIKE_OPENAI, LIKE_OPENAI


def test_six_files_are_openais_three_laions_and_five_ours() -> None:
    released = [entry for entry in ENTRIES if entry.name.startswith("openai-")]
    assert [entry.filename for entry in released] == [
        "base.pt",
        "upsample.pt",
        "base_inpaint.pt",
        "upsample_inpaint.pt",
        "clip_image_enc.pt",
        "clip_text_enc.pt",
    ]
    for entry in released:
        assert entry.url is not None and entry.url.endswith(f"/dec-2021/{entry.filename}")
    laion = [entry.filename for entry in ENTRIES if entry.name.startswith("laionide-")]
    assert laion == ["laionide-v3-base.pt", "laionide-v2-base.pt", "laionide-v2-sr.pt"]
    assert sum(entry.bundled for entry in ENTRIES) == 5 == len(ENTRIES) - 9
    assert all(entry.licence == "MIT" for entry in ENTRIES)
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)


def test_entries_are_found_by_name_and_by_file_name() -> None:
    assert find("openai-base") == find("base.pt")
    assert find("base").bundled
    with pytest.raises(GlideError, match="openai-upsampler"):
        find("dalle")


def test_an_explicit_models_directory_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert models_directory({"GLIDE_MODELS": "/some/where"}) == Path("/some/where")
    assert models_directory({}) == Path.home() / ".cache" / "glide" / "models"
    (tmp_path / "models" / "glide").mkdir(parents=True)
    assert models_directory({}) == Path("models/glide")
    assert find("openai-base").path() == Path("models/glide/base.pt")


def test_a_pt_file_becomes_safetensors_with_its_config(tmp_path: Path) -> None:
    state = GlideModel(LIKE_OPENAI).openai_state_dict()
    torch.save(state, tmp_path / "base.pt")
    path = convert(tmp_path / "base.pt")
    assert path == tmp_path / "base.safetensors"
    assert inspect(path) == LIKE_OPENAI
    loaded = load_model(path).openai_state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_a_clips_two_files_become_one(tmp_path: Path) -> None:
    clip = NoisyClip(CLIP_LIKE_OPENAI)
    torch.save(clip.image.state_dict(), tmp_path / "clip_image_enc.pt")
    torch.save(clip.text.state_dict(), tmp_path / "clip_text_enc.pt")
    files = [tmp_path / "clip_image_enc.pt", tmp_path / "clip_text_enc.pt"]
    path = convert(files, tmp_path / "clip.safetensors", dtype=torch.float16)
    assert inspect(path) == CLIP_LIKE_OPENAI
    assert {t.dtype for t in read_tensors(path).tensors.values()} == {torch.float16}
    both = load_clip(path).state_dict()
    assert all(torch.equal(both[k], v.half().float()) for k, v in clip.state_dict().items())


def test_conversion_overwrites_nothing(tmp_path: Path) -> None:
    torch.save(GlideModel(LIKE_OPENAI).openai_state_dict(), tmp_path / "base.pt")
    (tmp_path / "base.safetensors").write_bytes(b"mine")
    with pytest.raises(GlideError, match="not overwritten"):
        convert(tmp_path / "base.pt")
    assert (tmp_path / "base.safetensors").read_bytes() == b"mine"


def test_an_incomplete_model_is_not_converted(tmp_path: Path) -> None:
    state = GlideModel(LIKE_OPENAI).openai_state_dict()
    del state["final_ln.bias"]
    torch.save(state, tmp_path / "base.pt")
    with pytest.raises(GlideError, match=r"missing: final_ln\.bias"):
        convert(tmp_path / "base.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["base.pt"]
