"""`--set node.input=value`: change a widget of a node named by id, title or class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from glide_core.errors import GlideError

from .graph import Graph, Node
from .schema import NodeSchema


def apply(graph: Graph, settings: Iterable[str], schemas: Mapping[str, NodeSchema]) -> Graph:
    """Give the graph with these widgets changed; GlideError says which name fits nothing.

    Titles and classes are compared without case; a name that fits several nodes changes them all.
    """
    nodes = dict(graph.nodes)
    for setting in settings:
        target, _, value = setting.partition("=")
        name, _, field = target.rpartition(".")
        if "=" not in setting or not name or not field:
            raise GlideError(
                f"--set {setting} cannot be read. Expected node.input=value, for example "
                "--set GlideSampler.seed=7. A node is named by its id, its title or its class."
            )
        chosen = _find(nodes.values(), name.strip())
        if not chosen:
            known = "; ".join(f"{n.id}, '{n.title}', {n.class_type}" for n in nodes.values())
            raise GlideError(
                f"--set {setting}: no node is called {name}. "
                f"Expected one of: {known}. Muted and bypassed nodes do not run."
            )
        for node in chosen:
            nodes[node.id] = _changed(node, field.strip(), value, schemas, setting)
    return replace(graph, nodes=nodes)


def _find(nodes: Iterable[Node], name: str) -> list[Node]:
    nodes = list(nodes)
    by_id = [node for node in nodes if node.id == name]
    by_title = [node for node in nodes if node.title.lower() == name.lower()]
    return by_id or by_title or [n for n in nodes if n.class_type.lower() == name.lower()]


def _changed(
    node: Node, field: str, value: str, schemas: Mapping[str, NodeSchema], setting: str
) -> Node:
    schema = schemas.get(node.class_type)
    widgets = [s.name for s in schema.widgets] if schema else list(node.inputs)
    if field not in widgets:
        raise GlideError(
            f"--set {setting}: {node.label} has no widget '{field}'. "
            f"Expected one of: {', '.join(widgets) or 'none, it has no widgets'}."
        )
    spec = schema.input(field) if schema else None
    return replace(node, inputs={**node.inputs, field: _typed(value, spec.type if spec else "")})


def _typed(value: str, kind: str) -> Any:
    """A number where the widget holds one; what cannot be read is left for the check to tell."""
    try:
        return {"INT": int, "FLOAT": float}.get(kind, str)(value)
    except ValueError:
        return value
