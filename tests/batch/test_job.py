"""`glide generate --prompts` on one machine: what it writes, skips, records and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from batch.lists import MODELS, failed, images, names, pixels, prompts, rows_of, samples, words
from images_on_disk import png_text

from glide_core.cli import main
from glide_core.errors import GlideError
from glide_core.pipeline import GlidePipeline


def test_every_row_becomes_an_image_with_metadata(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(prompts(tmp_path, 5), out, "--shard-size", 2)) == 0
    shards = [f"shard-0000000{a}-0000000{b}.tar" for a, b in ((1, 2), (3, 4), (5, 5))]
    assert names(out) == ["job.json", *shards]
    assert capsys.readouterr().out.split() == [str(out / name) for name in shards]

    found = samples(out)
    assert list(found) == [f"0000000{i}.{end}" for i in range(1, 6) for end in ("png", "json")]
    said = json.loads(found["00000005.json"])
    assert (said["row"], said["prompt"], said["seed"]) == (5, "a red apple, 1", 4)
    assert said["guidance_scale"] == 5 and said["steps"] == 2
    assert said["models"]["base"][0]["file"] == "tiny_base.safetensors"
    assert len(said["models"]["base"][0]["sha256"]) == 64
    (tmp_path / "one.png").write_bytes(found["00000005.png"])
    text = png_text(tmp_path / "one.png")
    assert json.loads(text["glide"])["seed"] == 4
    assert text["parameters"].startswith("a red apple, 1\n")


def test_an_image_is_the_same_in_any_batch_and_shard(tmp_path: Path, out: Path) -> None:
    table = prompts(tmp_path, 6)
    main(words(table, out / "one", "--shard-size", 1, "--batch", 1))
    main(words(table, out / "all", "--shard-size", 6, "--batch", 6))
    assert samples(out / "one") == samples(out / "all")
    assert len(set(images(out / "one").values())) == 6


def test_it_is_the_image_that_the_single_command_generates(tmp_path: Path, out: Path) -> None:
    table = tmp_path / "list.jsonl"
    row = {"prompt": "a car", "seed": 7, "negative": "blur", "sampler": "plms", "size": "72x64"}
    row |= {"upsample_steps": 1, "upsample_temperature": 0.5, "upsample_cfg": 2}
    row |= {"respacing": "ddim2", "cfg": 4}
    table.write_text(json.dumps(row))
    quick = [*MODELS, "--quiet", "--upsample-steps", "2"]
    assert main(["generate", "--prompts", str(table), "--out", str(out / "list"), *quick]) == 0
    own = [*MODELS, "--quiet", "--seed", "7", "--negative", "blur", "--sampler", "plms"]
    own += ["--size", "72x64", "--upsample-steps", "1", "--upsample-temperature", "0.5"]
    own += ["--respacing", "ddim2", "--upsample-cfg", "2", "--cfg", "4"]
    assert main(["generate", "a car", "--out", str(out / "alone"), *own]) == 0
    found = samples(out / "list")["00000001.png"]
    alone = (out / "alone" / "glide_00001_.png").read_bytes()
    assert pixels(found).shape == (256, 288, 3) and (pixels(found) == pixels(alone)).all()
    listed = json.loads(samples(out / "list")["00000001.json"])
    single = json.loads(png_text(out / "alone" / "glide_00001_.png")["glide"])
    assert {k: v for k, v in listed.items() if k not in ("row", "models", "dtype")} == {
        k: v for k, v in single.items() if k != "dtype"
    }


def test_a_row_can_be_guided_by_clip(tmp_path: Path, out: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("prompt,seed,clip_scale\na car,1,\na car,1,90\n")
    clip = ["--clip", "tiny_clip.safetensors"]
    assert main(words(table, out, *clip)) == 0
    found = images(out)
    assert len(set(found.values())) == 2
    single = ["generate", "a car", "--seed", "1", *words(table, out / "s", *clip)[5:]]
    assert main([*single, "--clip-scale", "90", "--out", str(out / "s")]) == 0
    alone = pixels((out / "s" / "glide_00001_.png").read_bytes())
    assert alone.tobytes() == found["00000002.png"]  # the default sampler follows the row too


def test_a_lora_applies_to_all_rows(tmp_path: Path, out: Path, tiny_lora: Path) -> None:
    table = prompts(tmp_path, 2)
    assert main(words(table, out / "without")) == 0
    assert main(words(table, out / "with", "--lora", f"{tiny_lora}:0.5")) == 0
    one = ["generate", "a red apple, 0", "--out", str(out / "one"), *words(table, out)[5:]]
    assert main([*one, "--lora", f"{tiny_lora}:0.5"]) == 0
    found = images(out / "with")
    assert found.keys() == images(out / "without").keys()
    assert found["00000001.png"] != images(out / "without")["00000001.png"]
    alone = pixels((out / "one" / "glide_00001_.png").read_bytes())
    assert found["00000001.png"] == alone.tobytes()
    assert main(words(table, out / "with", "--lora", f"{tiny_lora}:0.6")) == 1


def test_a_gpus_batch_is_always_full_and_changes_no_image(
    tmp_path: Path, out: Path, generated: list[list[Any]], request: pytest.FixtureRequest
) -> None:
    """Rows with the same settings go together; the last row is repeated to fill a batch."""
    table = prompts(tmp_path, 6)
    main(words(table, out / "alone"))
    generated.clear()

    request.getfixturevalue("on_gpu")
    main(words(table, out / "together", "--batch", 4))
    assert [len(batch) for batch in generated] == [4, 4, 4]  # five rows of one cfg, one of another
    assert all(len({r.settings for r in batch}) == 1 for batch in generated)
    alone, together = samples(out / "alone"), samples(out / "together")
    assert alone.keys() == together.keys()
    for name in filter(lambda name: name.endswith(".png"), alone):
        error = abs(pixels(alone[name]).astype(int) - pixels(together[name]))
        assert error.mean() < 0.01 and error.max() < 16  # sums of another order round differently


def test_a_row_that_fails_is_recorded_and_the_others_are_generated(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "list.csv"
    table.write_text("prompt,clip_scale\na,1\nb,1e38\nc,\nd,\ne,1e38\n")
    command = words(table, out, "--shard-size", 2, "--clip", "tiny_clip.safetensors")
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "1 rows of" in said and "failed.jsonl" in said
    assert rows_of(out) == [1, 3, 4]
    assert [(row["row"], row["prompt"]) for row in failed(out)] == [(2, "b"), (5, "e")]
    assert all(row["error"] for row in failed(out))
    assert main(command) == 0  # recorded rows are not tried again


def test_of_a_batch_only_the_row_that_fails_is_left_out(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, on_gpu: None
) -> None:
    generate = GlidePipeline.generate

    def picky(self: GlidePipeline, requests: Any, *more: Any) -> Any:
        if any(request.seed == 1 for request in requests):
            raise GlideError("seed 1 fails")
        return generate(self, requests, *more)

    monkeypatch.setattr(GlidePipeline, "generate", picky)
    assert main(words(prompts(tmp_path, 4), out, "--batch", 3)) == 1
    assert rows_of(out) == [1, 3, 4]
    assert failed(out) == [{"row": 2, "prompt": "a red apple, 1", "error": "seed 1 fails"}]


def test_other_errors_stop_the_job(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(GlidePipeline, "generate", broken)
    with pytest.raises(RuntimeError):
        main(words(prompts(tmp_path, 2), out))
    assert names(out) == ["job.json"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["generate"], "Expected PROMPT, or --prompts"),
        (["generate", "a fox", "--prompts", "list.csv"], "prompts were given twice: 'a fox'"),
        (["generate", "--prompts", "list.csv", "-n", "2"], "-n 2 is for a single prompt"),
        (["generate", "a fox", "--shard-size", "2"], "--shard-size is for a list"),
        (["generate", "a fox", "--format", "tar"], "--format is for a list"),
        (["generate", "a fox", "--ray"], "--ray is for a list"),
        (["generate", "--prompts", "list.csv", "--workers", "2"], "--workers is for Ray"),
    ],
)
def test_what_does_not_go_together_is_refused(
    given: list[str], expected: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*given, "--out", str(out)]) == 2
    assert expected in capsys.readouterr().err and not out.exists()


def test_a_url_is_for_lists_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a fox", "--out", "memory://out"]) == 2
    assert "is a URL" in capsys.readouterr().err


def test_a_bad_list_stops_the_command_before_a_model_is_looked_for(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "list.csv"
    for bad in ("a,many\n", "a,0\n"):
        table.write_text("prompt,steps\n" + "a,2\n" * 16 + bad)
        assert main(words(table, out, "--model", "no such model")) == 1
        said = capsys.readouterr().err
        assert "row 17" in said and "no such model" not in said and not out.exists()


def test_a_bad_model_leaves_nothing_behind(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(prompts(tmp_path, 2), out, "--model", "tiny_upsampler.safetensors")) == 1
    assert "upsampler" in capsys.readouterr().err
    assert not list(out.glob("shard-*"))


def test_a_folder_that_cannot_be_written_to_is_reported_first(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = prompts(tmp_path, 2)
    assert main(words(table, table / "inside", "--model", "no such model")) == 1
    said = capsys.readouterr().err
    assert "is not a folder" in said and "no such model" not in said


def test_a_prompt_that_is_too_long_is_reported(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "list.csv"
    table.write_text("prompt\na\n" + "b " * 100 + "\n")
    assert main(words(table, out)) == 0
    assert "tokens" in capsys.readouterr().err
