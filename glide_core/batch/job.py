"""Run a list of prompts: check it, skip the shards that exist, generate the others.

A shard exists under its final name or not at all; nothing else records progress. job.json, written
once per run, only prevents that another list or other settings continue a folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from glide_core.batch.rows import Row, read_rows
from glide_core.batch.shards import FAILED, Folder, Numbered, finished, generate, write_shard
from glide_core.errors import GlideError, as_glide_error, shorten

if TYPE_CHECKING:
    from glide_core.pipeline import GlidePipeline
    from glide_core.request import GenerationRequest

log = logging.getLogger("glide")
JOB = "job.json"
RESTARTS = 10  # of a Ray worker that was killed, and attempts at its shard


class Done(NamedTuple):
    """A finished shard."""

    path: str
    rows: int
    failed: int


class JobFile(BaseModel):
    """What job.json says."""

    model_config = ConfigDict(strict=True)

    rows: int
    rows_sha256: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A list and what determines its images. Ray sends it to the workers."""

    source: str  # the list
    out: str  # folder or URL
    make_request: Callable[[Row], GenerationRequest]
    # with the noisy CLIP or without: the pipeline, and its files with their hashes by role
    load: Callable[[bool], GlidePipeline]
    model_files: Callable[[bool], Mapping[str, Any]]
    about: Mapping[str, Any]  # written into every image's metadata; has the dtype of the models
    kind: str = "tar"  # or "parquet"
    shard_size: int = 64
    batch_size: int = 4
    ray: str | None = None  # a cluster's address; "": start one on this machine; None: without Ray
    workers: int = 0  # on Ray; 0: one per GPU, or without GPUs one per machine


def run_job(job: Job, *, quiet: bool = False) -> Iterator[Done]:
    """Generate what is missing of a list and yield each finished shard.

    Raises GlideError before any model is loaded for an invalid row, and for a folder that belongs
    to another job.
    """
    from tqdm import tqdm

    folder = Folder(job.out)
    count, models = _start(job, folder)
    done = finished(folder.names())
    had = sum(min(last, count) - first + 1 for first, last in done if first <= count)
    chunks = missing(job, done)
    shards: Iterable[Done] = ()
    if had >= count:
        log.warning("%s is complete: %d rows in %d shards", job.out, count, len(done))
    elif job.ray is not None:
        shards = on_ray(job, models, chunks)
    else:
        shards = map(Worker(job, models).write, chunks)
    try:
        with tqdm(total=count, initial=had, unit="image", smoothing=0, disable=quiet) as bar:
            for shard in shards:
                bar.update(shard.rows)
                if shard.failed:
                    log.warning("%d rows of %s failed: see %s", shard.failed, shard.path, FAILED)
                yield shard
    finally:
        parts = [name for name in folder.names() if name.endswith(f".{FAILED}")]
        if parts:
            folder.write(FAILED, b"".join(folder.read(name) for name in parts))


def _start(job: Job, folder: Folder) -> tuple[int, Mapping[str, Any]]:
    """Check all rows, and write job.json or compare the one of an earlier run.

    Returns the number of rows and the models' files. Nothing of the list is kept in memory.
    """
    names, before = folder.names(), None
    if JOB in names:
        with as_glide_error(f"{folder.path(JOB)} is not a job of this version", ValueError, "out"):
            before = JobFile.model_validate_json(folder.read(JOB))
    elif finished(names):
        raise GlideError(f"{folder.url} has shards but no {JOB}. Choose another folder.", "out")
    digest, same, count, guided = hashlib.sha256(), True, 0, False
    shared = job.make_request(Row(1, ""))  # has the command's own settings
    for count, row in enumerate(read_rows(job.source), 1):
        guided = guided or row.settings.get("clip_scale", shared.clip_guidance_scale) != 0
        digest.update(repr((row.prompt, row.seed, tuple(row.settings.items()))).encode())
        if before is not None and count == before.rows:
            same = digest.hexdigest() == before.rows_sha256
    models = job.model_files(guided)
    more = {"dtype": job.about["dtype"], "models": models, "format": job.kind}
    settings = json.loads(json.dumps({**shared.metadata(), **more}))
    del settings["prompt"]
    now = JobFile(rows=count, rows_sha256=digest.hexdigest(), settings=settings)
    if before is not None:
        _compare(before, now, same, folder.url)
    if before != now:
        folder.write(JOB, (now.model_dump_json(indent=1) + "\n").encode())
    return count, models


def _compare(before: JobFile, now: JobFile, same_rows: bool, out: str) -> None:
    """Raise GlideError with what differs between two runs, unless rows were appended only."""
    old, new = before.settings, now.settings
    differs = [
        f"{name}: {shorten(old.get(name))}, now {shorten(new.get(name))}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if now.rows < before.rows:
        differs.append(f"list: {before.rows} rows, now {now.rows}")
    elif not same_rows:
        differs.append(f"list: one of the first {before.rows} rows has changed")
    if differs:
        raise GlideError(
            f"{out} belongs to another job ({'; '.join(differs[:5])}). Rows can be appended to a "
            "list; for other changes choose another folder.",
            "out",
        )


class Worker:
    """Loads the pipeline once, then generates one shard per call; on Ray an actor."""

    def __init__(self, job: Job, models: Mapping[str, Any]) -> None:
        self.job, self.models = job, models
        self.pipe: GlidePipeline | None = None

    def write(self, rows: list[Numbered]) -> Done:
        from glide_core.stages import prepare

        job = self.job
        if self.pipe is None:  # here, since Ray reports an error in __init__ without its cause
            guided = "clip" in self.models
            if job.model_files(guided) != self.models:
                raise GlideError("the models on this machine are not those the job began with")
            self.pipe = job.load(guided)
        numbers, requests = zip(*rows, strict=True)
        prepared = zip(numbers, prepare(self.pipe.models, requests), strict=True)
        results = generate(self.pipe, prepared, batch_size=job.batch_size)
        name = f"shard-{numbers[0]:08d}-{numbers[-1]:08d}.{job.kind}"
        folder, about = Folder(job.out), {**job.about, "models": self.models}
        return Done(folder.path(name), len(rows), write_shard(results, folder, name, about))


def on_ray(job: Job, models: Mapping[str, Any], chunks: Iterable[list[Numbered]]) -> Iterator[Done]:
    """Generate shards on a Ray cluster; a killed worker is restarted and repeats its shard.

    Where the job names no address and the environment variable RAY_ADDRESS none either, a cluster
    is started on this machine. Only as many shards as workers are in memory.
    """
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        raise GlideError("several workers need Ray: pip install 'glide-diffusion[ray]'") from error
    started = not ray.is_initialized()
    try:
        if started:
            ray.init(address=job.ray or None, log_to_driver=False, include_dashboard=False)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = job.workers or gpus or sum(bool(node["Alive"]) for node in ray.nodes())
        share = min(1.0, gpus / count)
        actor = ray.remote(
            num_cpus=1, num_gpus=share, max_restarts=RESTARTS, max_task_retries=RESTARTS
        )(Worker)
        pool = ActorPool([actor.remote(job, models) for _ in range(count)])
        for rows in chunks:
            if not pool.has_free():
                yield pool.get_next_unordered()
            pool.submit(lambda worker, rows: worker.write.remote(rows), rows)
        while pool.has_next():
            yield pool.get_next_unordered()
    except ray.exceptions.RayTaskError as error:
        raise GlideError(f"a Ray worker failed: {shorten(error.cause, 500)}") from error
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise GlideError(f"Ray failed: {shorten(error, 500)}") from error
    finally:
        if started and ray.is_initialized():
            ray.shutdown()


def missing(job: Job, done: list[tuple[int, int]]) -> Iterator[list[Numbered]]:
    """The rows that no finished shard holds, a list per shard, cut at multiples of its size.

    Every run cuts at the same rows, and rows appended to a list begin a shard of their own.
    """

    def group(row: Row) -> tuple[int, bool]:
        begun = bisect(done, (row.number, math.inf))  # shards that begin at this row or before
        return (row.number - 1) // job.shard_size, begun > 0 and row.number <= done[begun - 1][1]

    for (_, exists), chunk in groupby(read_rows(job.source), group):
        if not exists:
            yield [(row.number, job.make_request(row)) for row in chunk]
