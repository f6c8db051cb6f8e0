"""Shards on the disk: a folder while it is drawn, a tar (webdataset layout) or a folder when whole.

What is there is the truth: a shard is done when its final name exists, and that name appears by one
move, after everything in it.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from glide_core.batch.disk import explained, flush, sync_folder, write_whole
from glide_core.errors import GlideError

Format = Literal["tar", "folder"]
FORMATS: tuple[Format, ...] = ("tar", "folder")
_DONE: dict[Format, re.Pattern[str]] = {
    "tar": re.compile(r"shard-(\d+)\.tar"),
    "folder": re.compile(r"shard-(\d+)"),
}


@dataclass(frozen=True)
class Shard:
    """Consecutive rows that are written together."""

    number: int  # from 0
    first: int  # row, from 1
    rows: int

    @property
    def name(self) -> str:
        return f"shard-{self.number:05d}"

    @property
    def members(self) -> range:
        """Its rows' numbers."""
        return range(self.first, self.first + self.rows)


def plan(rows: int, size: int) -> tuple[Shard, ...]:
    """Cut `rows` rows into shards of `size`; the last takes what is left."""
    starts = range(0, rows, size)
    return tuple(Shard(i, s + 1, min(size, rows - s)) for i, s in enumerate(starts))


@dataclass(frozen=True)
class Store:
    """A job's folder."""

    folder: Path
    format: Format
    rows: int  # of the whole list

    def stem(self, row: int) -> str:
        """The name of a row's two files, without .png and .json."""
        return f"{row:0{max(6, len(str(self.rows)))}d}"

    def path(self, shard: Shard) -> Path:
        """Where the shard is when it is done."""
        return self.folder / (f"{shard.name}.tar" if self.format == "tar" else shard.name)

    def partial(self, shard: Shard) -> Path:
        """Where its pictures are until then."""
        return self.folder / f"{shard.name}.partial"

    def lock(self, name: str) -> Path:
        """The file that whoever works on `name` holds a lock on."""
        return self.folder / f".{name}.lock"

    def unlock(self, name: str) -> None:
        """Remove a lock's file; only when there is nothing left to do under it."""
        with suppress(OSError):  # Windows removes no open file
            self.lock(name).unlink(missing_ok=True)

    def done(self) -> set[int]:
        """Numbers of the shards that are done."""
        names = map(_DONE[self.format].fullmatch, _names(self.folder))
        return {int(name[1]) for name in names if name}

    def count(self, shards: Sequence[Shard]) -> int:
        """How many pictures there are, those of unfinished shards too."""
        done = self.done()
        whole = sum(shard.rows for shard in shards if shard.number in done)
        begun = [name for name in _names(self.folder) if name.endswith(".partial")]
        # a folder can be moved away, finished, between the two looks
        drawn = sum(name.endswith(".png") for b in begun for name in _names(self.folder / b))
        return min(whole + drawn, self.rows)

    def begin(self, shard: Shard) -> None:
        """Make the folder that its pictures go to."""
        with explained(self.partial(shard)):
            self.partial(shard).mkdir(parents=True, exist_ok=True)

    def kept(self, shard: Shard, marks: Mapping[int, str]) -> set[int]:
        """Rows of an unfinished shard whose picture is there, whole, and of this very row.

        marks: by row, what its .json must say in "id".
        """
        return {row for row in shard.members if self._is_whole(shard, row, marks[row])}

    def save(self, shard: Shard, row: int, png: bytes, facts: Mapping[str, Any]) -> None:
        """Put a picture and its facts into the unfinished shard; the picture comes last."""
        base = self.partial(shard) / self.stem(row)
        text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
        write_whole(base.with_suffix(".json"), text.encode())
        write_whole(base.with_suffix(".png"), png)

    def finish(self, shard: Shard) -> Path:
        """Make the whole shard of its pictures, on the disk before it gets its name."""
        partial, final = self.partial(shard), self.path(shard)
        names = self._members(shard)
        with explained(final):
            if self.format == "tar":
                hidden = final.with_name(f".{final.name}.tmp")
                _pack(partial, names, hidden)
                os.replace(hidden, final)
                sync_folder(self.folder)
                shutil.rmtree(partial)
            else:
                for name in set(_names(partial)) - set(names):
                    (partial / name).unlink()  # a temporary file that a kill left
                for name in names:
                    with (partial / name).open("rb+") as file:
                        flush(file)
                sync_folder(partial)
                os.rename(partial, final)
                sync_folder(self.folder)
        return final

    def tidy(self, shard: Shard) -> None:
        """Remove what a kill between a shard's move and its cleaning left."""
        shutil.rmtree(self.partial(shard), ignore_errors=True)
        self.unlock(shard.name)

    def check(self, shard: Shard) -> None:
        """Refuse a finished shard that does not hold each of its rows exactly once."""
        path = self.path(shard)
        try:
            if self.format == "tar":
                with tarfile.open(path) as tar:
                    found = tar.getnames()
            else:
                found = _names(path)
        except (OSError, tarfile.TarError) as error:
            raise _damaged(path, f"it cannot be read ({error})") from error
        wanted = self._members(shard)
        if sorted(found) != sorted(wanted):
            amiss = sorted(set(found) ^ set(wanted)) or ["a name twice"]
            raise _damaged(path, f"missing or too many: {', '.join(amiss[:4])}")

    def _members(self, shard: Shard) -> list[str]:
        # a sample's files are neighbours, as webdataset wants them
        return [f"{self.stem(row)}{end}" for row in shard.members for end in (".png", ".json")]

    def _is_whole(self, shard: Shard, row: int, mark: str) -> bool:
        from PIL import Image

        base = self.partial(shard) / self.stem(row)
        try:
            facts = json.loads(base.with_suffix(".json").read_bytes())
            with Image.open(base.with_suffix(".png")) as picture:
                picture.load()
        except (OSError, ValueError, SyntaxError):  # none, or cut short by a power cut
            return False
        return isinstance(facts, dict) and facts.get("id") == mark


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _pack(folder: Path, names: Sequence[str], path: Path) -> None:
    """Write a tar of these files and nothing else: no times or owners, so equal jobs are equal."""
    with path.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name in names:
                content = (folder / name).read_bytes()
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o644
                tar.addfile(entry, io.BytesIO(content))
        flush(file)


def _damaged(path: Path, how: str) -> GlideError:
    return GlideError(
        f"{path} is not as it was written: {how}. Expected each of its rows once. Delete it and "
        "run the same command again: it is drawn anew."
    )
