"""The recorded outputs of OpenAI's code, all of them, and whether `verify` would notice a fault."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from verify import main, verify

from glide_core.errors import GlideError

GOLDEN = Path(__file__).parent / "golden"


def copied(folder: Path, *cases: str, files: tuple[str, ...] = ()) -> Path:
    """A folder of recordings with only some cases; model files are linked, cases are copied."""
    manifest = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))
    manifest["cases"] = {name: manifest["cases"][name] for name in cases}
    manifest["other_files"] = dict.fromkeys(files, "")
    for path in GOLDEN.glob("sd_*"):
        (folder / path.name).symlink_to(path)
    for name in [case["file"] for case in manifest["cases"].values()] + list(files):
        shutil.copy(GOLDEN / name, folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def edit_manifest(folder: Path, case: str, **changes: object) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["cases"][case].update(changes)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def nudge(path: Path, key: str, amount: float) -> None:
    """Change one element of one tensor."""
    tensors = load_file(path)
    tensors[key] = tensors[key].clone()
    tensors[key].view(-1)[-1] += amount
    save_file(tensors, path)


def test_every_recording_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(GOLDEN) == 0
    lines = capsys.readouterr().out.splitlines()
    cases = len(json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))["cases"])
    assert lines[-1] == f"{cases + 3} cases: {cases + 3} ok, 0 failed"
    assert all(line.startswith("ok ") for line in lines[:-1])


@pytest.mark.parametrize(
    ("case", "key", "amount"),
    [
        ("base_forward", "out.out", 1e-4),
        ("base_forward", "out.xf_out", 1e-4),
        ("base_forward", "out.t_sinusoid", 1e-4),
        ("upsampler_forward", "out.low_res_upsampled", 1e-4),
        ("base_forward_cached", "out.out_second", 1e-4),
        ("clip", "out.grad_scaled", 1e-4),
        ("clip", "out.text_lens", 1),
        ("traj_p_cfg_10", "out.samples", 2e-3),
        ("traj_p_cfg_10", "out.pred_xstart", 5e-3),
        ("traj_p_sections_nocfg", "out.clip_frac", 0.02),
        ("traj_ddim_eta05_nocfg", "out.model_timesteps", 1),
        ("traj_ddim_reverse", "out.samples", 1e-3),
        ("traj_ddim_eta05_nocfg", "in.noise", 2.0),
        ("traj_inpaint_ddim10", "in.inpaint_mask", 0.5),
    ],
)
def test_a_changed_recording_fails(tmp_path: Path, case: str, key: str, amount: float) -> None:
    folder = copied(tmp_path, case)
    if key == "in.noise":  # the last step draws none, so change the one before
        path = folder / f"{case}.safetensors"
        tensors = load_file(path)
        tensors[key][-2] += amount
        save_file(tensors, path)
    else:
        nudge(folder / f"{case}.safetensors", key, amount)
    (result,) = verify(folder)
    assert not result.ok
    assert result.error > result.allowed


def test_a_fault_in_one_step_shows_under_teacher_forcing_alone(tmp_path: Path) -> None:
    folder = copied(tmp_path, "traj_p_cfg_fast27")
    # inside the free-running tolerance of 0.0146, far outside that step's own
    path = folder / "traj_p_cfg_fast27.safetensors"
    tensors = load_file(path)
    tensors["out.samples"][5, 0, 0, 0, 0] += 5e-3
    save_file(tensors, path)
    (result,) = verify(folder)
    assert not result.ok
    assert "teacher-forced step" in result.detail


def test_nan_in_a_recording_fails(tmp_path: Path) -> None:
    folder = copied(tmp_path, "base_forward")
    nudge(folder / "base_forward.safetensors", "out.out", float("nan"))
    assert not verify(folder)[0].ok


def test_a_smaller_tolerance_in_the_manifest_is_obeyed(tmp_path: Path) -> None:
    folder = copied(tmp_path, "inpaint_forward_none")
    exact = {"atol": 0.0, "rtol": 0.0}
    edit_manifest(
        folder,
        "inpaint_forward_none",
        fair_tolerance=dict.fromkeys(
            ("out", "xf_proj", "xf_out", "t_sinusoid", "time_embed"), exact
        ),
    )
    assert not verify(folder)[0].ok


def test_an_unknown_kind_and_an_unknown_loop_are_failures(tmp_path: Path) -> None:
    folder = copied(tmp_path, "base_forward", "traj_p_cfg_10")
    edit_manifest(folder, "base_forward", kind="hologram")
    edit_manifest(folder, "traj_p_cfg_10", loop="runge_kutta")
    results = verify(folder)
    assert [result.ok for result in results] == [False, False]
    assert "unknown kind 'hologram'" in results[0].detail
    assert "unknown loop 'runge_kutta'" in results[1].detail


def test_missing_files_are_failures_of_the_cases_that_need_them(tmp_path: Path) -> None:
    folder = copied(tmp_path, "base_forward", "inpaint_forward_none", "clip")
    (folder / "base_forward.safetensors").unlink()
    (folder / "sd_clip_image.safetensors").unlink()
    results = {result.name: result for result in verify(folder)}
    assert "base_forward.safetensors is missing" in results["base_forward"].detail
    assert "sd_clip_image.safetensors is missing" in results["clip"].detail
    assert results["inpaint_forward_none"].ok


def test_an_output_that_nothing_checks_is_a_failure(tmp_path: Path) -> None:
    folder = copied(tmp_path, "inpaint_forward_none")
    path = folder / "inpaint_forward_none.safetensors"
    save_file({**load_file(path), "out.secret": torch.zeros(1)}, path)
    (result,) = verify(folder)
    assert not result.ok
    assert "out.secret" in result.detail


def test_a_wrong_token_and_a_wrong_table_are_failures(tmp_path: Path) -> None:
    names = ("tokens_glide_bpe.json", "tokens_clip_simple.json", "respacing.json")
    folder = copied(tmp_path, files=names)
    for name in names[:2]:
        entries = json.loads((folder / name).read_text(encoding="utf-8"))
        entries[7][2][0] += 1
        (folder / name).write_text(json.dumps(entries), encoding="utf-8")
    tables = json.loads((folder / names[2]).read_text(encoding="utf-8"))
    tables["entries"][1]["schedules"]["linear"]["betas"][3] *= 1 + 1e-8
    tables["errors"].append(["50", "ValueError"])
    (folder / names[2]).write_text(json.dumps(tables), encoding="utf-8")
    assert [result.ok for result in verify(folder)] == [False] * 3


def test_a_listed_file_of_no_known_kind_is_a_failure(tmp_path: Path) -> None:
    folder = copied(tmp_path, files=("respacing.json",))
    (folder / "respacing.json").rename(folder / "riddle.json")
    manifest = {"cases": {}, "other_files": {"riddle.json": "?"}}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (result,) = verify(folder)
    assert not result.ok
    assert "unknown kind of file" in result.detail


def test_token_files_that_the_manifest_forgot_are_checked_all_the_same(tmp_path: Path) -> None:
    folder = copied(tmp_path, "inpaint_forward_none")
    shutil.copy(GOLDEN / "respacing.json", folder)
    assert [result.name for result in verify(folder)] == ["inpaint_forward_none", "respacing.json"]


def test_a_folder_without_a_manifest_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GlideError, match=r"manifest\.json is missing"):
        verify(tmp_path)
    assert main(tmp_path) == 1
    assert "manifest.json is missing" in capsys.readouterr().out


def test_a_failing_case_makes_the_exit_code_non_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(tmp_path, "base_forward", "inpaint_forward_none")
    nudge(folder / "base_forward.safetensors", "out.out", 1.0)
    assert main(folder) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "2 cases: 1 ok, 1 failed"
