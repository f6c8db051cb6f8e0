"""ComfyUI's UI format (what the editor saves), resolved the way its frontend makes a prompt.

Reroutes and bypassed nodes (mode 4) pass through, muted ones (mode 2) are left out, primitives
give their value, subgraphs are unfolded under ids like "12:3", and notes are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glide_core.errors import GlideError

from .graph import Graph, Link, Node
from .schema import NodeSchema

MUTED, BYPASSED = 2, 4
DRAWN_ONLY = ("Note", "MarkdownNote")
FROM_OUTSIDE, TO_OUTSIDE = -10, -20  # ids of a subgraph's own input and output nodes


@dataclass(frozen=True)
class _Value:
    """A primitive node's value, where a link was expected."""

    value: Any


@dataclass(frozen=True)
class _Cut:
    """Nothing arrives, and why."""

    why: str = ""


@dataclass
class _Scope:
    """One level of nodes and links: the workflow itself, or one use of a subgraph."""

    prefix: str
    nodes: dict[int | str, Mapping[str, Any]]
    links: dict[int | str, tuple[Any, int, Any, int]]  # id: from node, slot, to node, slot
    parent: _Scope | None = None
    outer: Mapping[str, Any] | None = None  # the node of the parent that stands for this scope
    inside: dict[Any, _Scope] = field(default_factory=dict)


def read(data: Mapping[str, Any], schemas: Mapping[str, NodeSchema]) -> Graph:
    """Read the UI format; GlideError names the node and what is wrong with it."""
    groups = data.get("definitions")
    subgraphs = groups.get("subgraphs") if isinstance(groups, Mapping) else None
    definitions = {str(sub.get("id")): sub for sub in _entries(subgraphs) if _is_graph(sub)}
    root = _scope(data, "", definitions, None, None)
    nodes: dict[str, Node] = {}
    _collect(root, schemas, nodes)
    return Graph(nodes, ui=dict(data))


def _entries(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _is_graph(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("nodes"), list)


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _scope(
    data: Mapping[str, Any],
    prefix: str,
    definitions: Mapping[str, Mapping[str, Any]],
    parent: _Scope | None,
    outer: Mapping[str, Any] | None,
) -> _Scope:
    scope = _Scope(prefix, {}, _links(_entries(data.get("links"))), parent, outer)
    for position, raw in enumerate(_entries(data.get("nodes"))):
        if not (
            isinstance(raw, Mapping) and _is_id(raw.get("id")) and isinstance(raw.get("type"), str)
        ):
            raise GlideError(
                f"entry {position} of the workflow's nodes is not a node. Expected an object with "
                "an id and a type. Save the workflow again from ComfyUI."
            )
        scope.nodes[raw["id"]] = raw
        if raw["type"] in definitions:
            if prefix.count(":") > 20:
                raise GlideError(f"subgraph {raw['type']} contains itself. Unpack it in ComfyUI.")
            inner = definitions[raw["type"]]
            scope.inside[raw["id"]] = _scope(
                inner, f"{prefix}{raw['id']}:", definitions, scope, raw
            )
    return scope


def _links(raw: Sequence[Any]) -> dict[int | str, tuple[Any, int, Any, int]]:
    links: dict[int | str, tuple[Any, int, Any, int]] = {}
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    for entry in raw:
        fields: list[Any] = [None]
        if isinstance(entry, Mapping):  # schema 1.0, and inside subgraphs
            fields = [entry.get(name) for name in names]
        elif isinstance(entry, (list, tuple)) and len(entry) >= len(names):
            fields = list(entry[: len(names)])
        if len(fields) != len(names) or not (
            all(_is_id(fields[i]) for i in (0, 1, 3))
            and all(isinstance(fields[i], int) for i in (2, 4))
        ):
            raise GlideError(
                f"the workflow's link {entry!r} is not a link. Expected [id, from node, slot, "
                "to node, slot, type]. Save the workflow again from ComfyUI."
            )
        links[fields[0]] = (fields[1], fields[2], fields[3], fields[4])
    return links


def _label(scope: _Scope, raw: Mapping[str, Any]) -> str:
    return f"node {scope.prefix}{raw['id']} ({raw.get('title') or raw['type']})"


def _collect(scope: _Scope, schemas: Mapping[str, NodeSchema], nodes: dict[str, Node]) -> None:
    for key, raw in scope.nodes.items():
        if raw.get("mode", 0) in (MUTED, BYPASSED):
            continue
        if key in scope.inside:
            _collect(scope.inside[key], schemas, nodes)
        elif raw["type"] not in (*DRAWN_ONLY, "Reroute", "PrimitiveNode"):
            node = _node(scope, raw, schemas)
            nodes[node.id] = node


def _node(scope: _Scope, raw: Mapping[str, Any], schemas: Mapping[str, NodeSchema]) -> Node:
    schema = schemas.get(raw["type"])
    title = str(raw.get("title") or (schema.title if schema else raw["type"]))
    inputs = dict(_widget_values(scope, raw, schema))
    cut = {}
    for slot, declared in enumerate(_slots(raw, "inputs")):
        source = _resolve_input(scope, raw, slot)
        name = str(declared.get("name"))
        if isinstance(source, Link):
            inputs[name] = source
        elif isinstance(source, _Value):
            inputs[name] = source.value
        elif source.why:
            # A connection that leads nowhere is no connection, even where a widget has a value.
            inputs.pop(name, None)
            cut[name] = source.why
    return Node(f"{scope.prefix}{raw['id']}", raw["type"], title, inputs, cut)


def _slots(raw: Mapping[str, Any], side: str) -> list[Mapping[str, Any]]:
    return [slot for slot in _entries(raw.get(side)) if isinstance(slot, Mapping)]


def _widget_values(
    scope: _Scope, raw: Mapping[str, Any], schema: NodeSchema | None
) -> dict[str, Any]:
    """Match `widgets_values` with names; a seed's value is followed by its control's."""
    values = raw.get("widgets_values")
    if values is None or schema is None:
        return {}
    if isinstance(values, Mapping):
        return {s.name: values[s.name] for s in schema.widgets if s.name in values}
    if not isinstance(values, list):
        raise GlideError(
            f"{_label(scope, raw)}: widgets_values is a {type(values).__name__}. Expected a list. "
            "Save the workflow again from ComfyUI."
        )
    named: dict[str, Any] = {}
    rest = iter(values)
    for spec in schema.widgets:
        try:
            named[spec.name] = next(rest)
        except StopIteration:
            break  # saved before the node had this widget: its default applies
        if spec.has_control:
            next(rest, None)
    return named


def _resolve_input(scope: _Scope, raw: Mapping[str, Any], slot: int) -> Link | _Value | _Cut:
    """Follow what is connected to an input to the node that really gives it."""
    slots = _slots(raw, "inputs")
    link = slots[slot].get("link") if slot < len(slots) else None
    if link is None:
        return _Cut()
    if not _is_id(link) or link not in scope.links:
        return _Cut(f"its link {link} is not in the file")
    origin, origin_slot, _, _ = scope.links[link]
    return _resolve_output(scope, origin, origin_slot, 0)


def _resolve_output(scope: _Scope, key: Any, slot: int, depth: int) -> Link | _Value | _Cut:
    if depth > 1000:
        return _Cut("its reroutes run in a circle")
    if key == FROM_OUTSIDE and scope.parent is not None and scope.outer is not None:
        return _resolve_from_outside(scope, slot)
    raw = scope.nodes.get(key)
    if raw is None:
        return _Cut(f"node {scope.prefix}{key} is not in the file")
    mode = raw.get("mode", 0)
    if mode == MUTED:
        return _Cut(f"{_label(scope, raw)} is muted")
    if mode == BYPASSED:
        through = _bypass_slot(raw, slot)
        if through is None:
            return _Cut(f"{_label(scope, raw)} is bypassed and has no such input to pass on")
        return _follow(scope, raw, through, depth)
    if raw["type"] == "Reroute":
        return _follow(scope, raw, 0, depth)
    if raw["type"] == "PrimitiveNode":
        values = raw.get("widgets_values")
        return _Value(values[0]) if isinstance(values, list) and values else _Cut()
    if key in scope.inside:
        inner = scope.inside[key]
        for origin, origin_slot, target, target_slot in inner.links.values():
            if target == TO_OUTSIDE and target_slot == slot:
                return _resolve_output(inner, origin, origin_slot, depth + 1)
        return _Cut(f"output {slot} of subgraph {_label(scope, raw)} is not connected inside")
    return Link(f"{scope.prefix}{key}", slot)


def _follow(scope: _Scope, raw: Mapping[str, Any], slot: int, depth: int) -> Link | _Value | _Cut:
    slots = _slots(raw, "inputs")
    link = slots[slot].get("link") if slot < len(slots) else None
    if not _is_id(link) or link not in scope.links:
        return _Cut(f"{_label(scope, raw)} has nothing connected to pass on")
    origin, origin_slot, _, _ = scope.links[link]
    return _resolve_output(scope, origin, origin_slot, depth + 1)


def _resolve_from_outside(scope: _Scope, slot: int) -> Link | _Value | _Cut:
    """Follow a subgraph's input to what the outer node has there: a connection or a widget."""
    assert scope.parent is not None and scope.outer is not None
    found = _resolve_input(scope.parent, scope.outer, slot)
    if isinstance(found, _Cut) and not found.why:
        return _promoted(scope.outer, slot)
    return found


def _promoted(outer: Mapping[str, Any], slot: int) -> _Value | _Cut:
    """Give the value of the widget that stands for an inner node's on the subgraph's own node.

    Older frontends copy it into the inner node as well; newer ones save it here alone.
    """
    slots, values = _slots(outer, "inputs"), outer.get("widgets_values")
    widgets = [i for i, declared in enumerate(slots) if isinstance(declared.get("widget"), Mapping)]
    if slot not in widgets or not isinstance(values, list) or len(values) != len(widgets):
        return _Cut()
    value = values[widgets.index(slot)]
    return _Cut() if value is None else _Value(value)


def _bypass_slot(raw: Mapping[str, Any], slot: int) -> int | None:
    """Give the input that stands in for an output: the same slot if the types fit, else the first
    of the output's type."""
    inputs, outputs = _slots(raw, "inputs"), _slots(raw, "outputs")
    if slot >= len(outputs):
        return None
    kind = outputs[slot].get("type")
    same = [i for i, declared in enumerate(inputs) if declared.get("type") in (kind, "*")]
    if slot in same:
        return slot
    return same[0] if same else None
