"""A list that was begun: what is generated again, what is kept, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from batch.lists import names, prompts, rows_of, samples, words

from glide_core.checkpoints import loading
from glide_core.cli import main
from glide_core.pipeline import GlidePipeline


def test_a_complete_list_loads_no_model(
    tmp_path: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = words(prompts(tmp_path, 3), out)
    main(command)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    monkeypatch.setattr(loading, "load_model", None)
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    said = capsys.readouterr()
    assert "is complete: 3 rows in 1 shards" in said.err and said.out == ""


def test_any_name_of_a_folder_resumes(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = out / "100% of #1, a::b"
    command = words(prompts(tmp_path, 2), folder)
    assert main(command) == main(command) == 0
    assert "is complete" in capsys.readouterr().err and rows_of(folder) == [1, 2]


def test_missing_shards_are_generated_and_finished_ones_are_not(
    tmp_path: Path, out: Path, generated: list[list[Any]]
) -> None:
    command = words(prompts(tmp_path, 6), out, "--shard-size", 2)
    main(command)
    whole = samples(out)
    (out / "shard-00000003-00000004.tar").unlink()
    generated.clear()
    assert main(command) == 0
    assert [r.seed for batch in generated for r in batch] == [2, 3]
    assert samples(out) == whole


def test_an_extended_list_resumes(tmp_path: Path, out: Path, generated: list[list[Any]]) -> None:
    size = ("--shard-size", 2)
    main(words(prompts(tmp_path, 3), out, *size))
    generated.clear()
    assert main(words(prompts(tmp_path, 6), out, *size)) == 0
    assert sum(map(len, generated)) == 3
    assert names(out)[1:] == [
        f"shard-0000000{a}-0000000{b}.tar" for a, b in ((1, 2), (3, 3), (4, 4), (5, 6))
    ]
    main(words(prompts(tmp_path, 6), out / "new", *size))
    assert samples(out) == samples(out / "new")


def test_an_interrupted_shard_leaves_nothing_and_the_others_stay(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = words(prompts(tmp_path, 6), out, "--shard-size", 2)
    generate = GlidePipeline.generate

    def interrupted(self: GlidePipeline, requests: Any, *more: Any) -> Any:
        if requests[0].seed == 3:
            raise KeyboardInterrupt
        return generate(self, requests, *more)

    with monkeypatch.context() as patch:
        patch.setattr(GlidePipeline, "generate", interrupted)
        assert main(command) == 130
    assert names(out) == ["job.json", "shard-00000001-00000002.tar"]
    assert main(command) == 0
    assert rows_of(out) == [1, 2, 3, 4, 5, 6]


def test_another_job_in_the_folder_is_refused_with_what_differs(
    tmp_path: Path, out: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = prompts(tmp_path, 3)
    main(words(table, out))
    before = samples(out)
    other = tmp_path / "other.csv"
    other.write_text(table.read_text().replace("apple, 1", "pear"))
    for changed, expected in (
        (words(other, out), "one of the first 3 rows has changed"),
        (words(prompts(tmp_path, 2), out), "list: 3 rows, now 2"),
        (words(table, out, "--cfg", 4), "guidance_scale: "),
        (words(table, out, "--seed", 4), "seed: 0, now 4"),
        (words(table, out, "--dtype", "bfloat16"), "dtype: float32, now bfloat16"),
        (words(table, out, "--model", "tiny_inpaint.safetensors"), "models: "),
        (words(table, out, "--format", "parquet"), "format: tar, now parquet"),
    ):
        assert main(changed) == 1
        said = capsys.readouterr().err
        assert str(out) in said and expected in said and "--out" in said
    assert samples(out) == before


def test_shards_without_a_job_are_not_continued(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(prompts(tmp_path, 2), out)
    main(command)
    (out / "job.json").unlink()
    assert main(command) == 1
    assert "has shards but no job.json" in capsys.readouterr().err
    for junk in ("{", "[]", '{"rows": 1}', '{"rows": "1", "rows_sha256": "", "settings": {}}'):
        (out / "job.json").write_text(junk)
        assert main(command) == 1
        assert "is not a job of this version" in capsys.readouterr().err


def test_the_bar_counts_images_and_begins_where_the_last_run_ended(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(prompts(tmp_path, 4), out, "--shard-size", 2)
    command.remove("--quiet")
    main(command)
    assert "4/4" in capsys.readouterr().err
    (out / "shard-00000003-00000004.tar").unlink()
    main(command)
    said = capsys.readouterr().err
    assert "2/4" in said and "4/4" in said and "0/4" not in said and "image" in said
