"""`glide run --server` on something that is not ComfyUI: one clear error, soon, nothing saved."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from glide_pack.nodes.host.standalone import answers, client
from glide_pack.nodes.host.standalone.client import Server
from glide_pack.nodes.host.standalone.schema import from_object_info
from hypothesis import given, settings
from hypothesis import strategies as st

from glide_core.errors import GlideError

Answer = Callable[[socket.socket], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    """Start a server that answers every connection with the given function; its URL is returned."""
    listener = socket.create_server(("127.0.0.1", 0))

    def start(answer: Answer) -> str:
        def work() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        connection.recv(2**16)
                        answer(connection)
                    except OSError:
                        pass  # the client has closed it

        threading.Thread(target=work, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    listener.close()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99999999 OK\r\n\r\n",
        b"HTTP/1.1 " + b"x" * 100_000,
        OK + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
        OK + b"".join(b"X%d: y\r\n" % i for i in range(300)) + b"\r\n{}",
        OK + b"Content-Length: abc\r\n\r\n{}",
        OK + b"Content-Length: -1\r\n\r\n[]",
        OK + b"Content-Length: 100\r\n\r\n{}",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}",
        OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"\r\n\xff\xfe{}",
        OK + b"\r\n" + b"[" * 100_000,
        OK + b"\r\n" + b'{"a":' * 100_000,
        OK + b"\r\n" + b"[" * 200 + b"]" * 200,
        OK + b"\r\n" + b"1" * 5000,
        OK + b"\r\n[]",
        OK + b"\r\nnull",
        OK + b"\r\n",
        OK + b'\r\n{"a": "\\ud800"}',
        OK + b'\r\n{"Node": 3}',
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 400 \xff\xfe\r\n\r\n\xff\xfe",
        b'HTTP/1.1 400 Bad\r\n\r\n{"error": {"message": 3}, "node_errors": [1]}',
        b"HTTP/1.1 500 Bad\r\n\r\n" + b"x" * 100_000,
    ],
)
def test_a_server_that_is_not_comfyui_is_one_short_error(
    raw: bytes, serve: Callable[[Answer], str]
) -> None:
    url = serve(lambda connection: connection.sendall(raw))
    with pytest.raises(GlideError) as caught:
        Server(url, seconds=10).schemas()
    assert len(str(caught.value)) < 1000


def dripping(connection: socket.socket) -> None:
    connection.sendall(OK)
    while True:
        connection.sendall(b"X: y\r\n")
        time.sleep(0.02)


def endless(connection: socket.socket) -> None:
    connection.sendall(OK + b"\r\n")
    while True:
        connection.sendall(bytes(2**20))


def test_a_slow_answer_ends_at_the_deadline(serve: Callable[[Answer], str]) -> None:
    with pytest.raises(GlideError, match=r"did not finish its answer within 0.3 seconds"):
        Server(serve(dripping), seconds=0.3).schemas()


def test_an_endless_answer_ends_at_the_limit(
    serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GlideError, match="sent more than 2 MiB"):
        Server(serve(endless)).request("/", limit=2 * 2**20)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def near(*keys: str) -> st.SearchStrategy[Any]:
    """JSON objects with these keys, in place of which anything may stand."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(keys, JSON))


@settings(max_examples=50, deadline=None)
@given(near("queue_running", "queue_pending"))
def test_any_queue_is_read_or_refused(answer: Any) -> None:
    try:
        running, pending = answers.parse_queue(answer)
        assert all(isinstance(key, str) for key in running + pending)
    except GlideError:
        pass


IMAGES = st.fixed_dictionaries({"images": st.lists(near("filename", "subfolder", "type") | JSON)})
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "status": near("status_str", "messages")
        | st.fixed_dictionaries(
            {"status_str": st.just("error"), "messages": st.lists(st.lists(JSON, max_size=3))}
        ),
        "outputs": st.dictionaries(st.text(), IMAGES | JSON, max_size=3) | JSON,
    },
)


@settings(max_examples=50, deadline=None)
@given(ENTRIES | JSON)
def test_any_history_entry_is_read_or_refused(entry: Any) -> None:
    try:
        fields = answers.image_fields(answers.check_finished(entry))
        assert all(isinstance(value, str) for image in fields for value in image.values())
    except GlideError as error:
        assert len(str(error)) < 2000


NODES = near("input", "output", "display_name", "output_node") | st.fixed_dictionaries(
    {"input": st.fixed_dictionaries({"required": st.dictionaries(st.text(), JSON)})}
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), NODES | JSON, max_size=3))
def test_any_list_of_nodes_is_read(info: Any) -> None:
    for schema in from_object_info(info).values():
        assert all(spec.has_control in (True, False) for spec in schema.widgets)


@settings(max_examples=50, deadline=None)
@given(st.binary() | near("error", "node_errors").map(lambda v: json.dumps(v).encode()))
def test_any_validation_error_of_a_server_is_reported(content: bytes) -> None:
    assert 0 < len(answers.refusal("http://h", 400, "Bad", content)) < 20_000


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300), st.text(max_size=300))
def test_no_bytes_and_no_name_are_saved_unless_they_are_an_image(content: bytes, name: str) -> None:
    with pytest.raises(GlideError):
        answers.save_image(content, name, Path("/nonexistent"))


def test_the_deadline_is_for_the_whole_call() -> None:
    with pytest.raises(client.NotInTime):
        client._within(0.05, lambda: time.sleep(5))  # type: ignore[arg-type, func-returns-value]
