"""`glide generate --prompts` in one process: what it writes, keeps, redraws and refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batch.jobs import MODELS, index, manifest, pictures, pixels, prompts, samples, words

from glide_core import io
from glide_core.batch.draw import Painter
from glide_core.checkpoints import loading
from glide_core.cli import main


@pytest.fixture
def out(tmp_path: Path, model_folder: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that were drawn, in order."""
    rows: list[int] = []
    draw = Painter.draw

    def noted(self: Painter, batch: Any, command: Any) -> Any:
        rows.extend(row.number for row in batch)
        return draw(self, batch, command)

    monkeypatch.setattr(Painter, "draw", noted)
    return rows


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def test_every_row_becomes_a_picture_that_says_how_it_was_made(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(prompts(tmp_path, 5), out, "--shard-size", 2)) == 0
    shards = ["shard-00000.tar", "shard-00001.tar", "shard-00002.tar"]
    assert names(out) == ["index.csv", "manifest.json", *shards]
    said = capsys.readouterr().out.split()
    assert said == [str(out / name) for name in [*shards, "index.csv"]]

    found = samples(out)
    assert list(found) == [f"00000{i}.{end}" for i in range(1, 6) for end in ("png", "json")]
    facts = json.loads(found["000005.json"])
    assert (facts["row"], facts["prompt"], facts["seed"]) == (5, "a red apple, 1", 4)
    assert facts["settings"]["cfg"] == 5 and facts["settings"]["steps"] == 2
    job = manifest(out)
    assert facts["models"] == job["models"] and len(job["models"]["base"][0]["sha256"]) == 64
    assert [shard["state"] for shard in job["shards"]] == ["done"] * 3
    assert job["list"]["rows"] == 5 and len(job["list"]["sha256"]) == 64

    rows = index(out)
    assert [row["row"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert rows[4] == {
        "row": "5",
        "shard": "shard-00002.tar",
        "file": "000005.png",
        "prompt": "a red apple, 1",
        "seed": "4",
    }
    (tmp_path / "one.png").write_bytes(found["000005.png"])
    text = io.read_text(tmp_path / "one.png")
    assert json.loads(text["glide"])["seed"] == 4
    assert text["parameters"].startswith("a red apple, 1\n")


def test_a_picture_is_the_same_in_any_batch_shard_and_format(tmp_path: Path, out: Path) -> None:
    table = prompts(tmp_path, 6)
    main(words(table, out / "one", "--shard-size", 1, "--batch", 1))
    main(words(table, out / "all", "--shard-size", 6, "--batch", 6))
    main(words(table, out / "some", "--shard-size", 4, "--batch", 3, "--format", "folder"))
    assert names(out / "some") == ["index.csv", "manifest.json", "shard-00000", "shard-00001"]
    assert samples(out / "one") == samples(out / "all") == samples(out / "some")
    assert len(set(pictures(out / "one").values())) == 6


def test_it_is_the_picture_that_the_prompt_alone_gives(tmp_path: Path, out: Path) -> None:
    table = tmp_path / "list.jsonl"
    row = {"prompt": "a car", "seed": 7, "negative": "blur", "sampler": "plms", "size": "72x64"}
    row |= {"upsample_steps": 1, "upsample_temperature": 0.5, "respacing": "ddim2"}
    table.write_text(json.dumps(row))
    quick = [*MODELS, "--quiet", "--upsample-steps", "2"]
    assert main(["generate", "--prompts", str(table), "--out", str(out / "list"), *quick]) == 0
    own = [*MODELS, "--quiet", "--seed", "7", "--negative", "blur", "--sampler", "plms"]
    own += ["--size", "72x64", "--upsample-steps", "1", "--upsample-temperature", "0.5"]
    own += ["--respacing", "ddim2"]
    assert main(["generate", "a car", "--out", str(out / "alone"), *own]) == 0
    found = pixels(samples(out / "list")["000001.png"])
    alone = pixels((out / "alone" / "glide_00001_.png").read_bytes())
    assert found.shape == (256, 288, 3) and (found == alone).all()


def test_a_row_can_be_guided_by_clip(tmp_path: Path, out: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("prompt,seed,clip_scale\na car,1,\na car,1,90\n")
    assert main(words(table, out, "--clip", "tiny_clip.safetensors")) == 0
    assert len(set(pictures(out).values())) == 2
    assert list(manifest(out)["models"]) == ["base", "clip"]


def test_a_gpus_batch_is_always_full_and_changes_no_picture(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows with the same settings go together; the last row fills up what is missing."""
    table = prompts(tmp_path, 6)
    main(words(table, out / "alone"))
    sizes: list[int] = []
    load, draw = Painter.load, Painter._pictures

    def full(*given: Any) -> Painter:
        return replace(load(*given), batch=4)

    def noted(self: Painter, wanted: Any) -> Any:
        sizes.append(len(wanted))
        assert len({each.cfg for each in wanted}) == 1
        return draw(self, wanted)

    monkeypatch.setattr(Painter, "load", full)
    monkeypatch.setattr(Painter, "_pictures", noted)
    main(words(table, out / "together"))
    assert sizes == [4, 4, 4]  # five rows of one cfg, one of the other
    alone, together = samples(out / "alone"), samples(out / "together")
    assert alone.keys() == together.keys()
    for name in filter(lambda name: name.endswith(".png"), alone):
        error = abs(pixels(alone[name]).astype(int) - pixels(together[name]))
        assert error.mean() < 0.01 and error.max() < 16  # sums of another order round differently


def test_a_complete_job_is_left_alone(
    tmp_path: Path,
    out: Path,
    drawn: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = words(prompts(tmp_path, 3), out)
    main(command)
    before = {path: path.stat() for path in out.iterdir()}
    drawn.clear()
    capsys.readouterr()
    monkeypatch.setattr(loading, "load_model", None)  # not even loaded
    assert main(command) == 0
    assert {path: path.stat() for path in out.iterdir()} == before and not drawn
    said = capsys.readouterr()
    assert "complete: 3 pictures in 1 shards" in said.err and said.out == ""


@pytest.mark.parametrize("form", ["tar", "folder"])
def test_what_an_unfinished_shard_has_is_kept_and_what_is_torn_is_redrawn(
    form: str, tmp_path: Path, out: Path, drawn: list[int]
) -> None:
    command = words(prompts(tmp_path, 6), out, "--shard-size", 4, "--format", form)
    main(command)
    whole = samples(out)
    (out / "index.csv").unlink()
    if form == "tar":
        (out / "shard-00000.tar").unlink()
    else:
        shutil.rmtree(out / "shard-00000")
    partial = out / "shard-00000.partial"  # as a kill leaves it
    partial.mkdir()
    for name in list(whole)[:8]:
        (partial / name).write_bytes(whole[name])
    (partial / "000001.png").unlink()
    (partial / "000002.png").write_bytes(whole["000002.png"][:2000])
    (partial / "000003.json").write_bytes(whole["000004.json"])  # of another row
    (partial / ".000001.io.tmp").write_bytes(b"begun")
    drawn.clear()
    assert main(command) == 0
    assert drawn == [1, 2, 3]
    assert samples(out) == whole
    assert names(out)[0] == "index.csv" and not partial.exists()


def test_what_a_kill_after_the_last_move_leaves_is_cleaned(tmp_path: Path, out: Path) -> None:
    command = words(prompts(tmp_path, 2), out)
    main(command)
    (out / "index.csv").unlink()
    (out / "shard-00000.partial").mkdir()
    (out / ".shard-00000.lock").touch()
    assert main(command) == 0
    assert names(out) == ["index.csv", "manifest.json", "shard-00000.tar"]


def test_a_deleted_shard_is_drawn_again(tmp_path: Path, out: Path, drawn: list[int]) -> None:
    command = words(prompts(tmp_path, 4), out, "--shard-size", 2)
    main(command)
    whole = samples(out)
    (out / "shard-00001.tar").unlink()
    drawn.clear()
    assert main(command) == 0
    assert drawn == [3, 4] and samples(out) == whole


def test_a_damaged_shard_is_named(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(prompts(tmp_path, 4), out, "--shard-size", 2)
    main(command)
    shard = out / "shard-00001.tar"
    shard.write_bytes((out / "shard-00000.tar").read_bytes())
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "shard-00001.tar" in said and "000001.png" in said and "Delete it" in said


def test_another_job_in_the_folder_is_refused_with_what_differs(
    tmp_path: Path, out: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = prompts(tmp_path, 2)
    main(words(table, out))
    before = samples(out)
    other = tmp_path / "other.csv"
    other.write_text(table.read_text().replace("apple, 1", "pear"))
    for changed, expected in (
        (words(other, out), "another content"),
        (words(prompts(tmp_path, 3), out), "list: 2 rows there, 3 now"),
        (words(table, out, "--cfg", 4), "cfg: 3.0 there, 4.0 now"),
        (words(table, out, "--dtype", "bfloat16"), "dtype: 'float32' there, 'bfloat16' now"),
        (words(table, out, "--model", "tiny_inpaint.safetensors"), "tiny_inpaint.safetensors ("),
        (words(table, out, "--shard-size", 1), "shard-size: 64 there, 1 now"),
        (words(table, out, "--format", "folder"), "format: 'tar' there, 'folder' now"),
    ):
        assert main(changed) == 1
        said = capsys.readouterr().err
        assert str(out) in said and expected in said and "--out" in said
    assert samples(out) == before


def test_the_same_rows_in_another_spelling_are_the_same_job(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = prompts(tmp_path, 2)
    main(words(table, out))
    lines = tmp_path / "list.jsonl"
    lines.write_text('{"prompt":"a red apple, 0"}\n{"prompt":"a red apple, 1","seed":1}\n')
    assert main(words(lines, out)) == 0
    assert "is complete" in capsys.readouterr().err


def test_shards_that_nothing_explains_are_not_written_over(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(prompts(tmp_path, 2), out)
    main(command)
    (out / "manifest.json").unlink()
    assert main(command) == 1
    assert "without a manifest.json" in capsys.readouterr().err
    (out / "manifest.json").write_text('{"version": 9}')
    assert main(command) == 1
    assert "its version is 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["generate"], "Expected a PROMPT, or --prompts"),
        (["generate", "a fox", "--prompts", "list.csv"], "prompts were given twice: 'a fox'"),
        (["generate", "--prompts", "list.csv", "-n", "2"], "-n 2 is for a single prompt"),
        (["generate", "a fox", "--shard-size", "2"], "--shard-size is for a list"),
        (["generate", "a fox", "--format", "tar"], "--format is for a list"),
    ],
)
def test_what_does_not_go_together_is_refused(
    given: list[str], expected: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*given, "--out", str(out)]) == 1
    assert expected in capsys.readouterr().err and not out.exists()


def test_a_bad_list_stops_the_command_before_a_model_is_looked_for(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "list.csv"
    table.write_text("prompt,steps\n" + "a,2\n" * 16 + "a,many\n")
    assert main(words(table, out, "--model", "no such model")) == 1
    said = capsys.readouterr().err
    assert "row 17" in said and "no such model" not in said and not out.exists()


def test_a_bad_model_leaves_nothing_behind(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(prompts(tmp_path, 2), out, "--model", "tiny_upsampler.safetensors")) == 1
    assert "kind 'upsampler'" in capsys.readouterr().err and not out.exists()


def test_a_folder_that_cannot_be_written_to_is_named_first(
    tmp_path: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = prompts(tmp_path, 2)
    assert main(words(table, table / "inside")) == 1
    assert "is not a folder" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    assert main(words(table, out, "--model", "no such model")) == 1
    said = capsys.readouterr().err
    assert "is not writable" in said and "no such model" not in said


def test_a_row_that_the_model_cannot_draw_is_named(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "list.csv"
    table.write_text("prompt,cfg\na,1\nb,1e39\n")
    assert main(words(table, out)) == 1
    assert "row 2: " in capsys.readouterr().err
    assert (out / "shard-00000.partial" / "000001.png").exists()


def test_a_prompt_that_is_too_long_is_said_and_noted(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "list.csv"
    table.write_text("prompt\na\n" + "b " * 100 + "\n")
    assert main(words(table, out)) == 0
    assert "row 2: the prompt's last" in capsys.readouterr().err
    assert json.loads(samples(out)["000002.json"])["tokens_cut"] > 0
    assert "tokens_cut" not in json.loads(samples(out)["000001.json"])


def test_the_bar_counts_pictures_and_begins_where_the_last_run_ended(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(prompts(tmp_path, 4), out, "--shard-size", 2)
    command.remove("--quiet")
    main(command)
    assert "4/4" in capsys.readouterr().err
    (out / "shard-00001.tar").unlink()
    main(command)
    said = capsys.readouterr().err
    assert "2/4" in said and "4/4" in said and "0/4" not in said and "picture" in said
