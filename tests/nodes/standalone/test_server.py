"""`glide run --server` against a small stand-in for ComfyUI's server on this machine."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from glide_pack.nodes.host.standalone.answers import save_image
from glide_pack.nodes.host.standalone.client import Server
from PIL import Image

from glide_core.cli import main
from glide_core.errors import GlideError


def encoded(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(file, kind)
    return file.getvalue()


PNG = encoded()
INFO = {
    "KSampler": {
        "input": {
            "required": {"seed": ["INT", {"control_after_generate": True}], "cfg": ["FLOAT"]}
        },
        "output": ["IMAGE"],
        "display_name": "KSampler",
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
        "output": [],
        "output_node": True,
        "display_name": "Save Image",
    },
}
UI = {
    "nodes": [
        {
            "id": 3,
            "type": "KSampler",
            "outputs": [{"name": "IMAGE", "type": "IMAGE"}],
            "widgets_values": [1, "fixed", 4.0],
        },
        {
            "id": 4,
            "type": "SaveImage",
            "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
            "widgets_values": ["x"],
        },
    ],
    "links": [[1, 3, 0, 4, 0, "IMAGE"]],
}
OUTPUT = {"images": [{"filename": "x_00001_.png", "subfolder": "", "type": "output"}]}


class Fake(ThreadingHTTPServer):
    """Answers like ComfyUI; the prompt waits, runs, and is done after a few looks."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posted: list[tuple[str, Any]] = []
        self.looks = 0
        self.image = PNG
        self.withheld = 0  # bytes of the image that are announced and not sent
        self.refuse: dict[str, Any] | None = None
        self.status: dict[str, Any] = {"status_str": "success", "messages": []}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Fake

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, value: Any, code: int = 200, withheld: int = 0) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body) + withheld))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        fake = self.server
        if self.path == "/object_info":
            self.answer(INFO)
        elif self.path.startswith("/history"):
            fake.looks += 1
            done = {"p1": {"outputs": {"4": OUTPUT}, "status": fake.status}}
            self.answer(done if fake.looks > 2 else {})
        elif self.path == "/queue":
            entry = [0, "p1"]
            running = fake.looks > 1
            self.answer(
                {
                    "queue_running": [entry] if running else [],
                    "queue_pending": [] if running else [entry],
                }
            )
        elif self.path.startswith("/view?filename=x_00001_.png"):
            self.answer(fake.image, withheld=fake.withheld)
        else:
            self.answer({"error": "no such page"}, 404)

    def do_POST(self) -> None:
        fake = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fake.posted.append((self.path, body))
        if self.path == "/prompt" and fake.refuse:
            self.answer(fake.refuse, 400)
        else:
            self.answer({"prompt_id": "p1", "number": 1} if self.path == "/prompt" else b"")


@pytest.fixture
def fake() -> Iterator[Fake]:
    with Fake() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glide_pack.nodes.host.standalone.client.time.sleep", lambda seconds: None)


def run(fake: Fake, folder: Path, *more: str) -> int:
    path = folder / "workflow.json"
    path.write_text(json.dumps(UI))
    return main(["run", str(path), "--server", fake.url, "--out", str(folder / "out"), *more])


def test_a_workflow_is_sent_waited_for_and_its_images_saved(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fake, tmp_path, "--set", "KSampler.seed=9") == 0
    ((path, body),) = fake.posted
    assert path == "/prompt"
    assert body["prompt"]["3"]["inputs"] == {"seed": 9, "cfg": 4.0}
    assert body["prompt"]["4"]["inputs"] == {"images": ["3", 0], "filename_prefix": "x"}
    assert body["extra_data"]["extra_pnginfo"]["workflow"] == UI
    said = capsys.readouterr()
    written = tmp_path / "out" / "x_00001_.png"
    assert said.out.strip() == str(written) and written.read_bytes() == PNG
    assert "number 1 in the queue" in said.err and "running" in said.err


def test_a_refused_workflow_says_what_the_server_said(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {"message": "Value not in list", "details": "sampler: 'x' not in [...]"}
    fake.refuse = {
        "error": {"message": "Prompt outputs failed validation"},
        "node_errors": {"3": {"class_type": "KSampler", "errors": [problem]}},
    }
    assert run(fake, tmp_path) == 1
    said = capsys.readouterr().err
    assert "Prompt outputs failed validation" in said
    assert "node 3 (KSampler): Value not in list sampler: 'x'" in said
    assert not (tmp_path / "out").exists()


def test_an_error_on_the_server_names_the_node(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    details = {"node_id": "3", "node_type": "KSampler", "exception_message": "out of paint"}
    fake.status = {"status_str": "error", "messages": [["execution_error", details]]}
    assert run(fake, tmp_path) == 1
    assert "failed at node 3 (KSampler): out of paint" in capsys.readouterr().err


def test_ctrl_c_stops_the_prompt_on_the_server(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        if fake.looks > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("glide_pack.nodes.host.standalone.client.time.sleep", interrupt)
    assert run(fake, tmp_path) == 130
    assert [path for path, _ in fake.posted] == ["/prompt", "/queue", "/interrupt"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9", "no ComfyUI server answers at http://127.0.0.1:9"),
        ("ftp://example.org", "not the address of a ComfyUI"),
        ("http://[", "not the address of a ComfyUI"),
        ("http://h:port", "not the address of a ComfyUI"),
        ("http://", "not the address of a ComfyUI"),
        ("", "not the address of a ComfyUI"),
        ("http://h\u00f6st", "not the address of a ComfyUI"),
    ],
)
def test_an_absent_server_is_an_error(url: str, words: str) -> None:
    with pytest.raises(GlideError, match=words):
        Server(url).schemas()


def test_the_wait_can_be_limited(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fake, tmp_path, "--timeout", "0") == 1
    assert "did not end within 0 seconds" in capsys.readouterr().err


def test_node_types_that_the_server_lacks_are_named(fake: Fake, tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    path.write_text(json.dumps({"1": {"class_type": "Nope", "inputs": {}}}))
    assert main(["run", str(path), "--server", fake.url]) == 1
    assert fake.posted == []


@pytest.mark.parametrize("content", [b"", b"<html>", PNG[:50], PNG[:40] + bytes(40)])
def test_only_what_decodes_as_an_image_is_saved(
    content: bytes, fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.image = content
    assert run(fake, tmp_path) == 1
    assert "x_00001_.png is not an image that can be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # a cut TIFF gives one per tag
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_an_image_that_lacks_pixels_is_not_saved(image_format: str, tmp_path: Path) -> None:
    content = encoded(image_format)
    for length in range(0, len(content) * 9 // 10, 7):
        with pytest.raises(GlideError, match="is not an image that can be read"):
            save_image(content[:length], "x", tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_answer_that_ends_early_is_one_error(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.withheld = 9
    assert run(fake, tmp_path, "--quiet") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_saved_images_keep_existing_files_and_stay_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    names = {
        "a.png": "a_1.png",
        "../../b.png": "b.png",
        "..\\c.png": "c.png",
        "": "image.png",
        "..": "image_1.png",
        "d.exe": "d.exe.png",
        ".e.png": "e.png",
        "f\0\n.png": "f .png",
        "g" * 300 + ".png": "g" * 150 + ".png",
    }
    for name, saved in names.items():
        assert save_image(PNG, name, tmp_path) == tmp_path / saved
    assert save_image(encoded("JPEG"), "h.png", tmp_path).name == "h.png.jpg"
    assert (tmp_path / "a.png").read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == sorted(
        tmp_path / n for n in ("a.png", "h.png.jpg", *names.values())
    )
