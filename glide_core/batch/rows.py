"""Read a list of prompts: CSV, JSON lines, Parquet or plain text, one image per row.

Rows are read one at a time, from a file or any URL of fsspec, and count from 1 everywhere. A row
holds the settings that it has of its own, by the names of the options of `glide generate`.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from glide_core.batch.storage import open_file
from glide_core.errors import GlideError, shorten
from glide_core.names import SAMPLERS, TRAINED_STEPS, canonical_sampler

MAX_LINE = 2**20  # bytes
MAX_COLUMNS = 100

Value = str | int | float | tuple[int, int]
_Raw = tuple[str, Mapping[str, Any]]  # "row 3 (line 4)", cells that are not empty


@dataclass(frozen=True)
class Row:
    """One image of a list. Settings that are not in `settings` are the command's."""

    number: int  # from 1
    prompt: str
    seed: int | None = None
    settings: tuple[tuple[str, Value], ...] = ()  # sorted by name; "size" is ("base_size", (h, w))


def _not_a_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can hold half a character
        raise ValueError("expected Unicode text") from None
    return text


def _sampler(name: str) -> str:
    if canonical_sampler(name) not in SAMPLERS:
        raise ValueError(f"expected one of {', '.join(SAMPLERS)}")
    return canonical_sampler(name)


@lru_cache(maxsize=1024)
def _respacing(text: str) -> str:
    from glide_core.diffusion.schedule import space_timesteps

    plain = text.removesuffix(".0")  # a number in a column with gaps, as pandas writes it
    space_timesteps(TRAINED_STEPS, plain)
    return plain


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6})|\.0)?", text.strip().lower())
    if found is None:
        raise ValueError("expected a size such as 64 or 96x64")
    return int(found[2] or found[1]), int(found[1])


_Prompt = Annotated[str, AfterValidator(_unicode)]
_Text = Annotated[str, Field(coerce_numbers_to_str=True)]
_Steps = Annotated[int, BeforeValidator(_not_a_flag), Field(ge=1, le=TRAINED_STEPS)]
_Number = Annotated[float, BeforeValidator(_not_a_flag), Field(allow_inf_nan=False)]


class _Cells(BaseModel):
    """What a row may hold. Text and numbers are both accepted, as a CSV has text only."""

    model_config = ConfigDict(extra="forbid")

    prompt: _Prompt
    seed: Annotated[int, BeforeValidator(_not_a_flag), Field(ge=0, lt=2**64)] | None = None
    negative: _Prompt | None = None
    steps: _Steps | None = None
    respacing: Annotated[_Text, AfterValidator(_respacing)] | None = None
    sampler: Annotated[str, AfterValidator(_sampler)] | None = None
    eta: Annotated[_Number, Field(ge=0, le=1)] | None = None
    cfg: _Number | None = None
    clip_scale: _Number | None = None
    size: Annotated[_Text, AfterValidator(_size)] | None = None
    upsample_steps: _Steps | None = None
    upsample_cfg: _Number | None = None
    upsample_temperature: Annotated[_Number, Field(ge=0)] | None = None


COLUMNS = tuple(_Cells.model_fields)
_ALIASES = {"guidance_scale": "cfg", "negative_prompt": "negative"}
_OPTIONS = {"size": "base_size"}  # column: the option's name, where it is another


def read_rows(source: str | Path) -> Iterator[Row]:
    """Read and check a list row by row; GlideError names the row, the column and what is allowed.

    The format follows the suffix: .csv with a header, .jsonl or .ndjson with an object per line,
    .parquet, or .txt with a prompt per line (empty lines and lines that begin with # are skipped).
    """
    kinds: dict[str, Callable[[IO[bytes]], Iterator[_Raw]]] = {
        ".csv": _csv_rows,
        ".jsonl": _json_rows,
        ".ndjson": _json_rows,
        ".parquet": _parquet_rows,
        ".txt": _text_rows,
    }
    name = shorten(source, 200)
    kind = kinds.get(PurePosixPath(str(source)).suffix.lower())
    if kind is None:
        raise GlideError(
            f"{name} is not a list of prompts by its name. Expected one of {', '.join(kinds)}."
        )
    number = 0
    with open_file(str(source)) as file:
        try:
            for where, cells in kind(file):
                number += 1
                yield _row(number, where, cells)
        except GlideError as error:
            raise GlideError(f"{name}: {error}") from error
    if not number:
        raise GlideError(f"{name} has no rows. Expected at least one prompt.")


def _lines(file: IO[bytes]) -> Iterator[str]:
    """Decode line by line, so that an error can name the line."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise GlideError(f"line {number} is longer than {MAX_LINE:,} bytes")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")  # spreadsheets write a BOM
        except UnicodeDecodeError as error:
            raise GlideError(
                f"line {number} is not UTF-8: byte 0x{line[error.start]:02x}. Save the list as "
                "UTF-8 ('CSV UTF-8' in spreadsheet programs)."
            ) from error
        if "\0" in text:
            raise GlideError(f"line {number} has a NUL character. Expected text in UTF-8.")
        yield text


def _text_rows(file: IO[bytes]) -> Iterator[_Raw]:
    for line, text in enumerate(_lines(file), 1):
        if text.strip() and not text.lstrip().startswith("#"):
            yield f"line {line}", {"prompt": text.strip()}


def _csv_rows(file: IO[bytes]) -> Iterator[_Raw]:
    reader = csv.reader(_lines(file), strict=True)
    try:
        header = next((cells for cells in reader if cells), None)
        if header is None:
            raise GlideError("the list is empty. Expected a header line such as 'prompt,seed'.")
        names = _columns(header, "the header")
        for number, cells in enumerate(filter(None, reader), 1):
            where = f"row {number} (line {reader.line_num})"
            if len(cells) != len(names):
                raise GlideError(
                    f"{where} has {len(cells)} cells where the header has {len(names)}. Put a "
                    "prompt that contains a comma in double quotes."
                )
            filled = zip(names, cells, strict=True)
            yield where, {k: v for k, v in filled if v.strip() or k == "prompt"}
    except csv.Error as error:
        raise GlideError(
            f"line {reader.line_num} cannot be read as CSV: {shorten(error)}. Expected cells "
            "separated by commas, with double quotes around one that contains a comma, a quote or "
            "a line break."
        ) from error


def _json_rows(file: IO[bytes]) -> Iterator[_Raw]:
    filled = ((line, text) for line, text in enumerate(_lines(file), 1) if text.strip())
    for number, (line, text) in enumerate(filled, 1):
        where = f"row {number} (line {line})"
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise GlideError(f"{where} is not JSON: {shorten(error)}") from error
        if not isinstance(found, dict):
            raise GlideError(f"{where} is a {type(found).__name__}. Expected a JSON object.")
        yield where, dict(zip(_columns(found, where), found.values(), strict=True))


def _parquet_rows(file: IO[bytes]) -> Iterator[_Raw]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise GlideError("Parquet needs pyarrow: pip install pyarrow") from error
    try:
        table = parquet.ParquetFile(file)
        names = _columns(table.schema_arrow.names, "the schema")
        number = 0
        for batch in table.iter_batches(batch_size=256):
            for values in batch.to_pylist():
                number += 1
                yield f"row {number}", dict(zip(names, values.values(), strict=True))
    except (pyarrow.ArrowException, OSError) as error:
        raise GlideError(f"the file cannot be read as Parquet: {shorten(error, 200)}") from error


def _columns(cells: Iterable[str], where: str) -> list[str]:
    """Check the names of columns and return them in their one spelling."""
    given = list(cells)
    if len(given) > MAX_COLUMNS:
        raise GlideError(f"{where} has {len(given)} columns. Expected at most {MAX_COLUMNS}.")
    if len(given) == 1 and any(mark in given[0] for mark in ";\t"):
        raise GlideError(f"{where} is separated by semicolons or tabs. Expected commas.")
    plain = [name.strip().lower().replace("-", "_").replace(" ", "_") for name in given]
    names = [_ALIASES.get(name, name) for name in plain]
    if unknown := [name for name in names if name not in COLUMNS]:
        near = difflib.get_close_matches(unknown[0][:40], COLUMNS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = ", ".join(repr(shorten(ascii(name)[1:-1], 40)) for name in unknown[:5])
        raise GlideError(
            f"{where} has unknown columns: {listed}.{hint} Expected some of: {', '.join(COLUMNS)}."
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise GlideError(f"{where} has {', '.join(twice)} twice. Expected each column once.")
    if "prompt" not in names:
        raise GlideError(f"{where} has no prompt. Expected a column 'prompt'.")
    return names


def _row(number: int, where: str, cells: Mapping[str, Any]) -> Row:
    try:
        found = {k: v for k, v in _Cells.model_validate(cells) if v is not None}
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise GlideError(
            f"{where}, {first['loc'][0]}: {shorten(ascii(first['input']), 60)} is not possible: "
            f"{shorten(first['msg'].removeprefix('Value error, '), 300)}"
        ) from error
    if found.get("respacing") and "steps" in found:
        raise GlideError(f"{where} has steps and respacing. Expected one: respacing sets both.")
    if "steps" in found:
        found["respacing"] = ""  # or else the command's respacing would replace the row's steps
    prompt, seed = found.pop("prompt"), found.pop("seed", None)
    settings = {_OPTIONS.get(name, name): value for name, value in found.items()}
    return Row(number, prompt, seed, tuple(sorted(settings.items())))
