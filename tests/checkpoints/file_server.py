"""A file server with faults, for downloads."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Server:
    """A local file server with configurable faults."""

    content: bytes
    etag: str = '"1"'
    cut_at: int | None = None  # close the connection after so many bytes
    status: int | None = None
    parts: int | str | None = None  # status or Content-Range of the answer to a Range
    headers: dict[str, str] = field(default_factory=dict)  # instead of the usual ones
    requests: list[str] = field(default_factory=list)  # the Range of each request
    url: str = ""

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range", "")
        self.requests.append(wanted)
        if self.status is not None:
            handler.send_error(self.status)
            return
        if wanted and self.parts == 416:
            handler.send_error(416)
            return
        start = 0
        if wanted and self.parts != 200 and handler.headers.get("If-Range") == self.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(self.content):
            handler.send_error(416)
            return
        if "Location" in self.headers:
            handler.send_response(302)
            handler.send_header("Location", self.headers["Location"])
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        length = self.headers.get("Content-Length", str(len(self.content) - start))
        handler.send_header("Content-Length", length)
        if self.etag:
            handler.send_header("ETag", self.etag)
        if start:
            last = len(self.content) - 1
            span = self.parts or f"bytes {start}-{last}/{len(self.content)}"
            handler.send_header("Content-Range", str(span))
        handler.end_headers()
        handler.wfile.write(self.content[start : self.cut_at])


@contextmanager
def serve(content: bytes) -> Iterator[Server]:
    """Serve a file until the block ends."""
    served = Server(content)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # clients that hang up are what some tests are about

    with Quiet(("127.0.0.1", 0), Handler) as running:
        served.url = f"http://127.0.0.1:{running.server_address[1]}/base.pt"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        running.shutdown()
        thread.join()
