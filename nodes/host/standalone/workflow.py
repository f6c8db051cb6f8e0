"""ComfyUI workflows: reading a file in either format, and changing widgets with --set.

Independent of any node pack: inputs and outputs of nodes are passed in as `schema.NodeSchema`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from glide_core.errors import GlideError

from . import ui_format
from .graph import Graph, Link, Node, is_api, plain, read_api, shown
from .schema import InputSpec, NodeSchema

__all__ = ["Graph", "InputSpec", "Link", "Node", "NodeSchema", "load_json", "read", "set_widgets"]

MAX_BYTES = 32 * 2**20  # of a file; workflows with embedded images stay far below
MAX_DEPTH = 100  # of nested JSON lists and objects


def load_json(path: Path) -> Any:
    """Read a workflow file; GlideError says what is wrong with it."""
    hint = "Expected a ComfyUI workflow (.json)."
    try:
        if path.exists() and not path.is_file():  # a FIFO would block, a device never end
            raise GlideError(f"{path} is not a regular file. {hint}")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise GlideError(
            f"workflow {path} does not exist. {hint} The pack's own are in example_workflows/."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise GlideError(f"{plain(path)} cannot be read: {reason}. {hint}") from error
    if len(content) > MAX_BYTES:
        raise GlideError(f"{path} is larger than {MAX_BYTES // 2**20} MiB. {hint}")
    return parse_json(content, str(path), hint)


def parse_json(content: bytes, name: str, hint: str) -> Any:
    """Parse JSON in UTF-8; GlideError says where it breaks.

    Nesting is limited and every string can be encoded, so that the result can be written again.
    """
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}: {error.msg}"
        raise GlideError(f"{name} is not JSON ({where}). {hint}") from error
    except UnicodeDecodeError as error:
        raise GlideError(f"{name} is not UTF-8 text. {hint}") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, or brackets
        raise GlideError(f"{name} cannot be read as JSON: {plain(error, 200)}. {hint}") from error
    check_json(data, name)
    return data


def check_json(data: Any, name: str) -> None:
    """Refuse values nested too deep, and strings such as "\\ud800" that UTF-8 cannot hold."""
    level, depth = [data], 0
    while level:
        if depth >= MAX_DEPTH:
            raise GlideError(f"{name} is nested more than {MAX_DEPTH} levels deep.")
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value, name)
            elif isinstance(value, Mapping):
                below += value.keys()
                below += value.values()
            elif isinstance(value, list):
                below += value
        level, depth = below, depth + 1


def _check_text(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise GlideError(f"{name} holds text that is not Unicode: {shown(text)}.") from error


def read(data: Any, schemas: Mapping[str, NodeSchema]) -> Graph:
    """Read either format into a Graph; GlideError when it is neither."""
    check_json(data, "the workflow")
    if isinstance(data, Mapping) and is_api(data.get("prompt")):
        data = data["prompt"]  # what is posted to a server
    if is_api(data):
        return read_api(data)
    if isinstance(data, Mapping) and isinstance(data.get("nodes"), list):
        return ui_format.read(data, schemas)
    raise GlideError(
        "this JSON is not a ComfyUI workflow. Expected what ComfyUI's Save (nodes and links) or "
        "Export (API) (ids with a class_type) writes. Save the workflow again from ComfyUI."
    )


def set_widgets(graph: Graph, settings: Iterable[str], schemas: Mapping[str, NodeSchema]) -> Graph:
    """Apply `node.input=value` settings; GlideError says which matches nothing.

    A node is named by id, title or class, the latter two without regard to case; a name that
    matches several nodes changes all of them.
    """
    nodes = dict(graph.nodes)
    for setting in settings:
        _check_text(setting, "--set")
        target, equals, value = setting.partition("=")
        name, _, field = (part.strip() for part in target.rpartition("."))
        if not (equals and name and field):
            raise GlideError(
                f"--set {plain(setting)} cannot be read. Expected node.input=value, for example "
                "--set GlideSampler.seed=7. A node is named by its id, its title or its class."
            )
        chosen = _find(nodes.values(), name)
        if not chosen:
            known = [f"{n.id}, '{plain(n.title)}', {n.class_type}" for n in nodes.values()]
            raise GlideError(
                f"--set {plain(setting)}: no node is called {plain(name)}. "
                f"Expected one of: {'; '.join(known[:40])}. Muted and bypassed nodes do not run."
            )
        for node in chosen:
            nodes[node.id] = _changed(node, field, value, schemas, setting)
    return replace(graph, nodes=nodes)


def _find(nodes: Iterable[Node], name: str) -> list[Node]:
    nodes, wanted = list(nodes), name.lower()
    by_id = [node for node in nodes if node.id == name]
    by_title = [node for node in nodes if node.title.lower() == wanted]
    return by_id or by_title or [node for node in nodes if node.class_type.lower() == wanted]


def _changed(
    node: Node, field: str, value: str, schemas: Mapping[str, NodeSchema], setting: str
) -> Node:
    schema = schemas.get(node.class_type)
    widgets = [s.name for s in schema.widgets] if schema else list(node.inputs)
    if field not in widgets:
        raise GlideError(
            f"--set {plain(setting)}: {node.label} has no widget '{plain(field)}'. "
            f"Expected one of: {', '.join(widgets[:40]) or 'none'}."
        )
    spec = schema.input(field) if schema else None
    return replace(node, inputs={**node.inputs, field: _typed(value, spec.type if spec else "")})


def _typed(value: str, kind: str) -> Any:
    """Convert to a number where the widget holds one; the check reports what is not a number."""
    try:
        return {"INT": int, "FLOAT": float}.get(kind, str)(value)
    except ValueError:
        return value
