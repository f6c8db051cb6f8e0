"""Lists and shards in other places and formats: object stores, Parquet, Ray."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from batch.lists import MODELS, images, members, pixels, prompts, rows_of, samples, words

from glide_core.batch.job import Done, Worker
from glide_core.batch.rows import read_rows
from glide_core.batch.shards import Numbered
from glide_core.cli import main

OBJECTS = "s3://batch-tests/job"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3-compatible server on this machine, with an empty bucket."""
    server_module = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem(use_listings_cache=False)
    files.mkdir("batch-tests")
    yield files
    s3fs.S3FileSystem.clear_instance_cache()
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10)
    server.stop()


@pytest.mark.slow
def test_a_list_and_its_shards_can_be_in_an_object_store(
    store: Any, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = prompts(tmp_path, 5)
    store.pipe_file("batch-tests/lists/list.csv", table.read_bytes())
    command = words("s3://batch-tests/lists/list.csv", OBJECTS, "--shard-size", 2)
    assert main(command) == 0
    shards = [f"shard-0000000{a}-0000000{b}.tar" for a, b in ((1, 2), (3, 4), (5, 5))]
    assert capsys.readouterr().out.split() == [f"{OBJECTS}/{name}" for name in shards]
    names = sorted(path.rsplit("/", 1)[-1] for path in store.ls("batch-tests/job"))
    assert names == ["job.json", *shards]
    assert main(words(table, out)) == 0
    found = {k: v for name in shards for k, v in members(store.cat_file(f"{OBJECTS}/{name}"))}
    assert found == samples(out)

    store.rm_file(f"batch-tests/job/{shards[1]}")
    assert main(command) == 0
    assert capsys.readouterr().out.split()[-1] == f"{OBJECTS}/{shards[1]}"
    assert dict(members(store.cat_file(f"{OBJECTS}/{shards[1]}"))).items() <= found.items()


@pytest.mark.slow
def test_a_store_that_refuses_is_one_error(
    store: Any, tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del store
    assert main(words(prompts(tmp_path, 2), "s3://no-such-bucket/job")) == 1
    assert "s3://no-such-bucket/job" in capsys.readouterr().err
    assert main(words("s3://batch-tests/none.csv", OBJECTS)) == 1
    assert "s3://batch-tests/none.csv cannot be read" in capsys.readouterr().err
    assert main(words(prompts(tmp_path, 2), "nosuch://bucket")) == 1
    assert "nosuch://bucket cannot be opened" in capsys.readouterr().err


def test_parquet_in_and_out(tmp_path: Path, out: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = tmp_path / "list.parquet"
    columns = {"prompt": ["a", "b"], "seed": [2**64 - 1, None], "cfg": [None, 2.5]}
    types = [("prompt", pa.string()), ("seed", pa.uint64()), ("cfg", pa.float32())]
    parquet.write_table(pa.table(columns, schema=pa.schema(types)), table)
    first, second = read_rows(table)
    assert (first.seed, first.settings) == (2**64 - 1, {})
    assert (second.seed, second.settings) == (None, {"cfg": 2.5})
    assert main(words(table, out / "parquet", "--format", "parquet")) == 0
    assert main(words(table, out / "tar")) == 0
    found = parquet.read_table(out / "parquet" / "shard-00000001-00000002.parquet").to_pylist()
    assert [(r["row"], r["prompt"], r["seed"]) for r in found] == [(1, "a", 2**64 - 1), (2, "b", 1)]
    tar = samples(out / "tar")
    for row in found:
        assert row["image"]["bytes"] == tar[row["image"]["path"]]
        assert json.loads(row["metadata"]) == json.loads(tar[f"{row['row']:08d}.json"])


def test_a_file_that_is_not_parquet_is_one_error(tmp_path: Path, out: Path) -> None:
    pytest.importorskip("pyarrow")
    table = tmp_path / "list.parquet"
    for content in (b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"prompt\na\n"):
        table.write_bytes(content)
        assert main(words(table, out)) == 1


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tiny_models: Path) -> Iterator[Any]:
    """A Ray cluster on this machine with two processors."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GLIDE_MODELS", str(tiny_models))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


class Killed(Worker):
    """A worker that is killed once, at the shard that begins with row 7."""

    def write(self, rows: list[Numbered]) -> Done:
        mark = Path(self.job.out) / "killed"
        if rows[0][0] == 7 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(rows)


@pytest.mark.slow
def test_two_workers_generate_the_same_images_although_one_is_killed(
    cluster: Any, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    table = prompts(tmp_path, 12)
    with monkeypatch.context() as patch:
        patch.setattr("glide_core.batch.job.Worker", Killed)
        more = ["--shard-size", 2, "--ray", "--workers", 2]
        assert main(words(table, out / "ray", *more)) == 0
    assert (out / "ray" / "killed").exists()
    assert rows_of(out / "ray") == list(range(1, 13))
    assert main(words(table, out / "here")) == 0
    assert images(out / "ray") == images(out / "here")


@pytest.mark.slow
def test_a_failing_row_and_a_failing_worker_are_reported_from_ray(
    cluster: Any, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "list.csv"
    table.write_text("prompt,clip_scale\na,\nb,1e38\n")
    assert main(words(table, out, "--ray", "--clip", "tiny_clip.safetensors")) == 1
    assert rows_of(out) == [1] and "failed.jsonl" in capsys.readouterr().err
    bad = ["generate", "--prompts", str(table), "--out", str(out / "bad"), *MODELS, "--ray"]
    assert main([*bad, "--model", "tiny_upsampler.safetensors"]) == 1
    said = capsys.readouterr().err
    assert "a Ray worker failed: " in said and "upsampler" in said and "Traceback" not in said
    assert pixels(samples(out)["00000001.png"]).shape == (64, 64, 3)
