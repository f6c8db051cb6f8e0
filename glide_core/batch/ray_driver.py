"""Generate the shards of a job with Ray actors, one pipeline each, on any number of machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from glide_core.batch.job import Done, Job
from glide_core.batch.shards import Numbered
from glide_core.errors import GlideError, shorten

if TYPE_CHECKING:
    from glide_core.pipeline import GlidePipeline

RESTARTS = 10  # of a worker that was killed, and attempts at its shard


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
        raise GlideError("--ray needs Ray: pip install 'glide-diffusion[ray]'") from error
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
