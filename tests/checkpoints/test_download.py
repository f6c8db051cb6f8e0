"""A download is complete or absent under its own name, and resumes where it stopped."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints.file_server import Server, serve

from glide_core.checkpoints.catalog import Entry
from glide_core.checkpoints.download import download
from glide_core.checkpoints.loading import load_model, save_model
from glide_core.errors import GlideError
from glide_core.models.glide import GlideModel
from tools.tiny_models import TINY


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "base.safetensors"
    return save_model(GlideModel(TINY), path).read_bytes()


@pytest.fixture
def server(content: bytes) -> Iterator[Server]:
    with serve(content) as served:
        yield served


def entry(server: Server, **changes: object) -> Entry:
    return replace(Entry("test", "base.pt", "base", url=server.url), **changes)


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir() if p.suffix != ".lock")


def test_a_download_is_whole_and_can_be_loaded(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    known = entry(
        server,
        size=len(server.content),
        sha256=hashlib.sha256(server.content).hexdigest(),
    )
    path = download(known, tmp_path / "new", lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == server.content
    assert names(tmp_path / "new") == ["base.pt"]
    assert seen[0] == (0, len(server.content))
    assert seen[-1] == (len(server.content), len(server.content))
    assert load_model(path).config == TINY


def test_a_file_that_is_there_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "base.pt").write_bytes(b"mine")
    assert download(entry(server), tmp_path).read_bytes() == b"mine"
    assert server.requests == []


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_overwritten(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    with pytest.raises(GlideError, match=r"base\.pt was created meanwhile and is not overwritten"):
        download(entry(server), tmp_path, lambda *_: (tmp_path / "base.pt").write_bytes(b"theirs"))
    assert (tmp_path / "base.pt").read_bytes() == b"theirs"
    assert names(tmp_path) == ["base.pt"]
    (tmp_path / "base.pt").unlink()
    assert download(entry(server), tmp_path).read_bytes() == server.content
    assert names(tmp_path) == ["base.pt"]


def test_an_interrupted_download_resumes(server: Server, tmp_path: Path) -> None:
    server.cut_at = 1000
    with pytest.raises(GlideError, match="may resume"):
        download(entry(server), tmp_path)
    assert not (tmp_path / "base.pt").exists()
    server.cut_at = None
    assert download(entry(server), tmp_path).read_bytes() == server.content
    assert server.requests == ["", "", "bytes=1000-"]
    assert names(tmp_path) == ["base.pt"]


def test_a_file_that_changed_meanwhile_is_downloaded_from_the_start(
    server: Server, tmp_path: Path
) -> None:
    server.cut_at = 1000
    with pytest.raises(GlideError):
        download(entry(server), tmp_path)
    server.cut_at, server.etag = None, '"2"'
    assert download(entry(server), tmp_path).read_bytes() == server.content


def partial(server: Server, tmp_path: Path) -> Path:
    """Interrupt a download; gives its partial file."""
    server.cut_at = 1000
    with pytest.raises(GlideError):
        download(entry(server), tmp_path)
    server.cut_at = None
    (part,) = tmp_path.glob(".*.part")
    return part


def test_a_complete_partial_file_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    part = partial(server, tmp_path)
    part.write_bytes(server.content)
    seen: list[int] = []
    target = download(entry(server), tmp_path, lambda done, total: seen.append(done))
    assert target.read_bytes() == server.content and seen == []


def test_a_partial_file_that_is_too_long_is_downloaded_from_the_start(
    server: Server, tmp_path: Path
) -> None:
    partial(server, tmp_path).write_bytes(server.content + b"more")
    assert download(entry(server), tmp_path).read_bytes() == server.content


def test_without_an_etag_no_partial_file_is_kept(server: Server, tmp_path: Path) -> None:
    server.cut_at, server.etag = 1000, ""
    with pytest.raises(GlideError):
        download(entry(server), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"size": 5}, "expected 5"), ({"sha256": "0" * 64}, "sha256"), ({"kind": "inpaint"}, "kind")],
)
def test_another_file_than_the_published_one_is_refused(
    server: Server, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(GlideError, match=said):
        download(entry(server, **changes), tmp_path)
    assert names(tmp_path) == []


def test_a_web_page_instead_of_a_model_is_refused(server: Server, tmp_path: Path) -> None:
    server.content = b"<html>please log in</html>"
    with pytest.raises(GlideError, match="web page"):
        download(entry(server), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_refusing_server_is_quoted(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(GlideError, match="Could not download http://127"):
        download(entry(server), tmp_path)
    assert names(tmp_path) == []


def test_an_unreachable_server_is_an_error(tmp_path: Path) -> None:
    nowhere = Entry("test", "base.pt", "base", url="http://127.0.0.1:9/base.pt")
    with pytest.raises(GlideError, match="Could not download"):
        download(nowhere, tmp_path)


def test_local_files_are_no_addresses(tmp_path: Path) -> None:
    with pytest.raises(GlideError, match="not a web address"):
        download(Entry("test", "base.pt", "base", url="file:///etc/hostname"), tmp_path)


def test_bundled_models_have_nothing_to_download(tmp_path: Path) -> None:
    with pytest.raises(GlideError, match="ships with the package"):
        download(Entry("test", "base.pt", "base"), tmp_path)


def test_a_partial_file_of_another_name_means_a_fresh_start(server: Server, tmp_path: Path) -> None:
    part = partial(server, tmp_path)
    part.rename(tmp_path / ".base.pt.0123456789abcdef.part")
    assert download(entry(server), tmp_path).read_bytes() == server.content
    assert server.requests == ["", ""]
    assert names(tmp_path) == ["base.pt"]


@pytest.mark.parametrize("answer", [416, 200, "bytes 5-9/10"])
def test_a_server_that_does_not_send_the_rest_sends_all(
    server: Server, tmp_path: Path, answer: int | str
) -> None:
    partial(server, tmp_path)
    server.parts = answer
    assert download(entry(server), tmp_path).read_bytes() == server.content
    assert server.requests == ["", "", "bytes=1000-"]
    assert names(tmp_path) == ["base.pt"]


@pytest.mark.parametrize("etag", ['"a/b+c==.part"', '"' + "%*" * 50 + '"'])
def test_an_etag_of_any_characters_and_length_is_no_error(
    server: Server, tmp_path: Path, etag: str
) -> None:
    server.etag, server.cut_at = etag, 1000
    with pytest.raises(GlideError, match="the connection ended"):
        download(entry(server), tmp_path)
    server.cut_at = None
    assert download(entry(server), tmp_path).read_bytes() == server.content
    assert names(tmp_path) == ["base.pt"]


def test_a_partial_file_of_another_address_is_not_resumed(server: Server, tmp_path: Path) -> None:
    partial(server, tmp_path)
    other = entry(server, url=server.url + "?other")
    assert download(other, tmp_path).read_bytes() == server.content
    assert server.requests == ["", ""]
    assert names(tmp_path) == ["base.pt"]


@pytest.mark.parametrize("length", ["abc", "-5", "9" * 400, "1e3", ""])
def test_an_invalid_content_length_is_ignored(server: Server, tmp_path: Path, length: str) -> None:
    server.headers = {"Content-Length": length}
    try:
        path = download(entry(server), tmp_path)
    except GlideError as error:
        assert "Could not download" in str(error)
    else:
        assert path.read_bytes() == server.content


@pytest.mark.parametrize(
    "location", ["http://[", "http://a b/", "ftp:///x", "file:///etc/hostname"]
)
def test_an_invalid_redirect_is_one_error(server: Server, tmp_path: Path, location: str) -> None:
    server.headers = {"Location": location}
    with pytest.raises(GlideError, match="Could not download"):
        download(entry(server), tmp_path)
    assert names(tmp_path) == []


def test_a_target_that_is_not_a_file_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "base.pt").mkdir()
    with pytest.raises(GlideError, match="not a file"):
        download(entry(server), tmp_path)
    (tmp_path / "new" / ".base.pt.lock").mkdir(parents=True)
    with pytest.raises(GlideError, match="Could not download"):
        download(entry(server), tmp_path / "new")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="folders of Linux")
@pytest.mark.parametrize("folder", ["/dev/null", "/dev/null/x", "/proc"])
def test_a_folder_that_cannot_be_written_is_refused_at_once(server: Server, folder: str) -> None:
    with pytest.raises(GlideError, match="cannot write"):
        download(entry(server), Path(folder))


def test_the_size_and_the_time_of_a_download_are_limited(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, pytest.raises(GlideError, match="deadline"):
        patched.setattr("glide_core.checkpoints.download._DEADLINE", -1)
        download(entry(server), tmp_path)
    monkeypatch.setattr("glide_core.checkpoints.download._MAX_SIZE", 1000)
    with pytest.raises(GlideError, match="expected 1,000"):
        download(entry(server), tmp_path)


ONE = """
import sys
from pathlib import Path
from glide_core.checkpoints.catalog import Entry
from glide_core.checkpoints.download import download
url, folder, sha256 = sys.argv[1:]
sys.stdin.read(1)
print(download(Entry("test", "base.pt", "base", url=url, sha256=sha256), Path(folder)))
"""


def test_three_processes_give_one_whole_file(server: Server, tmp_path: Path) -> None:
    partial(server, tmp_path)
    arguments = [server.url, str(tmp_path), hashlib.sha256(server.content).hexdigest()]
    command = [sys.executable, "-c", ONE, *arguments]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()
    for process in started:
        assert process.communicate()[0].decode().strip() == str(tmp_path / "base.pt")
        assert process.returncode == 0
    assert (tmp_path / "base.pt").read_bytes() == server.content
    assert server.requests == ["", "", "bytes=1000-"]  # one resumed it, two waited
    assert names(tmp_path) == ["base.pt"]
