"""Files that cannot be used, and places that cannot be written to: named in one line."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from cli.commands import QUICK, TWO_STAGES, glide
from PIL import Image
from safetensors.torch import load_file, save_file

from glide_core import io


def test_missing_models_are_not_downloaded_implicitly(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert glide("generate", "x", "--model", "openai-base", "--out", out) == 1
    assert "glide models download openai-base" in capsys.readouterr().err


def bad_files(folder: Path, good: Path) -> dict[str, Path]:
    files = {name: folder / f"{name}.safetensors" for name in ("truncated", "nan", "text")}
    files["pickle"] = folder / "pickle.pt"
    files["truncated"].write_bytes(good.read_bytes()[:5000])
    weights = load_file(good)
    name = next(iter(weights))
    save_file({**weights, name: torch.full_like(weights[name], torch.nan)}, files["nan"])
    files["text"].write_text("hello")
    torch.save(Unsafe(), files["pickle"])
    return files


class Unsafe:
    def __reduce__(self) -> Any:
        return (print, ("code was run",))


@pytest.mark.parametrize("kind", ["truncated", "nan", "text", "pickle", "missing"])
def test_a_bad_checkpoint_is_named_and_nothing_is_written(
    kind: str, out: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = bad_files(out.parent, model_folder / "tiny_base.safetensors")
    path = files.get(kind, out.parent / "missing.safetensors")
    assert glide("generate", "x", "--model", path, "--out", out, "--quiet") == 1
    said = capsys.readouterr()
    assert path.name in said.err and "Traceback" not in said.err
    assert "code was run" not in said.out
    assert not out.exists()


@pytest.mark.parametrize("inside", ["", "further/down"])
def test_an_invalid_output_folder_is_refused_before_sampling(
    inside: str, out: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ["--model", "nowhere.safetensors"]
    assert glide("generate", "x", *missing, "--out", photo / inside) == 1
    said = capsys.readouterr().err
    assert f"{photo} is not a folder" in said and "--out" in said
    assert glide("run", out.parent / "none.json", "--out", photo / inside) == 1


def test_an_image_too_long_and_thin_is_refused(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out.parent / "long.png"
    Image.new("RGB", (400, 3)).save(path)
    words = [path, "x", "--model", "tiny_upsampler.safetensors", "--quiet", "--out", out]
    assert glide("upscale", *words) == 1
    assert "too long and thin" in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_is_not_read_as_an_image(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glide("upscale", out.parent, "x", "--out", out) == 1
    assert "not a regular file" in capsys.readouterr().err


def test_an_unreadable_image_is_named(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = out.parent / "broken.png"
    path.write_bytes(b"not an image")
    assert glide("upscale", path, "x", "--out", out) == 1
    assert "broken.png" in capsys.readouterr().err
    assert not out.exists()


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(KeyboardInterrupt):
        io.save_images([Image.new("RGB", (4, 4))], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["/proc/x", "/dev/null", "a" * 300, "\0", "/dev/full/x"])
def test_invalid_output_folders_are_one_line_errors(
    folder: str, model_folder: Path, capsys: Any
) -> None:
    assert glide("generate", "x", *TWO_STAGES, *QUICK, "--out", folder) == 1
    said = capsys.readouterr().err.splitlines()
    assert (len(said) == 1 and "--out" in said[0]) or "cannot write" in said[0]


def test_an_image_limit_can_be_raised(out: Path, photo: Path, capsys: Any) -> None:
    words = ["upscale", photo, "x", "--model", "tiny_upsampler.safetensors", "--steps", 1]
    assert glide(*words, "--max-pixels", 5399, "--quiet", "--out", out) == 1
    assert "90x60 has more than the allowed 5,399 pixels" in capsys.readouterr().err
    assert glide(*words, "--max-pixels", 5400, "--quiet", "--out", out) == 0


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "x", *TWO_STAGES, *QUICK, "--lora", "~no-such-user/x"],
        ["models", "merge", "tiny_base.safetensors", "~no-such-user/x", "new.safetensors"],
        ["models", "convert", ""],
        ["models", "convert", "/"],
    ],
    ids=lambda words: " ".join(words)[-24:],
)
def test_a_path_that_cannot_be_one_is_one_line(
    words: list[str], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert glide(*words) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_damaged_tiff_gives_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    content = bytearray(b"II*\0\x08\0\0\0\x20\0")
    for tag in range(256, 288):  # each tag's data are beyond the end
        content += struct.pack("<HHII", tag, 4, 1000, 2**30)
    (tmp_path / "x.tiff").write_bytes(content)
    assert glide("upscale", tmp_path / "x.tiff", "x", "--quiet") == 1
    assert capfd.readouterr().err.count("\n") == 1 and not recwarn.list
