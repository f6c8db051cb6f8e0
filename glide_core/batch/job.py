"""Run a list of prompts: check it, skip the shards that exist, generate the others.

A shard exists under its final name or not at all; nothing else records progress. job.json, written
once per run, only prevents that another list or other settings continue a folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
from argparse import Namespace
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from glide_core.batch.rows import Row, read_rows
from glide_core.batch.shards import FAILED, Folder, Numbered, finished, generate, write_shard
from glide_core.cli import common
from glide_core.errors import GlideError, as_glide_error, shorten
from glide_core.request import GenerationRequest, image_seed

if TYPE_CHECKING:
    from glide_core.pipeline import GlidePipeline

log = logging.getLogger("glide")
JOB = "job.json"
RESTARTS = 10  # of a Ray worker that was killed, and attempts at its shard

Done = tuple[str, int, int]  # a shard's path, how many rows it has, and how many of them failed


class JobFile(BaseModel):
    """What job.json says."""

    model_config = ConfigDict(strict=True)

    rows: int
    rows_sha256: str
    settings: dict[str, Any]


def run_job(arguments: Namespace) -> int:
    """Generate what is missing of a list and print each finished shard; gives the failed rows.

    arguments: of `glide generate`, with a list. Raises GlideError before any model is loaded for an
    invalid row, and for a folder that belongs to another job.
    """
    from tqdm import tqdm

    folder = Folder(str(arguments.out))
    count, about = _start(arguments, folder)
    done = finished(folder.names())
    had = sum(min(last, count) - first + 1 for first, last in done if first <= count)
    chunks = (
        [(row.number, request_of_row(arguments, row)) for row in chunk]
        for chunk in plan(read_rows(arguments.prompts), done, arguments.shard_size or 64)
    )
    shards: Iterable[Done] = ()
    if had >= count:
        log.warning("%s is complete: %d rows in %d shards", arguments.out, count, len(done))
    elif arguments.ray is not None:
        shards = on_ray(arguments, about, chunks)
    else:
        shards = map(Worker(arguments, about).write, chunks)
    all_failed, quiet = 0, arguments.quiet
    try:
        with tqdm(total=count, initial=had, unit="image", smoothing=0, disable=quiet) as bar:
            for path, rows, failed in shards:
                bar.update(rows)
                if failed:
                    log.warning("%d rows of %s failed: see %s", failed, path, FAILED)
                all_failed += failed
                print(path, flush=True)
    finally:
        parts = [name for name in folder.names() if name.endswith(f".{FAILED}")]
        if parts:
            folder.write(FAILED, b"".join(folder.read(name) for name in parts))
    return all_failed


def _start(arguments: Namespace, folder: Folder) -> tuple[int, dict[str, Any]]:
    """Check all rows, and write job.json or compare the one of an earlier run.

    Returns the number of rows, and what the metadata of their images have in common. Nothing of the
    list is kept in memory.
    """
    from glide_core.devices import pick_device, pick_dtype

    before = _earlier_job(folder)
    digest, same, count, guided = hashlib.sha256(), True, 0, False
    for count, row in enumerate(read_rows(arguments.prompts), 1):
        guided = guided or dict(row.settings).get("clip_scale", arguments.clip_scale) != 0
        digest.update(repr((row.prompt, row.seed, row.settings)).encode())
        if before is not None and count == before.rows:
            same = digest.hexdigest() == before.rows_sha256
    dtype = str(pick_dtype(arguments.dtype, pick_device(arguments.device))).removeprefix("torch.")
    models = {"dtype": dtype, "models": common.model_files(arguments, guided)}
    shared = {**common.request_of(arguments).metadata(), "seed": arguments.seed}
    del shared["prompt"]
    settings = json.loads(json.dumps({**shared, **models, "format": arguments.format or "tar"}))
    now = JobFile(rows=count, rows_sha256=digest.hexdigest(), settings=settings)
    if before is not None:
        _compare(before, now, same, folder.url)
    if before != now:
        folder.write(JOB, (now.model_dump_json(indent=1) + "\n").encode())
    return count, {**common.model_metadata(arguments), **models}


def request_of_row(arguments: Namespace, row: Row) -> GenerationRequest:
    """What a row asks for, with the command's options where it says nothing."""
    own = Namespace(**{**vars(arguments), **dict(row.settings), "prompt": row.prompt})
    seed = row.seed
    if seed is None:  # the command's seed plus the rows before this one, as -n counts
        seed = image_seed(arguments.seed, row.number - 1)
    return replace(common.request_of(own), seed=seed)


def _earlier_job(folder: Folder) -> JobFile | None:
    names = folder.names()
    if JOB in names:
        with as_glide_error(f"{folder.path(JOB)} is not a job of this version", ValueError, "out"):
            return JobFile.model_validate_json(folder.read(JOB))
    if finished(names):
        raise GlideError(f"{folder.url} has shards but no {JOB}. Choose another folder.", "out")
    return None


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

    def __init__(self, arguments: Namespace, about: Mapping[str, Any]) -> None:
        self.arguments = arguments
        self.about = about
        self.pipe: GlidePipeline | None = None

    def write(self, rows: list[Numbered]) -> Done:
        arguments, files = self.arguments, self.about["models"]
        if self.pipe is None:  # here, since Ray reports an error in __init__ without its cause
            guided = "clip" in files
            if common.model_files(arguments, guided) != files:
                raise GlideError("the models on this machine are not those the job began with")
            self.pipe = common.load_pipeline(arguments, "base", "upsampler", guided=guided)
        requests = self.pipe.prepare([request for _, request in rows])
        prepared = [(number, request) for (number, _), request in zip(rows, requests, strict=True)]
        results = generate(self.pipe, prepared, batch_size=arguments.batch)
        folder, kind = Folder(str(arguments.out)), arguments.format or "tar"
        name = f"shard-{rows[0][0]:08d}-{rows[-1][0]:08d}.{kind}"
        failed = write_shard(results, folder, name, self.about)
        return folder.path(name), len(rows), failed


def on_ray(
    arguments: Namespace, about: Mapping[str, Any], chunks: Iterable[list[Numbered]]
) -> Iterator[Done]:
    """Generate shards on a Ray cluster; a killed worker is restarted and repeats its shard.

    Without an address it starts a cluster on this machine, unless the environment variable
    RAY_ADDRESS names one. The number of workers is by default one per GPU, or without GPUs one per
    machine. Only as many shards as workers are in memory.
    """
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        raise GlideError("several workers need Ray: pip install 'glide-diffusion[ray]'") from error
    started = not ray.is_initialized()
    try:
        if started:
            ray.init(address=arguments.ray or None, log_to_driver=False, include_dashboard=False)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = arguments.workers or gpus or sum(bool(node["Alive"]) for node in ray.nodes())
        share = min(1.0, gpus / count)
        actor = ray.remote(
            num_cpus=1, num_gpus=share, max_restarts=RESTARTS, max_task_retries=RESTARTS
        )(Worker)
        pool = ActorPool([actor.remote(arguments, about) for _ in range(count)])
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


def plan(rows: Iterable[Row], done: list[tuple[int, int]], size: int) -> Iterator[list[Row]]:
    """Group the rows that no finished shard holds, cutting at multiples of `size`.

    Every run cuts at the same rows, and rows appended to a list begin a shard of their own.
    """
    starts = [first for first, _ in done]
    ends = list(accumulate((last for _, last in done), max))

    def group(row: Row) -> tuple[int, bool]:
        before = bisect(starts, row.number)  # how many shards begin at this row or before it
        exists = before > 0 and row.number <= ends[before - 1]
        return (row.number - 1) // size, exists

    for (_, exists), chunk in groupby(rows, group):
        if not exists:
            yield list(chunk)
