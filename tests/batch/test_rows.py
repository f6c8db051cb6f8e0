"""A list of prompts is read whole, and what is wrong with it is named by row and column."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

from glide_core.batch.rows import _DESTINATIONS, COLUMNS, RowList, read_rows
from glide_core.cli import generate
from glide_core.errors import GlideError

COMMAND = Namespace(seed=40, steps=30, respacing="", cfg=3.0, base_size=None, negative="")


def written(folder: Path, text: str | bytes, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows_of(folder: Path, text: str | bytes, name: str = "list.csv") -> RowList:
    return read_rows(written(folder, text, name))


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    table = rows_of(
        tmp_path,
        'prompt,seed,cfg,size,steps\na red apple,7,2.5,96x64,\n"a car, blue",,,,25\n',
    )
    lines = rows_of(
        tmp_path,
        '{"prompt": "a red apple", "seed": 7, "cfg": 2.5, "size": "96x64"}\n\n'
        '{"steps": 25, "prompt": "a car, blue", "seed": null}\n',
        "list.jsonl",
    )
    assert table.rows == lines.rows
    assert table.rows_sha256 == lines.rows_sha256
    assert table.file_sha256 != lines.file_sha256
    first = table.rows[0]
    assert (first.number, first.prompt, first.seed) == (1, "a red apple", 7)
    assert dict(first.given) == {"base_size": (64, 96), "cfg": 2.5}


def test_what_a_row_leaves_out_is_the_commands(tmp_path: Path) -> None:
    found = rows_of(tmp_path, "prompt,cfg,seed\na,,\nb,5,3\nc,,\n").rows
    own = [row.options(COMMAND) for row in found]
    assert [o.cfg for o in own] == [3.0, 5.0, 3.0]
    assert [o.seed for o in own] == [40, 3, 42]  # as -n counts on from --seed
    assert [o.prompt for o in own] == ["a", "b", "c"]


def test_a_rows_steps_win_over_the_commands_respacing(tmp_path: Path) -> None:
    command = Namespace(**{**vars(COMMAND), "respacing": "fast27"})
    found = rows_of(tmp_path, "prompt,steps\na,10\nb,\n").rows
    assert [row.options(command).respacing for row in found] == ["", "fast27"]


def test_equal_rows_are_two_pictures(tmp_path: Path) -> None:
    first, second = rows_of(tmp_path, "prompt,seed\na,1\na,1\n").rows
    assert first != second and first.number == 1 and second.number == 2


def test_spellings_of_spreadsheets_are_read(tmp_path: Path) -> None:
    found = rows_of(
        tmp_path, b"\xef\xbb\xbfPrompt,Guidance Scale,seed\r\n\r\na fox,4,12.0\r\n"
    ).rows
    assert len(found) == 1 and found[0].seed == 12
    assert dict(found[0].given) == {"cfg": 4.0}


def test_a_prompt_can_be_empty_hold_line_breaks_and_any_language(tmp_path: Path) -> None:
    found = rows_of(tmp_path, 'prompt,seed\n,1\n"a\nb",2\n\u72d0\U0001f98a,3\n').rows
    assert [row.prompt for row in found] == ["", "a\nb", "\u72d0\U0001f98a"]


SEVENTEEN = "prompt,steps\n" + "a,5\n" * 16


def test_a_text_file_has_one_prompt_per_line(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# a comment\na fox, red\n\n  a cat \n", encoding="utf-8")
    assert [(row.number, row.prompt) for row in read_rows(path).rows] == [
        (1, "a fox, red"),
        (2, "a cat"),
    ]


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("", "list.csv", ["empty", "header"]),
        ("prompt,seed\n", "list.csv", ["no row", "below the header"]),
        ("\n\n", "list.jsonl", ["no row"]),
        ("words,seed\na,1\n", "list.csv", ["header", "'words'", "prompt"]),
        ("seed,cfg\n1,2\n", "list.csv", ["no prompt"]),
        ("prompt,sed\na,1\n", "list.csv", ["'sed'", "Did you mean 'seed'?", "upsample_steps"]),
        ("prompt,cfg,guidance_scale\na,1,2\n", "list.csv", ["cfg twice"]),
        ("prompt;seed\na;1\n", "list.csv", ["semicolons", "commas"]),
        ("prompt,seed\na, b,1\n", "list.csv", ["row 1 (line 2)", "3 cells", "quotes"]),
        ('prompt,seed\n"a,1\n', "list.csv", ["line 2", "CSV"]),
        (SEVENTEEN + "a,many\n", "list.csv", ["row 17 (line 18)", "steps", "'many'", "1 to 1000"]),
        (SEVENTEEN + "a,0\n", "list.csv", ["row 17 (line 18)", "steps", "too small"]),
        ("prompt,seed\na,-1\n", "list.csv", ["row 1", "seed", "0 to 2^64"]),
        ("prompt,cfg\na,nan\n", "list.csv", ["row 1", "cfg"]),
        ("prompt,size\na,65\n", "list.csv", ["row 1", "size", "multiples of 8"]),
        ("prompt,sampler\na,magic\n", "list.csv", ["row 1", "sampler", "ddpm"]),
        ("prompt,respacing\na,swift9\n", "list.csv", ["row 1", "respacing", "swift9"]),
        ("prompt,steps,respacing\na,5,fast27\n", "list.csv", ["row 1", "steps and respacing"]),
        (b"prompt\nok\ncaf\xe9\n", "list.csv", ["not UTF-8", "line 3", "0xe9"]),
        ("prompt\na\0b\n", "list.csv", ["NUL", "line 2"]),
        ("prompt\na\n", "list.xlsx", [".csv", ".jsonl", ".txt"]),
        ('{"prompt": "a"}\n{"prompt": \n', "list.jsonl", ["row 2 (line 2)", "not JSON"]),
        ('["a"]\n', "list.jsonl", ["row 1", "list", "object"]),
        ('{"prompt": "a", "sed": 1}\n', "list.jsonl", ["row 1", "'sed'", "seed"]),
        ('{"seed": 1}\n', "list.jsonl", ["row 1", "no prompt"]),
        ('{"prompt": null}\n', "list.jsonl", ["row 1", "no prompt"]),
        ('{"prompt": 7}\n', "list.jsonl", ["row 1", "prompt", "string"]),
        ('{"prompt": "a", "steps": true}\n', "list.jsonl", ["row 1", "steps", "number"]),
        ('{"prompt": "a", "size": [64, 64]}\n', "list.jsonl", ["row 1", "size"]),
        ('{"prompt": "a\\ud800"}\n', "list.jsonl", ["row 1", "prompt", "Unicode"]),
    ],
)
def test_a_bad_list_is_explained(
    text: str | bytes, name: str, expected: list[str], tmp_path: Path
) -> None:
    with pytest.raises(GlideError) as error:
        rows_of(tmp_path, text, name)
    assert name in str(error.value)
    for words in expected:
        assert words in str(error.value)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(GlideError, match=r"none\.csv cannot be read"):
        read_rows(tmp_path / "none.csv")


def test_every_option_that_shapes_a_picture_is_a_column_or_the_whole_jobs() -> None:
    """A new option of the command must be thought of here too."""
    parser = ArgumentParser()
    generate.add_arguments(parser)
    columns = {_DESTINATIONS.get(name, name) for name in COLUMNS}
    job_wide = {"model", "upsampler", "clip", "no_upsample", "dtype"}
    no_matter = {"prompts", "shard_size", "format", "out", "quiet", "device", "batch", "n"}
    refused = {"lora"}  # beside --prompts
    assert set(vars(parser.parse_args([]))) == columns | job_wide | no_matter | refused
