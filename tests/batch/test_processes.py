"""Several processes, and processes that are killed: every row once, and the same picture."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from batch.jobs import index, manifest, prompts, samples, start, words

from glide_core.batch.processes import Place, Stop, claimed, locked
from glide_core.batch.shards import Store, plan
from glide_core.cli import main
from glide_core.errors import GlideError

ROWS = 12
POSIX = pytest.mark.skipif(os.name != "posix", reason="Windows has no signals to send")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prompts(tmp_path_factory.mktemp("list"), ROWS)


@pytest.fixture(scope="module", autouse=True)
def like_the_processes(tiny_models: Path) -> Iterator[None]:
    """What runs in the tests' own process has one thread too: its pictures must be the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLIDE_MODELS", str(tiny_models))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a job that one process drew from beginning to end."""
    out = tmp_path_factory.mktemp("alone") / "out"
    assert main(words(table, out, "--shard-size", 3)) == 0
    found = samples(out)
    assert len(found) == 2 * ROWS
    return found


def finish(*processes: subprocess.Popen[str]) -> list[str]:
    """Wait for processes to end well; gives what each wrote to stdout."""
    said = [process.communicate(timeout=300) for process in processes]
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors
    return [out for out, _ in said]


def when_begun(process: subprocess.Popen[str], out: Path) -> None:
    """Return as soon as the process has put a picture into an unfinished shard."""
    while not any(out.glob("*.partial/*.png")):
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
            raise AssertionError(f"it ended too early: {process.communicate()}")


def rows_left(out: Path) -> int:
    return ROWS - len(list(out.glob("*.partial/*.png")))


def test_two_processes_draw_what_one_draws_and_share_it(
    table: Path, tiny_models: Path, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    command = words(table, tmp_path / "out", "--shard-size", 1)
    said = finish(
        *(
            start(command, tiny_models, RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
            for rank in range(2)
        )
    )
    assert samples(tmp_path / "out") == alone
    assert [row["row"] for row in index(tmp_path / "out")] == [str(i + 1) for i in range(ROWS)]
    printed = [Path(path).name for lines in said for path in lines.split()]
    shards = [f"shard-{i:05d}.tar" for i in range(ROWS)]
    assert sorted(printed) == ["index.csv", *shards]  # each finished by one of them
    assert {shard["state"] for shard in manifest(tmp_path / "out")["shards"]} == {"done"}
    left = {path.name for path in (tmp_path / "out").iterdir()} - set(shards)
    assert left == {"index.csv", "manifest.json"}


@pytest.mark.skipif(not importlib.util.find_spec("accelerate"), reason="accelerate is not here")
def test_under_accelerate_launch_two_processes_draw_what_one_draws(
    table: Path, tiny_models: Path, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    # --multi_gpu: what accelerate calls several processes on a machine, with GPUs or without
    launcher = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    command = words(table, tmp_path / "out", "--shard-size", 3)
    finish(start(command, tiny_models, (*launcher, "--main_process_port", "0")))
    assert samples(tmp_path / "out") == alone
    assert len(index(tmp_path / "out")) == ROWS


def test_a_process_draws_the_shards_of_those_that_never_came(
    table: Path, tmp_path: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert main(words(table, tmp_path / "out", "--shard-size", 3)) == 0
    assert samples(tmp_path / "out") == alone


@POSIX
def test_a_kill_loses_and_doubles_nothing(
    table: Path, tiny_models: Path, tmp_path: Path, alone: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    command = words(table, out, "--shard-size", ROWS)
    process = start(command, tiny_models)
    when_begun(process, out)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 0 < rows_left(out) < ROWS
    assert not (out / "index.csv").exists() and not (out / "shard-00000.tar").exists()
    assert main(command) == 0
    assert samples(out) == alone
    assert [row["row"] for row in index(out)] == [str(i + 1) for i in range(ROWS)]
    assert sorted(path.name for path in out.iterdir()) == [
        "index.csv",
        "manifest.json",
        "shard-00000.tar",
    ]


@POSIX
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_ends_after_the_picture_and_the_same_command_goes_on(
    number: signal.Signals,
    status: int,
    table: Path,
    tiny_models: Path,
    tmp_path: Path,
    alone: dict[str, bytes],
) -> None:
    out = tmp_path / "out"
    command = words(table, out, "--shard-size", ROWS)
    process = start(command, tiny_models)
    when_begun(process, out)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == status and "Traceback" not in errors
    drawn = ROWS - rows_left(out)
    assert f"stopped: {drawn} of {ROWS} pictures" in errors and 0 < drawn < ROWS
    partial = sorted(path.name for path in (out / "shard-00000.partial").iterdir())
    assert len(partial) == 2 * drawn and not [name for name in partial if name.endswith(".tmp")]
    assert main(command) == 0
    assert samples(out) == alone


def test_a_shard_is_one_process_at_a_time(tmp_path: Path) -> None:
    store, shards = Store(tmp_path, "tar", 6), plan(6, 2)
    with claimed(shards, store) as first, claimed(shards, store) as second:
        assert first == shards[0] and second == shards[1]
        store.path(shards[2]).write_bytes(b"")
        with claimed(shards, store) as third:
            assert third is None
    with claimed(shards, store) as again:
        assert again == shards[0]
    with locked(store, "x", wait=False) as ours, locked(store, "x", wait=False) as theirs:
        assert ours and not theirs


def test_each_process_begins_with_its_own_shards() -> None:
    shards = plan(10, 2)
    assert [s.number for s in Place(1, 2, 1).order(shards)] == [1, 3, 0, 2, 4]
    assert [s.number for s in Place().order(shards)] == [0, 1, 2, 3, 4]
    assert [list(s.members) for s in plan(5, 2)] == [[1, 2], [3, 4], [5]]


def test_the_place_comes_from_the_launchers_environment() -> None:
    assert Place.of({}) == Place(0, 1, 0)
    assert Place.of({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Place(5, 8, 1)
    for bad in ({"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x"}, {"LOCAL_RANK": "-1"}):
        with pytest.raises(GlideError, match="no place among processes"):
            Place.of(bad)


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("glide_core.devices.pick_device", lambda name: name)
    assert [Place(4 + i, 8, i).device("auto") for i in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert Place(1, 2, 1).device("cuda:0") == "cuda:0" and Place(1, 2, 1).device("cpu") == "cpu"
    assert Place(0, 1, 0).device("auto") == "auto"


@POSIX
def test_a_second_ctrl_c_stops_at_once_unless_it_is_the_first_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock: Iterator[float] = iter([10.0, 10.2, 20.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    before = signal.getsignal(signal.SIGINT)
    with Stop().listening() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.came == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
