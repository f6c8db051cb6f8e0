"""Atomic writes: whole or not at all, usual permissions, temporary files of killed runs removed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from images_on_disk import png_text
from PIL import Image

from glide_core import io
from glide_core.checkpoints.files import write_tensors
from glide_core.errors import GlideError


def test_a_write_replaces_the_file_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.txt"
    with io.atomic_write(path) as temporary:
        temporary.write_text("1")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), io.atomic_write(path) as temporary:
        temporary.write_text("2")
        raise KeyboardInterrupt
    assert path.read_text() == "1" and os.listdir(path.parent) == ["x.txt"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX systems")
def test_a_new_file_has_the_usual_permissions_and_the_umask_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    monkeypatch.setattr(os, "umask", None)  # it is process-wide: a race in threaded programs
    with io.atomic_write(tmp_path / "x") as temporary:
        temporary.unlink()
        temporary.touch(0o600)
    assert (tmp_path / "x").stat().st_mode == plain.stat().st_mode


def test_temporary_files_of_killed_runs_are_removed_and_those_of_others_kept(
    tmp_path: Path,
) -> None:
    code = (
        "import os, sys; from pathlib import Path; from glide_core import io\n"
        "writing = io.atomic_write(Path(sys.argv[1])); print(writing.__enter__())\n"
        "sys.stdout.flush(); os._exit(9)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "x")]
    left = Path(subprocess.run(words, capture_output=True, text=True).stdout.strip())
    other = tmp_path / f".x.{'0' * 8}-1-{'0' * 8}.tmp"  # of another machine, today
    other.touch()
    assert left.exists()
    with io.atomic_write(tmp_path / "x") as mine, io.atomic_write(tmp_path / "x"):
        assert not left.exists() and mine.exists() and other.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(GlideError, match="cannot write"), io.atomic_write(tmp_path / "x"):
        Path("/dev/full").write_bytes(b"x" * 10_000)
    with pytest.raises(GlideError, match="cannot write"), io.atomic_write(tmp_path / "x"):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on file sizes")
def test_a_checkpoint_that_does_not_fit_on_the_disk_is_one_error(tmp_path: Path) -> None:
    import resource

    state = {"weights": torch.zeros(100_000)}
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old[1]))
    try:
        with pytest.raises(GlideError, match=r"cannot write .*checkpoint\.pt"):
            write_tensors(state, tmp_path / "checkpoint.pt", {})
        with (
            pytest.raises(GlideError, match=r"cannot write .*checkpoint\.pt"),
            io.atomic_write(tmp_path / "checkpoint.pt") as temporary,
        ):
            torch.save(state, temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert os.listdir(tmp_path) == []


def test_images_are_numbered_and_nothing_is_overwritten(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4))
    (tmp_path / "glide_00007_.png").touch()
    paths = io.save_images([image, image], tmp_path, each=[{"a": {"b": 1}, "n": "1"}, {}])
    assert [path.name for path in paths] == ["glide_00008_.png", "glide_00009_.png"]
    assert png_text(paths[0]) == {"a": '{"b": 1}', "n": "1"}


@pytest.mark.parametrize("call", ["os.link", "Path.unlink"])
def test_a_killed_run_leaves_no_image_under_a_final_name(call: str, tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from PIL import Image\n"
        f"from glide_core import io; {call} = lambda *given, **more: os._exit(9)\n"
        "io.save_images([Image.new('RGB', (4, 4))], Path(sys.argv[1]))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    before = {path.name for path in tmp_path.iterdir()}
    assert all(name.startswith(".") or (tmp_path / name).stat().st_size for name in before)
    written = io.save_images([Image.new("RGB", (4, 4))], tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert len(written) == 1 and all(Image.open(path).size == (4, 4) for path in tmp_path.iterdir())


def test_metadata_may_name_a_file_whose_name_is_not_text(tmp_path: Path) -> None:
    (path,) = io.save_images(
        [Image.new("RGB", (4, 4))], tmp_path, each=[{"a": os.fsdecode(b"\xff")}]
    )
    assert png_text(path) == {"a": "\\udcff"}


def test_images_are_numbered_where_a_file_system_has_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    names = [tmp_path / "a", tmp_path / "b"]
    names[0].write_bytes(b"kept")
    assert io.write_new(b"new", iter(names)) == names[1]
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [b"kept", b"new"]


def test_hashes_and_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert io.sha256_file(tmp_path / "x").startswith("ba7816bf")
    with pytest.raises(GlideError, match="cannot read"):
        io.sha256_file(tmp_path / "missing")


@pytest.mark.parametrize("name", ["\u4e2d" * 83, "x" * 250, "\U0001f600" * 60])
def test_a_name_of_any_possible_length_is_written(name: str, tmp_path: Path) -> None:
    with io.atomic_write(tmp_path / name) as temporary:
        temporary.write_text("1")
    assert (tmp_path / name).read_text() == "1"


def test_a_name_that_cannot_be_one_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GlideError, match="cannot write"), io.atomic_write(tmp_path / "\ud800"):
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes and links")
def test_loops_pipes_and_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for folder in (tmp_path / "loop", tmp_path / "loop" / "x"):
        with pytest.raises(GlideError, match="cannot write"):
            io.check_folder(folder)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GlideError, match="not a regular file"):
        io.sha256_file(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(GlideError, match="not overwritten"):
        io.check_new(tmp_path / "link")
