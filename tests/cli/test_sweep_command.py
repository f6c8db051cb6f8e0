"""`glide sweep` on tiny models: output, resuming and errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from glide_core.cli import main
from glide_core.cli.sweep import read_requests
from glide_core.diffusion.types import StepInfo
from glide_core.errors import GlideError

QUICK = ["--steps", "2", "--model", "tiny_base.safetensors", "--scorer", "clipped", "--quiet"]


@pytest.fixture
def prompts(tmp_path: Path, model_folder: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("# two\na red apple\n\na blue car\n", encoding="utf-8")
    return path


def sweep(prompts: Path, *words: object, quick: list[str] = QUICK) -> int:
    out = prompts.parent / "out"
    given = ["sweep", "--prompts", prompts, "--out", out, *quick, *words]
    return main([str(word) for word in given])


def rows(prompts: Path) -> list[dict[str, str]]:
    with (prompts.parent / "out" / "sweep.csv").open(encoding="utf-8", newline="") as file:
        return [
            {key.split(" ")[0]: value for key, value in row.items()} for row in csv.DictReader(file)
        ]


def test_a_table_a_grid_and_plots_are_written(
    prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--clip-scale", "0,2", "--clip", "tiny_clip.safetensors", "-n", 2]
    scorers = ["--scorer", "clip:tiny_clip.safetensors", "--scorer", "diversity"]
    assert sweep(prompts, "--cfg", "1,3", *words, *scorers) == 0
    found = rows(prompts)
    assert [(row["guidance_scale"], row["clip_scale"]) for row in found] == [
        ("1", "0"),
        ("1", "2"),
        ("3", "0"),
        ("3", "2"),
    ]
    assert {row["sampler"] for row in found} == {"ddpm"}  # with CLIP guidance, as in the paper
    assert {row["images"] for row in found} == {"4"}
    out = prompts.parent / "out"
    written = [Path(line) for line in capsys.readouterr().out.split()]
    assert all(path.is_file() and path.parent == out for path in written)
    kinds = [path.suffix for path in written]
    assert written[0].name == "sweep.csv" and kinds.count(".svg") == kinds.count(".png") - 1 >= 2
    assert len(list((out / "images").iterdir())) == 4
    assert Image.open(out / "grid.png").width > 400
    assert not list(out.rglob(".*"))


def test_interrupted_by_ctrl_c_it_keeps_its_rows_and_resumes(
    prompts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded: list[tuple[int, int]] = []
    stop_at: list[int] = [2]

    @contextmanager
    def step_bars(**options: Any) -> Iterator[Any]:
        def step(stage: str, info: StepInfo) -> None:
            recorded.append((info.index, info.total))
            if info.index in stop_at:
                raise KeyboardInterrupt

        yield step

    monkeypatch.setattr("glide_core.stages.step_bars", step_bars)
    assert sweep(prompts, "--cfg", "1,2,3") == 130
    assert recorded == [(0, 6), (1, 6), (2, 6)]  # at once, in the second cell
    (first,) = rows(prompts)
    assert not (prompts.parent / "out" / "grid.png").exists()
    stop_at.clear()
    recorded.clear()
    assert sweep(prompts, "--cfg", "1,2,3") == 0
    assert recorded[0] == (0, 4)  # what is left
    after = rows(prompts)
    assert after[0] == first and [row["guidance_scale"] for row in after] == ["1", "2", "3"]
    recorded.clear()
    assert sweep(prompts, "--cfg", "1,2,3,4") == 0  # the grid grows
    assert len(recorded) == 2 and rows(prompts)[:3] == after
    recorded.clear()
    assert sweep(prompts, "--cfg", "1,4") == 0
    assert recorded == [] and len(rows(prompts)) == 4  # nothing is generated, nothing is lost


def test_another_sweep_in_the_same_folder_is_refused(
    prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(prompts, "--cfg", "1") == 0
    before = (prompts.parent / "out" / "sweep.csv").read_bytes()
    for words, named in (
        (["--seed", 5], "seed"),
        (["-n", 2], "images per prompt"),
        (["--scorer", "diversity"], "scorers"),
    ):
        assert sweep(prompts, "--cfg", "1", *words) == 1
        assert f"holds a sweep with other {named}" in capsys.readouterr().err
    prompts.write_text("a cat\n")
    assert sweep(prompts, "--cfg", "1") == 1
    assert (prompts.parent / "out" / "sweep.csv").read_bytes() == before
    known = json.loads((prompts.parent / "out" / "sweep.json").read_text())
    assert known["prompts"] == ["a red apple", "a blue car"] and known["clip"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scorer", "beauty"], "Unknown scorer 'beauty'"),
        (["--scorer", "clip:tiny_base.safetensors"], "noisy CLIP"),
        (["--scorer", "frechet:nowhere"], "nowhere was not found"),
        (["--model", "tiny_upsampler.safetensors"], "upsampler"),
        (["--clip-scale", "1", "--clip", "nothing.safetensors"], "model 'nothing"),
        (["--prompts", "nowhere.txt"], "nowhere.txt cannot be read"),
    ],
)
def test_an_impossible_sweep_is_one_line_of_error(
    prompts: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(prompts, *words) in (1, 2)
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (prompts.parent / "out" / "sweep.csv").exists()


@pytest.mark.parametrize(
    ("content", "said"), [("# only this\n\n", "has no rows"), ("a\nb\na\n", "'a' twice")]
)
def test_the_prompt_lists_have_no_duplicates(
    prompts: Path, content: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts.write_text(content)
    assert sweep(prompts) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--cfg", "1,x"], ["--steps", "0"], ["--sampler", "magic"]])
def test_a_bad_list_is_wrong_usage(
    prompts: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        sweep(prompts, *words)
    assert stopped.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", "prompt,seed\na red apple,5\na blue car,\n"),
        ("list.jsonl", '{"prompt": "a red apple", "seed": 5}\n{"prompt": "a blue car"}\n'),
    ],
)
def test_prompts_are_the_lists_of_generate(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    found = [(one.prompt, one.seed) for one in read_requests(path, 2, 100)]
    apple, car = "a red apple", "a blue car"
    assert found == [(apple, 5), (apple, 6), (car, 102), (car, 103)]


def test_a_column_that_the_grid_sets_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("prompt,cfg\na red apple,3\n")
    with pytest.raises(GlideError, match=r"row 1 sets cfg: expected prompt and seed"):
        read_requests(path, 1, 0)
