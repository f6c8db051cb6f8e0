"""A ComfyUI server in a process of its own, and a client that records its events."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tools.comfyui import REPOSITORY, comfyui_path
from tools.comfyui.checkpoints import Checkpoints

RECORDED = ("progress", "executing", "executed", "glide.step")  # beside how a prompt ended


@dataclass
class Run:
    """The events of one prompt."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    previews: int = 0
    outputs: dict[str, Any] = field(default_factory=dict)

    @property
    def end(self) -> str:
        return self.events[-1][0]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [data for event, data in self.events if event == kind]


class Server:
    """A server of $COMFYUI_PATH whose only custom node is this repository; start with `with`.

    The checkpoints' base directory is the server's, so that the checkout is not written to.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.comfyui, self.checkpoints = comfyui_path(), checkpoints
        base = checkpoints.base_directory
        for folder in ("custom_nodes", "user", "temp"):
            (base / folder).mkdir(exist_ok=True)
        link = base / "custom_nodes" / "glide"
        if not link.exists():
            link.symlink_to(REPOSITORY, target_is_directory=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = base / "server.log"

    def __enter__(self) -> Server:
        base = self.checkpoints.base_directory
        command = [
            sys.executable, "main.py", "--cpu", "--port", str(self.port),
            "--base-directory", str(base), "--preview-method", "auto", "--disable-api-nodes",
            "--database-url", "sqlite:///:memory:",
        ]  # fmt: skip
        if "COMFYUI_FRONTEND" in os.environ:  # another version of the interface, unpacked
            command += ["--front-end-root", os.environ["COMFYUI_FRONTEND"]]
        self.process = subprocess.Popen(
            command,
            cwd=self.comfyui,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        deadline = time.monotonic() + 180
        while True:
            try:
                self.get("/queue")
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no server: {self.log.read_text()[-2000:]}") from None
                time.sleep(0.3)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Any:
        """GET as JSON, or as text where it is none."""
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            text = response.read().decode()
        return json.loads(text) if text[:1] in "[{" else text

    def run(self, prompt: dict[str, Any], *, interrupt_at: int | None = None) -> Run:
        """Queue an API-format prompt and record events until it ends.

        interrupt_at: POST /interrupt when progress reports this step.
        """
        return asyncio.run(self._run(prompt, interrupt_at))

    async def _run(self, prompt: dict[str, Any], interrupt_at: int | None) -> Run:
        import aiohttp

        client, found = uuid.uuid4().hex, Run()
        ends = ("execution_success", "execution_error", "execution_interrupted")
        async with (
            aiohttp.ClientSession(self.url) as session,
            session.ws_connect(f"/ws?clientId={client}") as socket,
        ):
            body = {"prompt": prompt, "client_id": client}
            async with session.post("/prompt", json=body) as response:
                answer = await response.json()
            if "prompt_id" not in answer:
                found.events.append(("refused", answer))
                return found
            while not found.events or found.end not in ends:
                message = await socket.receive(timeout=300)
                if message.type == aiohttp.WSMsgType.BINARY:
                    found.previews += 1
                    continue
                event = json.loads(message.data)
                if event["type"] in ends or event["type"] in RECORDED:
                    found.events.append((event["type"], event["data"]))
                if event["type"] == "progress" and event["data"]["value"] == interrupt_at:
                    async with session.post("/interrupt", json={}):
                        pass
            history: dict[str, Any] = {}
            while answer["prompt_id"] not in history:  # written just after the last event
                async with session.get(f"/history/{answer['prompt_id']}") as response:
                    history = await response.json()
            found.outputs = history[answer["prompt_id"]].get("outputs", {})
        return found
