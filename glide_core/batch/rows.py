"""Read a list of prompts, CSV or JSON lines, whole and checked before any work is done.

Rows count from 1, in messages, in file names and in the index.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glide_core.cli import options
from glide_core.errors import GlideError
from glide_core.names import SAMPLERS, canonical_sampler

Value = str | int | float | tuple[int, int]
_INTEGERS = ("seed", "steps", "upsample_steps")


@dataclass(frozen=True)
class Row:
    """One picture: what the list says of it. What it leaves out is the command's."""

    number: int  # from 1
    prompt: str
    seed: int | None = None
    given: tuple[tuple[str, Value], ...] = ()  # settings by the names of the command's options

    def options(self, command: argparse.Namespace) -> argparse.Namespace:
        """Give the command's options with this row's over them.

        A row without a seed has the command's plus the rows before it, as `-n` counts pictures.
        A row's steps win over the command's respacing, which would otherwise replace them.
        """
        seed = self.seed
        if seed is None:
            seed = (int(command.seed) + self.number - 1) % 2**64
        own = dict(self.given)
        if "steps" in own:
            own.setdefault("respacing", "")
        return argparse.Namespace(**{**vars(command), "prompt": self.prompt, "seed": seed, **own})


@dataclass(frozen=True)
class RowList:
    """All rows of a file, its own hash, and a hash of the rows that its spelling cannot change."""

    path: Path
    rows: tuple[Row, ...]
    file_sha256: str
    rows_sha256: str


def read_rows(path: Path) -> RowList:
    """Read and check a list; GlideError names the row, the column and what was expected there."""
    content = _bytes(path)
    text = _decoded(content, path)
    kinds: dict[str, Callable[[str, Path], Iterator[_Raw]]] = {
        ".csv": _csv_rows,
        ".jsonl": _json_rows,
        ".ndjson": _json_rows,
        ".txt": _text_rows,
    }
    if path.suffix.lower() not in kinds:
        raise GlideError(
            f"{path} is not a list of prompts by its name. Expected .csv (a header line, then one "
            "row per image), .jsonl (one JSON object per line) or .txt (one prompt per line)."
        )
    raw = kinds[path.suffix.lower()](text, path)
    rows = tuple(_row(number, *found, path) for number, found in enumerate(raw, 1))
    if not rows:
        raise GlideError(
            f"{path} holds no row. Expected at least one prompt"
            + (" below the header." if path.suffix.lower() == ".csv" else ".")
        )
    said = json.dumps([[r.prompt, r.seed, r.given] for r in rows], ensure_ascii=True)
    return RowList(
        path, rows, hashlib.sha256(content).hexdigest(), hashlib.sha256(said.encode()).hexdigest()
    )


_Raw = tuple[int, Mapping[str, str]]  # line number, cells that are not empty


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GlideError(
            f"the list {path} cannot be read: {error.strerror}. Expected a .csv, .jsonl or "
            ".txt file."
        ) from error


def _decoded(content: bytes, path: Path) -> str:
    try:
        text = content.decode("utf-8-sig")  # spreadsheet programs write a byte order mark
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise GlideError(
            f"{path} is not UTF-8: byte {error.start + 1}, in line {line}, is "
            f"0x{content[error.start]:02x}. Expected UTF-8 text: save it anew with that encoding "
            "('CSV UTF-8' in spreadsheet programs)."
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise GlideError(
            f"{path} holds a NUL character in line {line}. Expected UTF-8 text: save it anew."
        )
    return text


def _text_rows(text: str, path: Path) -> Iterator[_Raw]:
    """One prompt per line; empty lines and lines that begin with # are left out."""
    for line, content in enumerate(text.splitlines(), 1):
        if content.strip() and not content.lstrip().startswith("#"):
            yield line, {"prompt": content.strip()}


def _csv_rows(text: str, path: Path) -> Iterator[_Raw]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next((cells for cells in reader if cells), None)
        if header is None:
            raise GlideError(f"{path} is empty. Expected a header line such as 'prompt,seed'.")
        names = _header(header, path)
        for number, cells in enumerate(filter(None, reader), 1):
            if len(cells) != len(names):
                raise GlideError(
                    f"{path}, row {number} (line {reader.line_num}) has {len(cells)} cells where "
                    f"the header has {len(names)}. Put a prompt that holds a comma in double "
                    "quotes."
                )
            kept = {k: v for k, v in zip(names, cells, strict=True) if v.strip() or k == "prompt"}
            yield reader.line_num, kept
    except csv.Error as error:
        raise GlideError(
            f"{path}, line {reader.line_num}, cannot be read as CSV: {error}. Expected cells "
            "separated by commas; one that holds a comma, a quote or a line break stands in "
            "double quotes, and quotes in it are doubled."
        ) from error


def _header(cells: list[str], path: Path) -> list[str]:
    names = [_column(cell) for cell in cells]
    for separator, called in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and separator in cells[0]:
            raise GlideError(
                f"the header of {path} is separated by {called}. Expected commas: save it so."
            )
    where = f"the header of {path}"
    _check_names(names, where)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise GlideError(f"{where} names {', '.join(twice)} twice. Expected each column once.")
    return names


def _json_rows(text: str, path: Path) -> Iterator[_Raw]:
    # not splitlines(): it also breaks at characters that may stand inside a JSON string
    lines = ((line, content) for line, content in enumerate(text.split("\n"), 1) if content.strip())
    for number, (line, content) in enumerate(lines, 1):
        where = f"{path}, row {number} (line {line})"
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise GlideError(
                f"{where} is not JSON: {error}. Expected an object on one line, such as "
                '{"prompt": "a red apple", "seed": 7}.'
            ) from error
        if not isinstance(found, dict):
            raise GlideError(
                f"{where} holds a {type(found).__name__}. Expected a JSON object, such as "
                '{"prompt": "a red apple", "seed": 7}.'
            )
        cells = {_column(key): value for key, value in found.items()}
        _check_names(list(cells), where)
        if len(cells) < len(found):
            raise GlideError(f"{where} gives a setting under two names. Expected it once.")
        yield line, {k: _text(k, v, where) for k, v in cells.items() if v is not None}


def _text(name: str, value: Any, where: str) -> str:
    """A JSON value as it would stand in a CSV cell, so that both are checked alike."""
    words = name in ("prompt", "negative", "respacing", "sampler", "size")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(value, str) or (number and (not words or name in ("respacing", "size"))):
        return str(value)
    raise GlideError(
        f"{where}, {name}: {json.dumps(value)} is no {'text' if words else 'number'}. Expected "
        f"{'a string' if words else 'a number'}."
    )


def _row(number: int, line: int, cells: Mapping[str, str], path: Path) -> Row:
    where = f"{path}, row {number} (line {line})"
    if "prompt" not in cells:
        raise GlideError(f'{where} has no prompt. Expected one; "" draws anything.')
    found: dict[str, Value] = {}
    for name, text in cells.items():
        if name in _INTEGERS:
            text = re.sub(r"\.0+$", "", text)  # pandas' way of writing a column with gaps
        try:
            text.encode()  # JSON can hold half a character: \ud800
            found[_DESTINATIONS.get(name, name)] = COLUMNS[name](text)
        except UnicodeEncodeError as error:
            raise GlideError(f"{where}, {name}: {text!r} is not valid Unicode text.") from error
        except (argparse.ArgumentTypeError, GlideError) as error:
            raise GlideError(f"{where}, {name}: {error}.") from error
    if found.get("steps") and found.get("respacing"):
        raise GlideError(f"{where} gives steps and respacing. Expected one: respacing sets both.")
    prompt, seed = found.pop("prompt"), found.pop("seed", None)
    assert isinstance(prompt, str) and (seed is None or isinstance(seed, int))
    return Row(number, prompt, seed, tuple(sorted(found.items())))


def _column(name: str) -> str:
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    return _ALIASES.get(plain, plain)


def _check_names(names: Iterable[str], where: str) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        near = [difflib.get_close_matches(name, COLUMNS, 1) for name in unknown]
        hint = "".join(f" Did you mean {match[0]!r}?" for match in near if match)
        raise GlideError(
            f"{where} names what no row can have: {', '.join(map(repr, unknown))}.{hint} Expected "
            f"some of: {', '.join(COLUMNS)}."
        )
    if "prompt" not in names:
        raise GlideError(
            f"{where} names no prompt. Expected 'prompt', and what else of: "
            f"{', '.join(list(COLUMNS)[1:])}."
        )


def _sampler(text: str) -> str:
    name = canonical_sampler(text.strip())
    if name not in SAMPLERS:
        known = ", ".join(SAMPLERS)
        raise argparse.ArgumentTypeError(f"{text!r} is no sampler: expected one of {known}")
    return name


def _respacing(text: str) -> str:
    from glide_core.diffusion import space_timesteps

    with suppress(ValueError):  # JSON's 25, which is "25"
        text = str(int(text))
    space_timesteps(options.MOST_STEPS, text)
    return text.strip()


COLUMNS: Mapping[str, Callable[[str], Value]] = {
    "prompt": str,
    "seed": options.seed,
    "negative": str,
    "steps": options.step_count,
    "respacing": _respacing,
    "sampler": _sampler,
    "eta": options.fraction,
    "cfg": options.number,
    "clip_scale": options.number,
    "size": options.size,
    "upsample_steps": options.step_count,
    "upsample_cfg": options.number,
    "upsample_temperature": options.not_negative,
}
_ALIASES = {"guidance_scale": "cfg", "negative_prompt": "negative"}
_DESTINATIONS = {"size": "base_size"}
