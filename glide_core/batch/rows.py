"""Read a list of prompts: CSV, JSON lines, Parquet or plain text, one image per row.

Rows are read one at a time, from a file or any URL of fsspec, and count from 1 everywhere. Columns
have the names of options of `glide generate`, and their values are read as those of the options.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any

from glide_core import text_values
from glide_core.data.tables import MAX_LINE, lines, open_file, read_table
from glide_core.data.tables import Row as TableRow
from glide_core.errors import GlideError, as_glide_error, shorten
from glide_core.names import TRAINED_STEPS

SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet", ".txt")


@dataclass(frozen=True)
class Row:
    """One image of a list."""

    number: int  # from 1
    prompt: str
    seed: int | None = None
    # by the names of the command's options, sorted; "base_size" is (height, width)
    settings: Mapping[str, Any] = field(default_factory=dict)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise GlideError(f"{shorten(ascii(value), 60)} is not a string")
    if len(value) > MAX_LINE:  # as in the other formats, which are read by line
        raise GlideError(f"the text is longer than {MAX_LINE:,} characters")
    # JSON can hold half a character
    with as_glide_error(f"{shorten(ascii(value), 60)} is not Unicode text", UnicodeEncodeError):
        value.encode()
    return value


@lru_cache(maxsize=1024)
def _respacing(text: str) -> str:
    from glide_core.diffusion.schedule import space_timesteps

    space_timesteps(TRAINED_STEPS, text)
    return text


COLUMNS: dict[str, Callable[[str], Any]] = {
    "prompt": _text,
    "seed": text_values.seed,
    "negative": _text,
    "steps": text_values.step_count,
    "respacing": _respacing,
    "sampler": text_values.sampler,
    "eta": text_values.fraction,
    "cfg": text_values.scale,
    "clip_scale": text_values.number,
    "size": text_values.size,
    "upsample_steps": text_values.step_count,
    "upsample_cfg": text_values.scale,
    "upsample_temperature": text_values.temperature,
}
_ALIASES = {"guidance_scale": "cfg", "negative_prompt": "negative"}
_OPTIONS = {"size": "base_size"}  # column: the option's name, where it is another
_ZEROS = re.compile(r"\.0+$")  # of an integer in a column with gaps, as pandas writes it


def read_rows(source: str | Path) -> Iterator[Row]:
    """Read and check a list row by row; GlideError names the row, the column and what is allowed.

    The format follows the suffix: .csv with a header, .jsonl or .ndjson with an object per line,
    .parquet, or .txt with a prompt per line (empty lines and lines that begin with # are skipped).
    """
    name, suffix = shorten(source, 200), PurePosixPath(str(source)).suffix.lower()
    if suffix not in SUFFIXES:
        raise GlideError(f"{name} is not a list of prompts: expected {', '.join(SUFFIXES)}")
    number = 0
    with open_file(str(source)) as file:
        header = partial(_columns, where="the header")
        table = _lines(file) if suffix == ".txt" else read_table(file, suffix, header)
        for number, (line, cells) in enumerate(table, 1):
            where = f"row {number} (line {line})" if line else f"row {number}"
            if isinstance(cells, str):
                raise GlideError(f"{where} {cells}")
            if suffix in (".jsonl", ".ndjson"):
                cells = dict(zip(_columns(list(cells), where), cells.values(), strict=True))
            yield _row(number, where, cells)
    if not number:
        raise GlideError(f"{name} has no rows. Expected at least one prompt.")


def _lines(file: BufferedReader) -> Iterator[TableRow]:
    for number, line in enumerate(map(str.strip, lines(file)), 1):
        if line and not line.startswith("#"):
            yield number, {"prompt": line}


def _columns(given: list[str], where: str) -> list[str]:
    """Check the names of columns and return them in their one spelling."""
    if not given:
        raise GlideError("the list is empty. Expected a header line such as 'prompt,seed'.")
    plain = [name.strip().lower().replace("-", "_").replace(" ", "_") for name in given]
    names = [_ALIASES.get(name, name) for name in plain]
    if unknown := [name for name in names if name not in COLUMNS]:
        near = difflib.get_close_matches(unknown[0][:40], COLUMNS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = ", ".join(shorten(ascii(name), 40) for name in unknown[:5])
        raise GlideError(
            f"{where} has unknown columns: {listed}.{hint} Expected some of: {', '.join(COLUMNS)}."
        )
    if len(names) > len(set(names)):
        twice = [name for name in COLUMNS if names.count(name) > 1]
        raise GlideError(f"{where} has {', '.join(twice)} twice. Expected each column once.")
    if "prompt" not in names:
        raise GlideError(f"{where} has no prompt. Expected a column 'prompt'.")
    return names


def _row(number: int, where: str, cells: Mapping[str, Any]) -> Row:
    found: dict[str, Any] = {}
    for column, value in cells.items():
        if value is None and column != "prompt":
            continue
        read = COLUMNS[column]
        try:
            found[column] = read(value if read is _text else _ZEROS.sub("", str(value)))
        except GlideError as error:
            raise GlideError(f"{where}, {column}: {error}") from error
    if found.get("respacing") and "steps" in found:
        raise GlideError(f"{where} has steps and respacing. Expected one: respacing sets both.")
    if "steps" in found:
        found["respacing"] = ""  # or else the command's respacing would replace the row's steps
    prompt = found.pop("prompt", "")  # a CSV's empty cells are left out
    seed = found.pop("seed", None)
    settings = {_OPTIONS.get(name, name): value for name, value in found.items()}
    return Row(number, prompt, seed, dict(sorted(settings.items())))
