"""Send a workflow to a running ComfyUI server: submit, wait, fetch and verify the images.

Progress is polled (/queue, /history), which every ComfyUI version supports. Whatever is behind the
address may be no ComfyUI at all: calls have a deadline, bodies a limit, and answers are checked.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime  # the built-in one from 3.11 on
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from glide_core.errors import GlideError

from .answers import check_finished, image_fields, parse_queue, refusal, save_image
from .graph import Graph, plain
from .schema import NodeSchema, from_object_info
from .workflow import parse_json

Report = Callable[[str], None]  # called with every change of state, in words

JSON_SECONDS, IMAGE_SECONDS = 60.0, 300.0  # for a whole call, from connecting to the last byte
NOT_COMFYUI = "Check that --server is the address of a running ComfyUI."
JSON_BYTES, IMAGE_BYTES = 64 * 2**20, 256 * 2**20


class Server:
    """A ComfyUI server; every failure is a GlideError. Both times are deadlines of one call."""

    def __init__(
        self, url: str, *, seconds: float = JSON_SECONDS, image_seconds: float = IMAGE_SECONDS
    ) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self.seconds, self.image_seconds = seconds, image_seconds
        try:
            parts = urlsplit(self.url)
            valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            valid = valid and len(self.url.encode("ascii")) <= 300
        except ValueError:  # a port or an IPv6 address that is not one, or text beyond ASCII
            valid = False
        if not valid:
            raise GlideError(
                f"--server {plain(url)} is not the address of a ComfyUI server. Expected an "
                "address such as http://127.0.0.1:8188."
            )

    def request(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        limit: int = JSON_BYTES,
        seconds: float | None = None,
    ) -> bytes:
        """Make one request and return the body; the only place where transport errors arrive."""
        import requests
        import urllib3

        deadline = self.seconds if seconds is None else seconds
        stop = threading.Event()

        def exchange() -> tuple[int, str, bytes]:
            data = None if body is None else json.dumps(body).encode()
            with requests.request(
                "GET" if data is None else "POST",
                self.url + path,
                data=data,
                headers={"Content-Type": "application/json"} if data is not None else {},
                timeout=deadline,
                stream=True,
            ) as answer:
                content = bytearray()
                for chunk in answer.iter_content(2**16):
                    content += chunk
                    if len(content) > limit:
                        raise GlideError(
                            f"{self.url} sent more than {limit // 2**20} MiB. {NOT_COMFYUI}"
                        )
                    if stop.is_set():
                        break
                return answer.status_code, answer.reason or "", bytes(content)

        try:
            status, reason, content = _within(deadline, exchange)
        except NotInTime as error:
            raise GlideError(
                f"{self.url} did not finish its answer within {deadline:g} seconds. {NOT_COMFYUI}"
            ) from error
        except (OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError) as e:
            raise GlideError(
                f"no ComfyUI server answers at {self.url} ({plain(e, 200)}). {NOT_COMFYUI}"
            ) from e
        finally:
            stop.set()
        if status >= 400:
            raise GlideError(refusal(self.url, status, reason, content))
        return content

    def json(self, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """Make one request and return the JSON object that it answers with."""
        content = self.request(path, body)
        answer = parse_json(content, f"the answer of {self.url}", NOT_COMFYUI)
        if not isinstance(answer, Mapping):
            raise GlideError(
                f"{self.url} answered with a {type(answer).__name__} where ComfyUI sends an "
                f"object. {NOT_COMFYUI}"
            )
        return answer

    def schemas(self) -> dict[str, NodeSchema]:
        """Ask for the server's nodes."""
        found = from_object_info(self.json("/object_info"))
        if not found:
            raise GlideError(f"{self.url} lists no nodes. {NOT_COMFYUI}")
        return found

    def submit(self, graph: Graph) -> str:
        """Queue a workflow and return its prompt id."""
        body: dict[str, Any] = {"prompt": graph.to_api(), "client_id": uuid.uuid4().hex}
        if graph.ui is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": graph.ui}}
        prompt_id = self.json("/prompt", body).get("prompt_id")
        if not isinstance(prompt_id, str) or not 0 < len(prompt_id) <= 200:
            raise GlideError(f"{self.url} accepted the workflow without an id. {NOT_COMFYUI}")
        return prompt_id

    def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, and stop it if it is running."""
        running, _ = parse_queue(self.json("/queue"))
        self.request("/queue", {"delete": [prompt_id]})
        if prompt_id in running:
            self.request("/interrupt", {})

    def wait(
        self, prompt_id: str, report: Report, *, poll: float = 0.5, seconds: float | None = None
    ) -> Mapping[str, Any]:
        """Wait for a prompt to end and return its history entry; GlideError if it failed.

        seconds: how long to wait; None waits until the prompt has ended.
        """
        start, reported, missing = time.monotonic(), "", 0
        while True:
            entry = self.json(f"/history/{quote(prompt_id, safe='')}").get(prompt_id)
            if entry is not None:
                return check_finished(entry)
            state = self._state(prompt_id)
            # Between queue and history a prompt may be in neither for a moment.
            missing = missing + 1 if state == "gone" else 0
            if missing > 10:
                raise GlideError(
                    f"{self.url} no longer has the prompt {plain(prompt_id)}: it was removed, or "
                    "the server was restarted. Run the workflow again."
                )
            if seconds is not None and time.monotonic() - start > seconds:
                raise GlideError(
                    f"the workflow did not end within {seconds:g} seconds (--timeout); it is "
                    f"{state} on {self.url}."
                )
            if state not in (reported, "gone"):
                reported = state
                report(state)
            time.sleep(poll)

    def _state(self, prompt_id: str) -> str:
        running, pending = parse_queue(self.json("/queue"))
        if prompt_id in running:
            return "running"
        if prompt_id in pending:
            return f"waiting, number {pending.index(prompt_id) + 1} in the queue"
        return "gone"

    def save_images(self, entry: Mapping[str, Any], folder: Path) -> Iterator[Path]:
        """Fetch every image of a history entry into a folder, existing files being kept.

        Bytes are written as they are (the metadata is the server's) once they decode as an image.
        """
        for fields in image_fields(entry):
            content = self.request(
                f"/view?{urlencode(fields)}", limit=IMAGE_BYTES, seconds=self.image_seconds
            )
            yield save_image(content, fields["filename"], folder)


def _within(seconds: float, call: Callable[[], tuple[int, str, bytes]]) -> tuple[int, str, bytes]:
    """Return what `call` returns; NotInTime when that takes longer.

    The timeouts of sockets begin again with every byte. A thread that is left behind is a daemon
    and ends with the process.
    """
    future: Future[tuple[int, str, bytes]] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future.result(seconds)


def cancel_quietly(server: Server, prompt_id: str) -> None:
    """Cancel on the way out of Ctrl-C, where a failure to do so must not replace it."""
    with suppress(GlideError):
        server.cancel(prompt_id)
