"""Read a list of prompts: CSV, JSON lines, Parquet or plain text, one image per row.

Rows are read one at a time, from a file or any URL of fsspec, and count from 1 everywhere. A row
holds the settings that it has of its own, by the names of the options of `glide generate`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from glide_core.data.tables import Row as TableRow
from glide_core.data.tables import lines, open_file, read_table
from glide_core.errors import GlideError, shorten
from glide_core.names import SAMPLERS, TRAINED_STEPS, canonical_sampler

SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet", ".txt")
MAX_COLUMNS = 100

Value = str | int | float | tuple[int, int]


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
    name, suffix = shorten(source, 200), PurePosixPath(str(source)).suffix.lower()
    if suffix not in SUFFIXES:
        raise GlideError(
            f"{name} is not a list of prompts by its name. Expected one of {', '.join(SUFFIXES)}."
        )
    number = 0
    with open_file(str(source)) as file:
        header = partial(_columns, where="the header")
        table = _text(file) if suffix == ".txt" else read_table(file, suffix, header)
        for number, (line, cells) in enumerate(table, 1):
            where = f"row {number} (line {line})" if line else f"row {number}"
            if isinstance(cells, str):
                raise GlideError(f"{where} {cells}")
            if suffix in (".jsonl", ".ndjson"):
                cells = dict(zip(_columns(list(cells), where), cells.values(), strict=True))
            yield _row(number, where, cells)
    if not number:
        raise GlideError(f"{name} has no rows. Expected at least one prompt.")


def _text(file: BufferedReader) -> Iterator[TableRow]:
    for number, line in enumerate(lines(file), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, {"prompt": line.strip()}


def _columns(given: list[str], where: str) -> list[str]:
    """Check the names of columns and return them in their one spelling."""
    if not given:
        raise GlideError("the list is empty. Expected a header line such as 'prompt,seed'.")
    if len(given) > MAX_COLUMNS:
        raise GlideError(f"{where} has {len(given)} columns. Expected at most {MAX_COLUMNS}.")
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
        cells = {"prompt": "", **cells}  # a CSV row may leave out what is empty
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
