"""ComfyUI's API format: {id: {class_type, inputs, _meta}}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glide_core.errors import GlideError

from .graph import Graph, Link, Node


def is_api(data: Any) -> bool:
    """Whether this looks like the API format: a dict of nodes, each with a class_type."""
    return (
        isinstance(data, Mapping)
        and bool(data)
        and "nodes" not in data
        and any(isinstance(node, Mapping) and "class_type" in node for node in data.values())
    )


def read(data: Mapping[str, Any]) -> Graph:
    """Read the API format; GlideError names the node that is not one."""
    nodes = {}
    for key, raw in data.items():
        if not isinstance(raw, Mapping) or not isinstance(raw.get("class_type"), str):
            raise GlideError(
                f"node {key} is not a node: it has no class_type. Expected "
                '{"class_type": "...", "inputs": {...}}. Save the workflow again with Export (API).'
            )
        inputs = raw.get("inputs", {})
        if not isinstance(inputs, Mapping):
            raise GlideError(
                f"node {key} ({raw['class_type']}): its inputs are a {type(inputs).__name__}. "
                "Expected an object of names and values. Save the workflow again."
            )
        meta = raw.get("_meta")
        title = str(meta.get("title", "")) if isinstance(meta, Mapping) else ""
        nodes[str(key)] = Node(
            id=str(key),
            class_type=raw["class_type"],
            title=title or raw["class_type"],
            inputs={str(name): _value(value) for name, value in inputs.items()},
        )
    return Graph(nodes)


def _value(value: Any) -> Any:
    if isinstance(value, Mapping) and set(value) == {"__value__"}:  # a list that is not a link
        return value["__value__"]
    if (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], (str, int))
        and isinstance(value[1], int)
    ):
        return Link(str(value[0]), value[1])
    return value
