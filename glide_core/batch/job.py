"""Run a list of prompts: check it, skip the shards that exist, generate the others.

A shard exists under its final name or not at all; nothing else records progress. job.json, written
once per run, only prevents that another list or other settings continue a folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from glide_core.batch.rows import Row, read_rows
from glide_core.batch.shards import Folder, Format, Numbered, finished, write_shard
from glide_core.errors import GlideError, shorten
from glide_core.request import GenerationRequest

if TYPE_CHECKING:
    from glide_core.pipeline import GlidePipeline

log = logging.getLogger("glide")
JOB, FAILED = "job.json", "failed.jsonl"
RESTARTS = 10  # of a Ray worker that was killed, and attempts at its shard

Load = Callable[[], "GlidePipeline"]
MakeRequest = Callable[[Row], GenerationRequest]
Done = tuple[str, int]  # a shard's path, and how many of its rows failed


class JobFile(BaseModel):
    """What job.json says."""

    model_config = ConfigDict(strict=True)

    rows: int
    rows_sha256: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class CheckedList:
    """What `check_list` found out about a list, and about the job in its folder."""

    rows: int
    sha256: str  # of all rows
    guided: bool  # any row asks for CLIP guidance
    before: JobFile | None = None  # of an earlier run
    unchanged: bool = True  # the rows of the earlier run


@dataclass(frozen=True)
class Job:
    """A list and what determines its images. Whatever Ray sends to a worker can be pickled."""

    source: str | Path  # the list
    out: str  # folder or URL
    load: Load  # the pipeline, called where images are generated
    make_request: MakeRequest
    settings: Mapping[str, Any]  # what rows have in common; a run with others is refused
    about: Mapping[str, Any]  # written into every image's metadata
    kind: Format = "tar"
    shard_size: int = 64
    batch_size: int = 4

    def write(self, pipe: GlidePipeline, rows: list[Numbered]) -> Done:
        """Generate one shard; everything that a worker needs to know is in the job."""
        folder = Folder(self.out)
        return write_shard(pipe, rows, folder, self.kind, self.batch_size, self.about)


Driver = Callable[[Job, Iterator[list[Numbered]]], Iterator[Done]]


def check_list(source: str | Path, out: str, make_request: MakeRequest) -> CheckedList:
    """Read a whole list once, before any model is loaded; nothing of it is kept in memory.

    Raises GlideError for an invalid row, and for a folder with shards of no known job.
    """
    folder, before = Folder(out), None
    names = folder.names()
    if JOB in names:
        try:
            before = JobFile.model_validate_json(folder.read(JOB))
        except ValidationError as error:
            raise GlideError(
                f"{folder.path(JOB)} is not a job of this version. Choose another folder.",
                "out",
            ) from error
    elif finished(names):
        raise GlideError(f"{out} has shards but no {JOB}. Choose another folder.", "out")
    digest, same, count, guided = hashlib.sha256(), "", 0, False
    for row in read_rows(source):
        try:
            request = make_request(row)
        except GlideError as error:
            raise GlideError(f"{shorten(source, 200)}, row {row.number}: {error}") from error
        guided = guided or request.clip_guidance_scale != 0
        count = row.number
        digest.update(repr((row.prompt, row.seed, row.settings)).encode())
        if before is not None and count == before.rows:
            same = digest.hexdigest()
    unchanged = before is None or same == before.rows_sha256
    return CheckedList(count, digest.hexdigest(), guided, before, unchanged)


def run_job(
    job: Job, checked: CheckedList, driver: Driver, *, quiet: bool = False
) -> Iterator[Done]:
    """Generate what is missing and yield each finished shard, with its number of failed rows.

    driver: `on_this_machine`, or Ray's. Raises GlideError before any model is loaded for a folder
    that belongs to another job.
    """
    from tqdm import tqdm

    folder = Folder(job.out)
    _begin(job, checked, folder)
    count, done = checked.rows, finished(folder.names())
    had = sum(min(last, count) - first + 1 for first, last in done if first <= count)
    chunks = (
        [(row.number, job.make_request(row)) for row in chunk]
        for chunk in plan(read_rows(job.source), done, job.shard_size)
    )
    if had >= count:
        log.warning("%s is complete: %d rows in %d shards", job.out, count, len(done))
    try:
        with tqdm(total=count, initial=had, unit="image", smoothing=0, disable=quiet) as bar:
            for path, failed in driver(job, chunks) if had < count else ():
                ((first, last),) = finished([path.rsplit("/", 1)[-1]])
                bar.update(last - first + 1)
                if failed:
                    log.warning("%d rows of %s failed: see %s", failed, path, FAILED)
                yield path, failed
    finally:
        _collect_failed(folder)


def on_this_machine(job: Job, chunks: Iterable[list[Numbered]]) -> Iterator[Done]:
    """Generate shards one after the other with one pipeline."""
    pipe = job.load()
    for rows in chunks:
        yield job.write(pipe, rows)


class Worker:
    """An actor: loads the pipeline once, then writes one shard per call."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.pipe: GlidePipeline | None = None

    def write(self, rows: list[Numbered]) -> Done:
        if self.pipe is None:  # here, since Ray reports an error in __init__ without its cause
            self.pipe = self.job.load()
        return self.job.write(self.pipe, rows)


def on_ray(
    job: Job, chunks: Iterator[list[Numbered]], address: str | None = None, workers: int = 0
) -> Iterator[Done]:
    """Generate shards on a Ray cluster; a killed worker is restarted and repeats its shard.

    address: of a cluster ("auto", "ray://host:10001"); None starts one on this machine, unless the
    environment variable RAY_ADDRESS names one. workers: default: one per GPU, or without GPUs one
    per machine. Only as many shards as workers are in memory.
    """
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        raise GlideError("several workers need Ray: pip install 'glide-diffusion[ray]'") from error
    started = not ray.is_initialized()
    try:
        if started:
            ray.init(address=address or None, log_to_driver=False, include_dashboard=False)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = workers or gpus or sum(bool(node["Alive"]) for node in ray.nodes())
        share = min(1.0, gpus / count)
        actor = ray.remote(
            num_cpus=1, num_gpus=share, max_restarts=RESTARTS, max_task_retries=RESTARTS
        )(Worker)
        shared = ray.put(job)
        pool = ActorPool([actor.remote(shared) for _ in range(count)])
        for rows in chunks:
            if not pool.has_free():
                yield pool.get_next_unordered()
            pool.submit(lambda worker, rows: worker.write.remote(rows), rows)
        while pool.has_next():
            yield pool.get_next_unordered()
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise GlideError(f"a Ray worker failed: {shorten(cause, 500)}") from error
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise GlideError(f"Ray failed: {shorten(error, 500)}") from error
    finally:
        if started and ray.is_initialized():
            ray.shutdown()


def plan(rows: Iterable[Row], done: list[tuple[int, int]], size: int) -> Iterator[list[Row]]:
    """Group the rows that no finished shard holds, cutting at multiples of `size`.

    Every run cuts at the same rows, and rows appended to a list begin a shard of their own.
    """
    spans = iter(done)
    span = next(spans, None)
    chunk: list[Row] = []
    for row in rows:
        while span is not None and span[1] < row.number:
            span = next(spans, None)
        exists = span is not None and span[0] <= row.number
        if not exists:
            chunk.append(row)
        if chunk and (exists or row.number % size == 0):
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _begin(job: Job, checked: CheckedList, folder: Folder) -> None:
    """Write job.json, or hold the one of an earlier run against this job."""
    before, settings = checked.before, json.loads(json.dumps({**job.settings, "format": job.kind}))
    now = JobFile(rows=checked.rows, rows_sha256=checked.sha256, settings=settings)
    if before is not None:
        differs = [
            f"{name}: {shorten(before.settings.get(name))}, now {shorten(settings.get(name))}"
            for name in sorted({*before.settings, *settings})
            if before.settings.get(name) != settings.get(name)
        ]
        if now.rows < before.rows:
            differs.append(f"list: {before.rows} rows, now {now.rows}")
        elif not checked.unchanged:
            differs.append(f"list: one of the first {before.rows} rows has changed")
        if differs:
            raise GlideError(
                f"{job.out} belongs to another job ({'; '.join(differs[:5])}). Rows can be "
                "appended to a list; for other changes choose another folder.",
                "out",
            )
    if before != now:
        folder.write(JOB, (now.model_dump_json(indent=1) + "\n").encode())


def _collect_failed(folder: Folder) -> None:
    """Join what the shards recorded of failed rows into one file."""
    parts = [name for name in folder.names() if name.endswith(f".{FAILED}")]
    if parts:
        folder.write(FAILED, b"".join(folder.read(name) for name in parts))
