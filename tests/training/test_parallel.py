"""Two processes take the steps that one takes: the same losses, the same weights."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_runs import TINY, trainer

from glide_core.errors import GlideError
from glide_core.training import distributed

TESTS = Path(__file__).parents[1]
WORKER = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from training_runs import TINY, trainer

torch.set_num_threads(1)
job, parts, models, out = sys.argv[1:]
size = None if job == "clip" else 16
config = replace(TINY, job=job, batch=8, steps=9, grad_accum_steps=int(parts), size=size)
run = trainer(config, Path(out), Path(models) / f"tiny_{job}.safetensors")
assert run.accelerator.num_processes == 2
steps = [run.one_step(run.accelerator.process_index == 1 and run.step == 4) for _ in range(5)]
run.save()
weights = {key: value.detach() for key, value in run.weights.items()}
torch.save((steps, weights), Path(out) / f"{run.accelerator.process_index}.pt")
run.accelerator.end_training()
"""


def environment() -> dict[str, str]:
    paths = [str(TESTS), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def two_processes(code: str, *arguments: str) -> None:
    """Run code in two processes of one group, as a launcher would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env={**environment(), **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]


@pytest.mark.parametrize(("job", "parts"), [("base", 2), ("clip", 1), ("clip", 2)])
def test_two_processes_have_the_loss_curve_of_one(
    job: str, parts: int, tiny_models: Path, tmp_path: Path
) -> None:
    two_processes(WORKER, job, str(parts), str(tiny_models), str(tmp_path))
    size = None if job == "clip" else 16
    config = replace(TINY, job=job, batch=8, steps=9, size=size)  # type: ignore[arg-type]
    alone = trainer(config, tmp_path / "alone", tiny_models / f"tiny_{job}.safetensors")
    curve = [alone.one_step() for _ in range(5)]
    (first, weights), (second, others) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)
    )
    for key in weights:
        assert torch.equal(weights[key], others[key]), key
    for name in curve[0].keys() - {"stop"}:
        expected = pytest.approx([step[name] for step in curve], rel=1e-4)
        assert [step[name] for step in first] == expected, name
        assert [step[name] for step in second] == expected, name
    # the second process got the signal in its fifth step, and both processes stop
    assert [step["stop"] > 0 for step in first] == [False] * 4 + [True]


def test_a_run_resumes_with_another_number_of_processes(tiny_models: Path, tmp_path: Path) -> None:
    two_processes(WORKER, "base", "1", str(tiny_models), str(tmp_path / "two"))
    start = tiny_models / "tiny_base.safetensors"
    config = replace(TINY, batch=8, steps=9)
    resumed = trainer(config, tmp_path / "two", start)
    assert resumed.step == 5
    alone = trainer(config, tmp_path / "alone", start)
    curve = [alone.one_step()["loss"] for _ in range(6)]
    assert resumed.one_step()["loss"] == pytest.approx(curve[5], rel=1e-4)


def test_accelerate_launch_trains_as_one_process_does(tiny_models: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("accelerate") is None:
        pytest.skip("accelerate is not installed")
    images = tmp_path / "images"
    write_images(images)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--main_process_port", str(port), "-m"]
    curves = [
        train([*launcher, "glide_core.cli.train"], images, tiny_models, out)
        for launcher, out in (
            (command, tmp_path / "two"),
            ([sys.executable, "-m"], tmp_path / "one"),
        )
    ]
    assert len(curves[1]) == 5
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def train(command: Sequence[str], images: Path, models: Path, out: Path) -> list[float]:
    """Run `glide train` in processes of its own; gives its losses."""
    options = ["--batch", "4", "--steps", "5", "--size", "16", "--log-every", "1", "--fp32"]
    options += ["--sample-every", "0", "--device", "cpu", "--out", str(out)]
    start = str(models / "tiny_base.safetensors")
    done = subprocess.run(
        [*command, "base", "--data", str(images), "--init-from", start, *options],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    header, *rows = (out / "log.csv").read_text().splitlines()
    column = header.split(",").index("loss")
    return [float(row.split(",")[column]) for row in rows]


def write_images(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    for name, colour in (("red", (220, 30, 30)), ("green", (30, 200, 60)), ("blue", (20, 40, 230))):
        Image.new("RGB", (64, 64), colour).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"plain {name}")


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = distributed.make_accelerator(TINY, "cpu")
    assert accelerator.num_processes == 1
    assert distributed.on_main(accelerator, lambda: 3) == 3


def test_several_processes_choose_their_own_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(GlideError, match="GPU of its local rank"):
        distributed.make_accelerator(TINY, "cuda:1")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_several_processes_do_not_pick_a_device_before_their_own(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pick_device would allocate memory on the first GPU in every process."""
    accelerate = pytest.importorskip("accelerate")
    made = SimpleNamespace(device=torch.device("cpu"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(accelerate, "Accelerator", lambda **_: made)
    monkeypatch.setattr(distributed, "pick_device", lambda name: pytest.fail(f"picked {name}"))
    assert distributed.make_accelerator(TINY, device) is made


PRETRAINED = """
import sys
from pathlib import Path
import torch
from training_runs import TINY, Colours
from glide_core.training.trainer import RunConfig, Trainer
from recipes.emoji.text_pretraining import any_process

torch.set_num_threads(1)

def on_start(trainer):  # as pretraining that is not the same everywhere
    with torch.no_grad():
        trainer.weights["unet.out.2.bias"].add_(trainer.accelerator.process_index + 1)
    second = trainer.accelerator.process_index == 1
    found = [any_process(trainer.accelerator, flag) for flag in (second, False)]
    assert found == [True, False]

run = Trainer(TINY, RunConfig(Path(sys.argv[1]), sample_every=0), Colours(12), on_start=on_start)
run.one_step()
rank = run.accelerator.process_index
torch.save({k: v.detach() for k, v in run.weights.items()}, Path(sys.argv[1]) / f"{rank}.pt")
run.accelerator.end_training()
"""


def test_processes_agree_after_a_start_hook(tmp_path: Path) -> None:
    two_processes(PRETRAINED, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
