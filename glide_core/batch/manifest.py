"""manifest.json: what a job is, so that a rerun goes on with that job and no other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from glide_core.batch.disk import write_whole
from glide_core.batch.shards import FORMATS, Format, Shard, Store
from glide_core.errors import GlideError

VERSION = 1
NAME = "manifest.json"
DEFAULT_SHARD_SIZE = 64
DEFAULT_FORMAT: Format = "tar"


@dataclass(frozen=True)
class Job:
    """What decides every picture of a job, and how they are kept."""

    list: Mapping[str, Any]  # file (name), sha256 (of the file), rows, rows_sha256
    settings: Mapping[str, Any]  # what a row that does not say gets
    models: Mapping[str, Sequence[Mapping[str, str]]]  # by role; file (name), sha256
    shard_size: int
    format: Format
    glide_version: str


def read(folder: Path) -> Job | None:
    """Give the job of this folder, None if there is none; GlideError for another program's file."""
    path = folder / NAME
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _foreign(path, str(error)) from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        version = found.get("version") if isinstance(found, dict) else None
        raise _foreign(path, f"its version is {version!r}, not {VERSION}")
    try:
        job = Job(**{name: found[name] for name in Job.__dataclass_fields__})
    except KeyError as error:
        raise _foreign(path, f"it has no {error}") from error
    if job.format not in FORMATS or not isinstance(job.shard_size, int) or job.shard_size < 1:
        raise _foreign(path, f"format {job.format!r}, shard size {job.shard_size!r}")
    return job


def check_same(found: Job, wanted: Job, folder: Path) -> None:
    """Refuse to go on with another list, other settings or other models; say what differs."""
    amiss = _list_differs(found.list, wanted.list)
    for name in sorted(found.settings.keys() | wanted.settings.keys()):
        amiss += _differs(
            name.replace("_", "-"), found.settings.get(name), wanted.settings.get(name)
        )
    for role in sorted(found.models.keys() | wanted.models.keys()):
        was, now = (job.models.get(role, ()) for job in (found, wanted))
        if [file["sha256"] for file in was] != [file["sha256"] for file in now]:
            amiss.append(f"model {role}: {_named(was)} there, {_named(now)} now")
    amiss += _differs("shard-size", found.shard_size, wanted.shard_size)
    amiss += _differs("format", found.format, wanted.format)
    if amiss:
        raise GlideError(
            f"{folder} holds another job ({'; '.join(amiss)}). Expected the list, settings and "
            "models that it was begun with. Give them again to go on with it, or choose another "
            "folder with --out."
        )


def write(job: Job, store: Store, shards: Sequence[Shard]) -> None:
    """Write the job and the state of every shard as the disk has it, in one move."""
    done = store.done()
    states = [
        {
            "file": store.path(shard).name,
            "first_row": shard.first,
            "rows": shard.rows,
            "state": _state(shard, store, done),
        }
        for shard in shards
    ]
    content = {"version": VERSION, **asdict(job), "shards": states}
    write_whole(store.folder / NAME, (json.dumps(content, indent=1) + "\n").encode(), sync=True)


def plain(job: Job) -> Job:
    """The job as it reads back from the file: tuples become lists there."""
    return replace(job, settings=json.loads(json.dumps(dict(job.settings))))


def _state(shard: Shard, store: Store, done: set[int]) -> str:
    if shard.number in done:
        return "done"
    return "begun" if store.partial(shard).exists() else "waiting"


def _list_differs(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    if found["rows_sha256"] == wanted["rows_sha256"]:
        return []
    if found["rows"] != wanted["rows"]:
        return [f"list: {found['rows']} rows there, {wanted['rows']} now"]
    hashes = found["rows_sha256"][:12], wanted["rows_sha256"][:12]
    return [f"list: as many rows of another content, {hashes[0]} there, {hashes[1]} now"]


def _differs(name: str, found: Any, wanted: Any) -> list[str]:
    return [] if found == wanted else [f"{name}: {found!r} there, {wanted!r} now"]


def _named(files: Sequence[Mapping[str, str]]) -> str:
    return " and ".join(f"{file['file']} ({file['sha256'][:12]})" for file in files) or "none"


def _foreign(path: Path, how: str) -> GlideError:
    return GlideError(
        f"{path} is not the manifest of a job that this version can go on with: {how}. Choose "
        "another folder with --out."
    )
