"""Handing a workflow to a running ComfyUI: submit, wait, fetch the pictures. Standard library only.

Progress is polled (/queue, /history), which every ComfyUI has had from the start; the websocket
would tell of single steps, at the price of a dependency.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glide_core.errors import GlideError

from .graph import Graph
from .schema import NodeSchema, from_object_info

Report = Callable[[str], None]  # told of every change of state, in words


class Server:
    """A ComfyUI at `url`; every method is one request, and failures are GlideError."""

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self.timeout = timeout
        if urllib.parse.urlsplit(self.url).scheme not in ("http", "https"):
            raise GlideError(
                f"--server {url} is not an address of a ComfyUI. Expected something like "
                "http://127.0.0.1:8188."
            )

    def request(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data is not None else {}
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise GlideError(_refusal(self.url + path, error)) from error
        except (OSError, ValueError) as error:
            raise GlideError(
                f"no ComfyUI answers at {self.url}: {error}. Expected a running server. Start it, "
                "or correct --server."
            ) from error

    def json(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        raw = self.request(path, body)
        try:
            return json.loads(raw) if raw.strip() else {}
        except json.JSONDecodeError as error:
            raise GlideError(
                f"{self.url}{path} did not answer with JSON. Expected a ComfyUI there. Correct "
                "--server."
            ) from error

    def schemas(self) -> dict[str, NodeSchema]:
        info = self.json("/object_info")
        if not isinstance(info, Mapping):
            raise GlideError(f"{self.url}/object_info is not ComfyUI's. Correct --server.")
        return from_object_info(info)

    def submit(self, graph: Graph) -> str:
        """Queue a workflow and give its prompt id."""
        body: dict[str, Any] = {"prompt": graph.to_api(), "client_id": uuid.uuid4().hex}
        if graph.ui is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": graph.ui}}
        answer = self.json("/prompt", body)
        if not isinstance(answer, Mapping) or "prompt_id" not in answer:
            raise GlideError(f"{self.url}/prompt gave no prompt id: {str(answer)[:300]}")
        return str(answer["prompt_id"])

    def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, and stop it when it is the one that runs."""
        queue = self.json("/queue")
        running = [entry[1] for entry in queue.get("queue_running", []) if len(entry) > 1]
        self.request("/queue", {"delete": [prompt_id]})
        if prompt_id in running:
            self.request("/interrupt", {})

    def wait(self, prompt_id: str, report: Report, *, poll: float = 0.5) -> dict[str, Any]:
        """Wait for a prompt to end and give its history entry; GlideError if it failed."""
        told, missing = "", 0
        while True:
            entry = self.json(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                _raise_for(entry)
                return dict(entry)
            state = self._place(prompt_id)
            # Between queue and history a prompt may be in neither for a moment.
            missing = missing + 1 if state == "gone" else 0
            if missing > 10:
                raise GlideError(
                    f"{self.url} no longer knows the prompt {prompt_id}: someone removed it, or "
                    "the server was restarted. Send it again."
                )
            if state != told:
                told = state
                report(state)
            time.sleep(poll)

    def _place(self, prompt_id: str) -> str:
        queue = self.json("/queue")
        if any(entry[1] == prompt_id for entry in queue.get("queue_running", [])):
            return "running"
        pending = sorted(queue.get("queue_pending", []), key=lambda entry: entry[0])
        for place, entry in enumerate(pending, 1):
            if entry[1] == prompt_id:
                return f"waiting, number {place} in the queue"
        return "gone"

    def images(self, entry: Mapping[str, Any]) -> list[tuple[str, bytes]]:
        """Fetch every picture of a history entry as (file name, bytes)."""
        found = []
        for output in (entry.get("outputs") or {}).values():
            for image in output.get("images") or []:
                fields = {key: image.get(key, "") for key in ("filename", "subfolder", "type")}
                data = self.request("/view?" + urllib.parse.urlencode(fields))
                found.append((str(image.get("filename", "image.png")), data))
        return found


def store(images: list[tuple[str, bytes]], folder: Path) -> list[Path]:
    """Write fetched pictures byte for byte (their metadata is the server's), over nothing."""
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in images:
            name = Path(name.replace("\\", "/")).name or "image.png"  # a server names no folders
            stem, suffix = Path(name).stem, Path(name).suffix
            path, number = folder / name, 1
            while True:
                try:
                    with path.open("xb") as file:
                        file.write(data)
                    break
                except FileExistsError:
                    path, number = folder / f"{stem}_{number}{suffix}", number + 1
            paths.append(path)
    except OSError as error:
        raise GlideError(f"a picture cannot be written to {folder}: {error}.") from error
    return paths


def _refusal(address: str, error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        answer = json.loads(text)
        lines = [str(answer["error"]["message"])]
        for node, found in (answer.get("node_errors") or {}).items():
            lines += [
                f"node {node} ({found.get('class_type', '?')}): "
                f"{problem.get('message', '')} {problem.get('details', '')}".rstrip()
                for problem in found.get("errors", [])
            ]
        return "the server refused the workflow: " + "\n  ".join(lines)
    except (ValueError, KeyError, TypeError):
        return f"{address} answered {error.code} {error.reason}: {text[:300]}"


def _raise_for(entry: Mapping[str, Any]) -> None:
    status = entry.get("status") or {}
    if status.get("status_str") != "error":
        return
    for kind, details in status.get("messages") or []:
        if kind == "execution_error":
            raise GlideError(
                f"the server failed at node {details.get('node_id')} ({details.get('node_type')}): "
                f"{details.get('exception_message', '').strip()}"
            )
        if kind == "execution_interrupted":
            raise GlideError("the workflow was stopped on the server before it was done.")
    raise GlideError("the server says that the workflow failed, and not why: see its log.")
