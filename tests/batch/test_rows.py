"""A list of prompts is read row by row, and what is wrong with it is named by row and column."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glide_core.batch import rows as module
from glide_core.batch.rows import COLUMNS, Row, read_rows
from glide_core.cli.images import add_generate, request_of_row
from glide_core.data.listing import list_images
from glide_core.data.tables import read_table
from glide_core.errors import GlideError


def rows_of(folder: Path, text: str | bytes, name: str = "list.csv") -> list[Row]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_rows(path))


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
    assert table == lines
    assert (table[0].number, table[0].prompt, table[0].seed) == (1, "a red apple", 7)
    assert table[0].settings == {"base_size": (64, 96), "cfg": 2.5}


def test_a_row_without_a_seed_has_the_commands_plus_the_rows_before_it(tmp_path: Path) -> None:
    parser = ArgumentParser()
    add_generate(parser)
    command = parser.parse_args(["--seed", "40", "--respacing", "fast27"])
    rows = rows_of(tmp_path, "prompt,steps,seed\na,,\nb,10,3\nc,,\n")
    found = [request_of_row(command, row) for row in rows]
    assert [request.seed for request in found] == [40, 3, 42]
    # a row's steps replace the command's respacing
    assert [r.base.respacing for r in found if r.base] == ["fast27", "", "fast27"]


def test_the_commands_seed_wraps_around_like_that_of_several_images(tmp_path: Path) -> None:
    parser = ArgumentParser()
    add_generate(parser)
    command = parser.parse_args(["--seed", str(2**64 - 1)])
    rows = rows_of(tmp_path, f"prompt,seed\na,\nb,\nc,{2**64 - 1}\n")
    found = [request_of_row(command, row) for row in rows]
    assert [request.seed for request in found] == [2**64 - 1, 0, 2**64 - 1]


def test_the_default_sampler_follows_a_rows_clip_guidance(tmp_path: Path) -> None:
    parser = ArgumentParser()
    add_generate(parser)
    for given_sampler in ([], ["--sampler", "plms"]):
        command = parser.parse_args(given_sampler)
        single = [
            parser.parse_args([*given_sampler, "--clip-scale", scale]) for scale in ("0", "2")
        ]
        found = rows_of(tmp_path, "prompt,clip_scale\na,0\na,2\n")
        plain = Row(1, "a")
        for row, own in zip(found, single, strict=True):
            base = request_of_row(command, row).base
            assert base == request_of_row(own, plain).base


def test_a_text_file_has_a_prompt_per_line(tmp_path: Path) -> None:
    found = rows_of(tmp_path, "# subjects\n\na fox, red\n  a car \n", "list.txt")
    assert [(row.number, row.prompt) for row in found] == [(1, "a fox, red"), (2, "a car")]


def test_equal_rows_are_two_images(tmp_path: Path) -> None:
    first, second = rows_of(tmp_path, "prompt,seed\na,1\na,1\n")
    assert first != second and first.number == 1 and second.number == 2


def test_spellings_of_spreadsheets_are_read(tmp_path: Path) -> None:
    (row,) = rows_of(
        tmp_path, b"\xef\xbb\xbfPrompt,Guidance Scale,seed,Size\r\n\r\na fox,4,12.0,64.0\r\n"
    )
    assert row.seed == 12 and row.settings == {"cfg": 4.0, "base_size": (64, 64)}


@pytest.mark.parametrize("separator", ";\t")
def test_a_csv_may_be_separated_by_semicolons_or_tabs(separator: str, tmp_path: Path) -> None:
    text = "prompt,seed\na fox,1\n".replace(",", separator)
    assert rows_of(tmp_path, text) == rows_of(tmp_path, "prompt,seed\na fox,1\n")


def test_a_prompt_can_be_empty_hold_line_breaks_and_any_language(tmp_path: Path) -> None:
    found = rows_of(tmp_path, 'prompt,seed\n,1\n"a\nb",2\n\u72d0\U0001f98a,3\n')
    assert [row.prompt for row in found] == ["", "a\nb", "\u72d0\U0001f98a"]


SEVENTEEN = "prompt,steps\n" + "a,5\n" * 16


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("", "list.csv", ["empty", "header"]),
        ("prompt,seed\n", "list.csv", ["no rows"]),
        ("\n\n", "list.jsonl", ["no rows"]),
        ("words,seed\na,1\n", "list.csv", ["header", "'words'", "prompt"]),
        ("seed,cfg\n1,2\n", "list.csv", ["no prompt"]),
        ("prompt,sed\na,1\n", "list.csv", ["'sed'", "Did you mean 'seed'?", "upsample_steps"]),
        ("prompt,cfg,guidance_scale\na,1,2\n", "list.csv", ["cfg twice"]),
        ("prompt,seed\na, b,1\n", "list.csv", ["row 1 (line 2)", "3 cells", "quotes"]),
        ('prompt,seed\n"a,1\n', "list.csv", ["CSV"]),
        (SEVENTEEN + "a,many\n", "list.csv", ["row 17 (line 18)", "steps", "'many'", "integer"]),
        (
            SEVENTEEN + "a,0\n",
            "list.csv",
            ["row 17 (line 18)", "steps", "1 to 1,000"],
        ),
        ("prompt,seed\na,-1\n", "list.csv", ["row 1", "seed", "0 to 18,446,"]),
        ("prompt,cfg\na,nan\n", "list.csv", ["row 1", "cfg"]),
        ("prompt,size\na,6x\n", "list.csv", ["row 1", "size", "96x64"]),
        ("prompt,sampler\na,magic\n", "list.csv", ["row 1", "sampler", "ddim"]),
        ("prompt,respacing\na,swift9\n", "list.csv", ["row 1", "respacing", "swift9"]),
        ("prompt,steps,respacing\na,5,fast27\n", "list.csv", ["row 1", "steps and respacing"]),
        (b"prompt\nok\ncaf\xe9\n", "list.csv", ["not UTF-8", "line 3", "0xe9"]),
        ("prompt\na\0b\n", "list.csv", ["NUL", "line 2"]),
        ("prompt\na\n", "list.xls", [".csv", ".jsonl"]),
        ('{"prompt": "a"}\n{"prompt": \n', "list.jsonl", ["row 2 (line 2)", "not JSON"]),
        ('["a"]\n', "list.jsonl", ["JSON array", "one object per line"]),
        ('{"prompt": "a", "sed": 1}\n', "list.jsonl", ["row 1", "'sed'", "seed"]),
        ('{"seed": 1}\n', "list.jsonl", ["row 1", "no prompt"]),
        ('{"prompt": null}\n', "list.jsonl", ["row 1", "prompt", "string"]),
        ('{"prompt": 7}\n', "list.jsonl", ["row 1", "prompt", "string"]),
        ('{"prompt": "a", "steps": true}\n', "list.jsonl", ["row 1", "steps", "integer"]),
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


def test_a_list_that_is_missing_or_not_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GlideError, match=r"none\.csv cannot be read"):
        list(read_rows(tmp_path / "none.csv"))
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(GlideError, match="not a regular file"):
        list(read_rows(tmp_path / "pipe.csv"))


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("prompt" + ",x" * 1_000_000, "list.csv", "line 1 is longer than"),
        ("prompt" + ",x" * 100_000, "list.csv", "unknown columns"),
        (json.dumps({f"c{i}": 1 for i in range(50_000)}), "list.jsonl", "unknown columns"),
        (json.dumps({"x" * 500_000: 1, "prompt": ""}), "list.jsonl", "unknown columns"),
        ("prompt,cfg\na," + "9" * 100_000, "list.csv", "cfg"),
        ("prompt,steps\na," + "9" * 100_000, "list.csv", "steps"),
        ('prompt\n"' + "a\n" * 200_000, "list.csv", "CSV"),
        ('{"prompt": ' + "[" * 100_000, "list.jsonl", "not JSON"),
        ('{"prompt": ' + "[" * 500 + "]" * 500 + "}", "list.jsonl", "prompt"),
    ],
)
def test_large_and_deep_lists_end_in_a_short_message(
    text: str, name: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(GlideError, match=words) as error:
        rows_of(tmp_path, text, name)
    assert len(str(error.value)) < 1500


def test_rows_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(module, "_row", lambda number, *_: made.append(number) or number)
    path = tmp_path / "list.csv"
    path.write_text("prompt\n" + "a\n" * 100)
    reader = read_rows(path)
    assert next(reader) == 1 and made == [1]


CELL = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
NAMES = st.sampled_from([*COLUMNS, "Guidance Scale", "x", ""])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(NAMES, CELL | st.lists(CELL, max_size=2), max_size=4), max_size=3))
def test_any_json_lines_are_read_or_refused(lines: list[dict[str, object]]) -> None:
    where = ("row 1", "row 1 (line 1)")
    for line in lines:
        try:
            names = module._columns(list(json.loads(json.dumps(line))), where[0])
            row = module._row(1, where[1], dict(zip(names, line.values(), strict=True)))
        except GlideError as error:
            assert len(str(error)) < 1000
        else:
            row.prompt.encode()
            assert row.seed is None or 0 <= row.seed < 2**64


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: f"prompt,seed\n{t}".encode()))
def test_any_bytes_are_a_list_or_refused(content: bytes) -> None:
    import io

    for suffix in (".csv", ".jsonl", ""):
        file = io.BufferedReader(io.BytesIO(content))  # type: ignore[arg-type]
        try:
            for _, cells in read_table(file, suffix, lambda names: module._columns(names, "it")):
                if not isinstance(cells, str):
                    module._row(1, "row 1", cells)
        except GlideError as error:
            assert len(str(error)) < 1500


def test_every_option_that_shapes_an_image_is_a_column_or_the_whole_jobs() -> None:
    """A new option of the command must be considered here too."""
    parser = ArgumentParser()
    add_generate(parser)
    columns = {module._OPTIONS.get(name, name) for name in COLUMNS}
    job_wide = {
        "model",
        "upsampler",
        "clip",
        "no_upsample",
        "dtype",
        "compile",
        "lora",
        "clip_guided",
        "clip_prompt",
        "preset",
    }
    lists = {"prompts", "shard_size", "format", "ray", "workers"}
    no_matter = {"out", "quiet", "device", "batch", "n", "threads", "roles"}
    assert set(vars(parser.parse_args([]))) == columns | job_wide | lists | no_matter


def test_parquet_values_that_python_does_not_have_are_one_error(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for kind in (pyarrow.timestamp("ns"), pyarrow.duration("s")):
        seeds = pyarrow.array([2**62 + 1], kind)
        parquet.write_table(pyarrow.table({"prompt": ["a"], "seed": seeds}), tmp_path / "x.parquet")
        with pytest.raises(GlideError, match=r"x\.parquet"):
            list(read_rows(tmp_path / "x.parquet"))


def test_parquet_lists_of_any_form_are_read_or_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    tables: dict[str, dict[str, Any]] = {
        "text that is not UTF-8": {"prompt": broken},
        "bytes": {"prompt": pa.array([b"\xff"])},
        "more text than a line may have": {"prompt": ["a " * 2**20]},
        "a struct": {"prompt": pa.array([{"a": 1}])},
        "a list": {"prompt": pa.array([["a", "b"]])},
        "a map": {"prompt": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))},
        "a late date": {"prompt": ["a"], "seed": pa.array([2**31 - 1], pa.date32())},
        "a late time": {"prompt": ["a"], "seed": pa.array([2**40], pa.timestamp("s"))},
        "an unknown time zone": {"prompt": ["a"], "seed": pa.array([1], pa.timestamp("s", "X/Y"))},
        "a long number": {"prompt": ["a"], "seed": pa.array([10**30], pa.decimal128(38, 0))},
        "nothing but nulls": {"prompt": pa.nulls(3)},
        "no rows": {"prompt": pa.array([], pa.string())},
        "no columns": {},
        "a column without a name": {"": ["a"]},
        "a thousand columns": {f"c{i}": [1] for i in range(1000)},
    }
    for name, columns in tables.items():
        path = tmp_path / "x.parquet"
        parquet.write_table(pa.table(columns), path)
        with pytest.raises(GlideError, match=r"x\.parquet") as caught:
            print(name, list(read_rows(path)))
        assert len(str(caught.value)) < 600
        images = {{"prompt": "image"}.get(key, key): values for key, values in columns.items()}
        parquet.write_table(pa.table({**images, "caption": images.get("image", ["a"])}), path)
        with suppress(GlideError):
            list_images(path)
