"""Several processes on one job: who we are, what we take, and stopping when asked.

A shard belongs to whoever holds the lock on its file. The system drops a dead process' locks, so
that its shards are free for the others and for a rerun.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from glide_core.batch.shards import Shard, Store
from glide_core.errors import GlideError

if TYPE_CHECKING:
    import torch
    from filelock import BaseFileLock


@dataclass(frozen=True)
class Place:
    """Our place among the processes that one launcher started."""

    rank: int = 0
    size: int = 1
    local: int = 0  # on this machine

    @staticmethod
    def of(environment: Mapping[str, str] = os.environ) -> Place:
        """Read RANK, WORLD_SIZE and LOCAL_RANK, as accelerate launch and torchrun set them."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        said = [
            environment.get(name) or default for name, default in zip(names, "010", strict=True)
        ]
        try:
            rank, size, local = map(int, said)
        except ValueError:
            rank, size, local = -1, 0, 0
        if not 0 <= rank < size or local < 0:
            raise GlideError(
                f"RANK={said[0]} WORLD_SIZE={said[1]} LOCAL_RANK={said[2]} is no place among "
                "processes. Expected numbers with RANK below WORLD_SIZE, as accelerate launch sets "
                "them. Unset them to run alone."
            )
        return Place(rank, size, local)

    def device(self, name: str) -> torch.device:
        """Pick the device; where a GPU is left to us, each process of a machine has its own."""
        import torch

        from glide_core.devices import pick_device

        if self.size > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
            name = f"cuda:{self.local % torch.cuda.device_count()}"
        return pick_device(name)

    def order(self, shards: Sequence[Shard]) -> list[Shard]:
        """Our own shards (number modulo processes), then everybody's: a quick process helps out."""
        return sorted(shards, key=lambda s: (s.number % self.size != self.rank, s.number))


@contextmanager
def locked(store: Store, name: str, *, wait: bool) -> Iterator[bool]:
    """Hold a lock among all processes and machines that see the job's folder.

    Gives whether it is ours: always with `wait`.
    """
    from filelock import FileLock, Timeout

    lock: BaseFileLock = FileLock(store.lock(name), thread_local=False)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        raise GlideError(
            f"{store.folder} is on a file system that cannot lock files ({error}). Expected one "
            "that can, so that no two processes draw the same. Choose another folder with --out."
        ) from error
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def claimed(order: Sequence[Shard], store: Store) -> Iterator[Shard | None]:
    """Hold the first shard that is neither done nor another process'; None when there is none."""
    done = store.done()
    for shard in order:
        if shard.number in done:
            continue
        with locked(store, shard.name, wait=False) as ours:
            if ours and not store.path(shard).exists():  # it may have been finished meanwhile
                yield shard
                if store.path(shard).exists():
                    # Only now: who still waits at the removed file looks again and finds it done.
                    store.unlock(shard.name)
                return
    yield None


class Stop:
    """Whether Ctrl-C or SIGTERM came, to be asked between pictures.

    A second Ctrl-C stops at once. Launchers pass the first one on a second time, so that it must
    come later than that.
    """

    came: int | None = None  # the signal's number
    _at = 0.0

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take the two signals over; only a program's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, self._came)
        try:
            yield self
        finally:
            for taken, handler in before.items():
                signal.signal(taken, handler)

    def _came(self, number: int, frame: FrameType | None) -> None:
        import time

        now = time.monotonic()
        if self.came is None:
            self.came, self._at = number, now
        elif number == signal.SIGINT and now - self._at > 1:
            raise KeyboardInterrupt
