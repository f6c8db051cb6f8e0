"""Read tables row by row: CSV, JSON lines or Parquet, from a file or any URL of fsspec."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from glide_core.errors import GlideError, as_glide_error, shorten

MAX_LINE = 2**20  # bytes

# A line number (0: the format has none), and the row's fields or what is wrong with the row.
Row = tuple[int, "dict[str, Any] | str"]
Header = Callable[[list[str]], list[str]]  # checks the names of columns, gives those to use


@contextmanager
def open_file(url: str) -> Iterator[BufferedReader]:
    """Open a file for reading; a GlideError that is raised inside gets the name of the file.

    Raises GlideError for anything but a regular file, or where opening it fails.
    """
    import fsspec

    name, local = shorten(url, 200), None if "://" in url else Path(url)
    if local is not None and local.exists() and not local.is_file():
        raise GlideError(f"{name} is not a regular file")
    with as_glide_error(f"{name} cannot be read"):
        opened = fsspec.open(url, "rb").open() if local is None else local.open("rb")
    with opened as file, BufferedReader(file) as buffered:
        try:
            yield buffered
        except GlideError as error:
            raise GlideError(f"{name}: {error}") from error


def read_table(file: BufferedReader, suffix: str, header: Header) -> Iterator[Row]:
    """Read rows one at a time: .csv with a header, .jsonl or .ndjson with an object per line, or
    .parquet; the content decides where the suffix is another.

    header: is given the columns of CSV and Parquet. A CSV is separated by commas, semicolons or
    tabs; its empty cells are left out. GlideError for a file that is not such a table.
    """
    start = file.peek(4).removeprefix(b"\xef\xbb\xbf").lstrip()
    if suffix not in (".csv", ".jsonl", ".ndjson", ".parquet"):
        suffix = ".jsonl" if start[:1] in (b"{", b"[") else ".csv"
        suffix = ".parquet" if start.startswith(b"PAR1") else suffix
    if suffix == ".parquet":
        return _parquet(file, header)
    if suffix != ".csv" and start.startswith(b"["):
        raise GlideError("it is one JSON array. Expected one object per line.")
    return _csv(file, header) if suffix == ".csv" else _json(file)


def lines(file: BufferedReader) -> Iterator[str]:
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
                f"line {number} is not UTF-8: byte 0x{line[error.start]:02x}. Save it as UTF-8 "
                "('CSV UTF-8' in spreadsheet programs)."
            ) from error
        if "\0" in text:
            raise GlideError(f"line {number} has a NUL character. Expected text in UTF-8.")
        yield text


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, stripped, without empty ones."""
    with open_file(str(path)) as file:
        return [line.strip() for line in lines(file) if line.strip()]


def _csv(file: BufferedReader, header: Header) -> Iterator[Row]:
    every = lines(file)
    head = [""]
    while not head[-1].strip() and (text := next(every, "")):
        head.append(text)
    delimiter = max(",;\t", key=head[-1].count)
    reader = csv.reader(itertools.chain(head[1:], every), delimiter=delimiter, strict=True)
    try:
        names = header(next(filter(None, reader), []))
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(names):
                yield (
                    line,
                    f"has {len(cells)} cells where the header has {len(names)}. Put text that "
                    "contains a separator in double quotes.",
                )
            elif cells:
                yield line, {k: v for k, v in zip(names, cells, strict=True) if v.strip()}
            line = reader.line_num + 1
    except csv.Error as error:
        raise GlideError(
            f"line {reader.line_num} cannot be read as CSV: {shorten(error)}. Put a cell that "
            "contains a separator, a quote or a line break in double quotes."
        ) from error


def _json(file: BufferedReader) -> Iterator[Row]:
    for number, line in enumerate(lines(file), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"is not JSON: {shorten(error)}"
            continue
        if isinstance(found, dict):
            yield number, found
        else:
            yield number, f"is a {type(found).__name__}. Expected a JSON object."


def _parquet(file: BufferedReader, header: Header) -> Iterator[Row]:
    with as_glide_error("Parquet needs pyarrow (pip install pyarrow)", ImportError):
        import pyarrow
        from pyarrow import parquet
    # besides Arrow's errors: of dates that Python does not have, of damaged text
    kinds = (pyarrow.ArrowException, OSError, ValueError, OverflowError)
    with as_glide_error("the file cannot be read as Parquet", kinds):
        table = parquet.ParquetFile(file)
        names = header(table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=256):
            for values in batch.to_pylist():
                yield 0, dict(zip(names, values.values(), strict=True))
