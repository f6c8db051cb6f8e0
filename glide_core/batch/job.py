"""The whole of `glide generate --prompts`: check, go on or begin, draw, join."""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_core import __version__, io
from glide_core.batch import manifest
from glide_core.batch.disk import explained, write_whole
from glide_core.batch.processes import Place, Stop, claimed, locked
from glide_core.batch.rows import Row, RowList, read_rows
from glide_core.batch.shards import Shard, Store, plan
from glide_core.errors import GlideError

if TYPE_CHECKING:
    from glide_core.batch.draw import Painter

log = logging.getLogger("glide")

INDEX = "index.csv"
# Options of the command that no picture depends on, and that say nothing to a row.
_NOT_FOR_ROWS = (
    *("prompts", "prompt", "shard_size", "format", "out", "quiet", "device", "batch", "n"),
    *("version", "command", "model", "upsampler", "clip"),
)


@dataclass(frozen=True)
class Work:
    """A checked job: everything but the models."""

    rows: tuple[Row, ...]
    job: manifest.Job
    store: Store
    shards: tuple[Shard, ...]
    command: argparse.Namespace  # what a row that does not say gets
    files: Mapping[str, Sequence[Path]]


def run(arguments: argparse.Namespace) -> int:
    """Draw every row of `arguments.prompts`; gives the command's exit status.

    0: this process has nothing left to do. 130, 143: stopped by Ctrl-C or SIGTERM, all saved.
    """
    from glide_core.cli.session import Session
    from glide_core.devices import pick_dtype

    place = Place.of()
    found = read_rows(arguments.prompts)
    io.check_folder(arguments.out)
    device = place.device(arguments.device)
    here = Session(device, pick_dtype(arguments.dtype, device), arguments.quiet)
    work = _work(arguments, found, str(here.dtype).removeprefix("torch."))
    if _complete(work):
        return _end(work, place)
    from glide_core.batch.draw import Painter

    with Stop().listening() as stop:
        painter = Painter.load(work.files, work.job.models, here, arguments.batch)
        _begin(work)
        with _progress(work, show=place.rank == 0 and not arguments.quiet) as tell:
            _draw(work, painter, place, stop, tell)
    if stop.came is not None:
        if place.rank == 0:
            have = work.store.count(work.shards)
            print(
                f"glide: stopped: {have} of {len(work.rows)} pictures are in {work.store.folder}. "
                "The same command goes on.",
                file=sys.stderr,
            )
        return 128 + stop.came
    return _end(work, place)


def _work(arguments: argparse.Namespace, found: RowList, dtype: str) -> Work:
    """Put the job together, and hold it against the one that the folder has."""
    said = {k: v for k, v in vars(arguments).items() if k not in _NOT_FOR_ROWS}
    guided = any(row.options(arguments).clip_scale for row in found.rows)
    files = _model_files(arguments, guided)
    begun = manifest.read(arguments.out)
    if begun is None:
        _refuse_leftovers(arguments.out)
    job = manifest.plain(
        manifest.Job(
            list={
                "file": found.path.name,
                "sha256": found.file_sha256,
                "rows": len(found.rows),
                "rows_sha256": found.rows_sha256,
            },
            settings={**said, "dtype": dtype},
            models={role: [_hashed(path) for path in paths] for role, paths in files.items()},
            shard_size=arguments.shard_size
            or (begun.shard_size if begun else manifest.DEFAULT_SHARD_SIZE),
            format=arguments.format or (begun.format if begun else manifest.DEFAULT_FORMAT),
            glide_version=__version__,
        )
    )
    if begun is not None:
        manifest.check_same(begun, job, arguments.out)
        if begun.glide_version != __version__:
            log.warning("%s was begun by glide %s", arguments.out, begun.glide_version)
    names = {role: [path.name for path in paths] for role, paths in files.items()}
    command = argparse.Namespace(
        **{**said, "dtype": dtype, "model": names["base"][0], "command": "generate"},
        upsampler=names.get("upsampler", [None])[0],
        clip=names.get("clip"),
    )
    return Work(
        found.rows,
        job,
        Store(arguments.out, job.format, len(found.rows)),
        plan(len(found.rows), job.shard_size),
        command,
        files,
    )


def _model_files(arguments: argparse.Namespace, guided: bool) -> dict[str, list[Path]]:
    from glide_core.checkpoints.catalog import find_model

    files = {"base": [find_model(arguments.model)]}
    if not arguments.no_upsample:
        files["upsampler"] = [find_model(arguments.upsampler)]
    if guided:
        files["clip"] = [find_model(name) for name in arguments.clip or ["clip"]]
    return files


def _hashed(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": io.sha256_file(path)}


def _refuse_leftovers(folder: Path) -> None:
    if folder.is_dir() and ((folder / INDEX).exists() or any(folder.glob("shard-*"))):
        raise GlideError(
            f"{folder} holds shards or an {INDEX} without a {manifest.NAME}: nothing says what "
            "they are, and nothing is written over. Choose another folder with --out."
        )


def _begin(work: Work) -> None:
    """Write the manifest, unless another process was first: then it must be of the same job."""
    folder = work.store.folder
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(work.store, manifest.NAME, wait=True):
        begun = manifest.read(folder)
        if begun is not None:
            manifest.check_same(begun, work.job, folder)
        manifest.write(work.job, work.store, work.shards)


def _draw(work: Work, painter: Painter, place: Place, stop: Stop, tell: _Tell) -> None:
    order = place.order(work.shards)
    while stop.came is None:
        with claimed(order, work.store) as shard:
            if shard is None:
                return
            if not _draw_shard(work, shard, painter, stop, tell):
                return
            path = work.store.finish(shard)
        with locked(work.store, manifest.NAME, wait=True):
            manifest.write(work.job, work.store, work.shards)
        print(path, flush=True)


def _draw_shard(work: Work, shard: Shard, painter: Painter, stop: Stop, tell: _Tell) -> bool:
    """Draw what a shard lacks; gives whether it is whole, which it is not after a stop."""
    from glide_core.batch.draw import identity

    rows = [work.rows[number - 1] for number in shard.members]
    marks = {row.number: identity(row, work.command) for row in rows}
    work.store.begin(shard)
    kept = work.store.kept(shard, marks)
    missing = [row for row in rows if row.number not in kept]
    for batch in painter.batches(missing, work.command):
        if stop.came is not None:
            return False
        for drawing in painter.draw(batch, work.command):
            work.store.save(shard, drawing.row.number, drawing.png, drawing.facts)
        tell()
    return True


def _complete(work: Work) -> bool:
    return not _left(work)


def _left(work: Work) -> int:
    return len({shard.number for shard in work.shards} - work.store.done())


def _end(work: Work, place: Place) -> int:
    """Join everything in the index when all is there; say where the job stands."""
    folder = work.store.folder
    if not _complete(work):
        if place.rank == 0:
            log.warning("%d shards are left, which other processes draw", _left(work))
        return 0
    with locked(work.store, manifest.NAME, wait=True):
        for shard in work.shards:
            work.store.check(shard)
            work.store.tidy(shard)
        content = _index(work)
        fresh = not _holds(folder / INDEX, content)
        if fresh:
            manifest.write(work.job, work.store, work.shards)
            write_whole(folder / INDEX, content, sync=True)
        work.store.unlock(manifest.NAME)
    if fresh:
        print(folder / INDEX, flush=True)
    elif place.rank == 0:
        print(
            f"glide: {folder} is complete: {len(work.rows)} pictures in {len(work.shards)} shards, "
            f"listed in {INDEX}. Nothing was left to do.",
            file=sys.stderr,
        )
    return 0


def _index(work: Work) -> bytes:
    """Every row: its shard, its file in there, prompt and seed."""
    text = StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row", "shard", "file", "prompt", "seed"))
    for shard in work.shards:
        for number in shard.members:
            own = work.rows[number - 1].options(work.command)
            file = f"{work.store.stem(number)}.png"
            shard_file = work.store.path(shard).name
            writer.writerow((number, shard_file, file, own.prompt, own.seed))
    return text.getvalue().encode()


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


class _Tell:
    """Shows how many pictures there are, of all processes."""

    def __init__(self, work: Work, bar: Any) -> None:
        self.work, self.bar = work, bar

    def __call__(self) -> None:
        if not self.bar.disable:
            self.bar.update(self.work.store.count(self.work.shards) - self.bar.n)


@contextmanager
def _progress(work: Work, *, show: bool) -> Iterator[_Tell]:
    from tqdm import tqdm

    have = work.store.count(work.shards) if show else 0
    with tqdm(
        total=len(work.rows), initial=have, unit="picture", smoothing=0, disable=not show
    ) as bar:
        yield _Tell(work, bar)
