"""`glide train` from a folder of images to a file that `glide generate` uses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from glide_core.checkpoints.loading import inspect, load_model
from glide_core.cli import main, options
from glide_core.config import GlideConfig
from glide_core.data import source
from glide_core.training import samples

QUICK = ["--steps", "2", "--batch", "2", "--fp32", "--device", "cpu"]
QUICK += ["--sample-every", "0", "--no-prior"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten tiny images with captions beside them."""
    folder = tmp_path_factory.mktemp("data") / "images"
    folder.mkdir()
    for i in range(10):
        image = Image.new("RGB", (64, 64), (25 * i, 40, 250 - 25 * i))
        image.putpixel((i, i), (255, 255, 255))
        image.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"number {i}")
    return folder


def train(*arguments: object) -> int:
    return main(["train", *map(str, arguments)])


def test_fine_tuning_on_ten_images_writes_a_usable_model(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train("base", "--data", images, "--init-from", "base", "--out", out, *QUICK) == 0
    model = out / "base.safetensors"
    assert str(model) in capsys.readouterr().out
    generate = ["generate", "number 3", "--model", str(model), "--steps", "2", "--no-upsample"]
    assert main([*generate, "--device", "cpu", "--out", str(tmp_path / "drawn")]) == 0
    (image,) = (tmp_path / "drawn").glob("*.png")
    assert Image.open(image).size == (64, 64)


def test_a_lora_of_ten_images_changes_the_base_models_output(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    lora = ["--lora", "2", "--lr", "0.05", "--init-from", "base"]
    assert train("base", "--data", images, "--out", out, *QUICK, *lora) == 0
    file = out / "base_lora.safetensors"
    seen = {}
    for name, given in {"plain": [], "none": [f"{file}:0"], "whole": [str(file)]}.items():
        generate = ["generate", "number 3", "--steps", "2", "--no-upsample", "--device", "cpu"]
        for one in given:
            generate += ["--lora", one]
        assert main([*generate, "--out", str(tmp_path / name)]) == 0
        (image,) = (tmp_path / name).glob("*.png")
        seen[name] = Image.open(image).tobytes()
    assert seen["none"] == seen["plain"] != seen["whole"]


@pytest.mark.parametrize(
    ("job", "start", "more"),
    [
        ("inpaint", "base", []),
        ("upsampler", "upsampler", ["--size", "64", "--crop", "32"]),
        ("upsampler-inpaint", "upsampler", ["--size", "64", "--crop", "32"]),
        ("clip", "clip", []),
    ],
)
def test_every_job_fine_tunes_a_bundled_model(
    job: str, start: str, more: list[str], images: Path, tmp_path: Path
) -> None:
    given = ["--data", images, "--out", tmp_path, "--init-from", start, *QUICK, *more]
    assert train(job, *given) == 0
    found = inspect(tmp_path / f"{job.replace('-', '_')}.safetensors")
    assert getattr(found, "kind", "clip") == job


def test_a_model_from_scratch_has_the_size_and_prediction_asked_for(
    images: Path, tmp_path: Path
) -> None:
    asked = ["--size", "32", "--prediction", "epsilon", "--weighting", "min-snr"]
    asked += ["--timesteps", "high", "--grad-accum", "2", "--gradient-checkpointing"]
    assert train("base", "--data", images, "--out", tmp_path, *QUICK, *asked) == 0
    config = load_model(tmp_path / "base.safetensors").config
    assert isinstance(config, GlideConfig)
    assert (config.unet.image_size, config.schedule.prediction_type) == (32, "epsilon")


def test_the_same_command_resumes(
    images: Path, tmp_path: Path, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tiny_models / "tiny_base.safetensors"
    given = ["base", "--data", images, "--out", tmp_path, "--init-from", start, "--size", "16"]
    assert train(*given, *QUICK) == 0
    assert train(*given, *QUICK, "--steps", "4", "--log-every", "1") == 0
    steps = [line.split(",")[0] for line in (tmp_path / "log.csv").read_text().splitlines()]
    assert steps == ["step", "3", "4"]  # the first run logged every tenth


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--init-from", "nothing"], "model 'nothing' was not found"),
        (["--init-from", "upsampler"], "kind 'upsampler'. Expected base"),
        (["--lora", "2"], "give initial weights (--init-from)"),
        (["--lora-text"], "need --lora RANK"),
        (["--grad-accum", "3"], "multiple of 3"),
        (["--size", "10"], "multiple of"),
        (["--device", "nowhere"], "is not available"),
        (["--init-from", "base", "--prediction", "epsilon"], "cannot be changed"),
    ],
)
def test_invalid_training_options_are_refused_before_the_first_step(
    given: list[str], said: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("base", "--data", images, "--out", tmp_path / "run", *QUICK, *given) in (1, 2)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_bad_image_is_refused_or_skipped_as_configured(
    images: Path, tmp_path: Path, tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for file in images.iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    (data / "3.png").write_bytes(b"no image")
    start = ["--init-from", tiny_models / "tiny_base.safetensors", "--size", "16"]
    given = ["base", "--data", data, "--out", tmp_path / "run", *start, *QUICK]
    assert train(*given) == 1
    assert "3.png" in capsys.readouterr().err
    assert train(*given, "--skip-bad") == 0


@pytest.mark.skipif(os.name == "nt", reason="no signals of this kind on Windows")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops_within_a_step(
    number: signal.Signals, images: Path, tmp_path: Path, tiny_models: Path
) -> None:
    given = ["base", "--data", images, "--out", tmp_path, "--size", "16", "--log-every", "1"]
    given += ["--init-from", tiny_models / "tiny_base.safetensors", *QUICK, "--steps", "1000000"]
    with subprocess.Popen(
        [sys.executable, "-m", "glide_core.cli", "train", *map(str, given)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as run:
        assert run.stderr is not None
        while "loss=" not in run.stderr.read(1000):  # until the bar has shown a step
            assert run.poll() is None
        run.send_signal(number)
        printed, _ = run.communicate(timeout=300)
    assert run.returncode == 128 + number
    assert "stopped at step" in printed
    step = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"]
    logged = (tmp_path / "log.csv").read_text().splitlines()
    assert step == len(logged) - 1 < 1000000
    assert load_model(tmp_path / "base.safetensors").config.unet.image_size == 16


def test_a_lora_is_named_with_or_without_its_strength() -> None:
    assert options.lora("a.safetensors") == ("a.safetensors", 1.0)
    assert options.lora("a.safetensors:0.5") == ("a.safetensors", 0.5)
    assert options.lora("c:/a.safetensors") == ("c:/a.safetensors", 1.0)
    assert options.lora("c:/a.safetensors:-1") == ("c:/a.safetensors", -1.0)


def test_old_captions_are_mixed_in_when_a_bundled_model_is_fine_tuned(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "PRIOR_IMAGES", 3)
    out = tmp_path / "run"
    quick = [option for option in QUICK if option != "--no-prior"]
    assert train("base", "--data", images, "--init-from", "base", "--out", out, *quick) == 0
    rows = [json.loads(line) for line in (out / "prior" / "metadata.jsonl").open()]
    assert len(rows) == 3
    assert all(" background" in row["text"] for row in rows)
    before = (out / "prior" / "0000.png").stat().st_mtime_ns
    more = ["--steps", "3", "--init-from", "base", "--out", out]
    assert train("base", "--data", images, *quick, *more) == 0  # generated once
    assert (out / "prior" / "0000.png").stat().st_mtime_ns == before


def test_captions_to_keep_can_be_given(images: Path, tmp_path: Path, tiny_models: Path) -> None:
    (tmp_path / "old.txt").write_text("a red circle\n\na blue square\n")
    start = tiny_models / "tiny_base.safetensors"
    given = ["base", "--data", images, "--out", tmp_path / "run", "--init-from", start]
    quick = [option for option in QUICK if option != "--no-prior"]
    prior = ["--prior-prompts", tmp_path / "old.txt", "--size", "16"]
    assert train(*given, *quick, *prior) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/prior/metadata.jsonl").open()]
    assert [row["text"] for row in rows] == ["a red circle", "a blue square"]


def test_data_is_decoded_once_over_all_runs(
    images: Path, tmp_path: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tiny_models / "tiny_base.safetensors"
    given = ["base", "--data", images, "--out", tmp_path, "--init-from", start, "--size", "16"]
    assert train(*given, *QUICK) == 0
    monkeypatch.setattr(source, "_inspect_all", lambda *_: pytest.fail("checked again"))
    assert train(*given, *QUICK, "--steps", "3") == 0


@pytest.mark.skipif(os.name == "nt", reason="no links or /proc on Windows")
@pytest.mark.parametrize("place", ["file", "link", "/proc/run"])
def test_an_out_that_cannot_be_written_is_one_line(
    place: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "far")
    assert train("base", "--data", images, "--out", tmp_path / place, *QUICK) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
