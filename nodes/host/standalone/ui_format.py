"""ComfyUI's UI format (what the editor saves), resolved the way its frontend makes a prompt.

Reroutes and bypassed nodes (mode 4) pass through, muted ones (mode 2) are left out, primitives
give their value, subgraphs are unfolded under ids like "12:3", and notes are dropped. Connections
are followed in a loop with every answer kept: long chains and cycles cost no more than their nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from glide_core.errors import GlideError

from .graph import Graph, Link, Node, check_count, plain, shown
from .schema import NodeSchema

MUTED, BYPASSED = 2, 4
NOTES = ("Note", "MarkdownNote")
FROM_OUTSIDE, TO_OUTSIDE = -10, -20  # ids of a subgraph's own input and output nodes
MAX_NESTING = 12  # subgraphs inside subgraphs
MAX_SLOTS = 250  # inputs or outputs of one node


@dataclass(frozen=True)
class _Value:
    """A primitive node's value, where a link was expected."""

    value: Any


@dataclass(frozen=True)
class _Cut:
    """Nothing arrives, and why."""

    why: str = ""


_Found = Link | _Value | _Cut


@dataclass(frozen=True)
class _Level:
    """The workflow's own nodes and links, or those of one subgraph definition; parsed once."""

    nodes: dict[int | str, Mapping[str, Any]]
    links: dict[Any, tuple[Any, int]]  # id: from node, slot
    outputs: dict[int, tuple[Any, int]]  # a subgraph's output slot: from node, slot


@dataclass(frozen=True, eq=False)
class _Scope:
    """One use of a level: the workflow itself, or a subgraph at one place."""

    prefix: str
    level: _Level
    parent: _Scope | None = None
    outer: Mapping[str, Any] | None = None  # the parent's node that stands for this scope
    inside: dict[int | str, _Scope] = field(default_factory=dict)

    def label(self, raw: Mapping[str, Any]) -> str:
        return f"node {plain(self.prefix)}{plain(raw['id'])} ({plain(_title(raw))})"


class _Place(NamedTuple):
    """Output `slot` of a node within a scope: one step of following a connection."""

    scope: _Scope
    key: Any
    slot: int


def read(data: Mapping[str, Any], schemas: Mapping[str, NodeSchema]) -> Graph:
    """Read the UI format; GlideError names the node and what is wrong with it."""
    groups = data.get("definitions")
    subgraphs = groups.get("subgraphs") if isinstance(groups, Mapping) else None
    definitions = {
        str(sub.get("id")): _level(sub)
        for sub in _entries(subgraphs)
        if isinstance(sub, Mapping) and isinstance(sub.get("nodes"), list)
    }
    reader = _Reader(schemas, definitions)
    reader.unfold(_Scope("", _level(data)))
    return Graph(reader.nodes(), ui=dict(data))


def _entries(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _title(raw: Mapping[str, Any]) -> str:
    return str(raw.get("title") or raw["type"])


def _slots(raw: Mapping[str, Any], side: str) -> list[Mapping[str, Any]]:
    return [slot for slot in _entries(raw.get(side)) if isinstance(slot, Mapping)]


def _level(data: Mapping[str, Any]) -> _Level:
    level = _Level({}, {}, {})
    for position, raw in enumerate(_entries(data.get("nodes"))):
        if not (
            isinstance(raw, Mapping) and _is_id(raw.get("id")) and isinstance(raw.get("type"), str)
        ):
            raise GlideError(
                f"entry {position} of the workflow's nodes is not a node. Expected an object with "
                "an id and a type. Save the workflow again from ComfyUI."
            )
        if any(len(_entries(raw.get(side))) > MAX_SLOTS for side in ("inputs", "outputs")):
            raise GlideError(
                f"node {plain(raw['id'])} ({plain(_title(raw))}) has more than {MAX_SLOTS} inputs "
                "or outputs."
            )
        level.nodes[raw["id"]] = raw
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    for entry in _entries(data.get("links")):
        fields: list[Any] = []
        if isinstance(entry, Mapping):  # schema 1.0, and inside subgraphs
            fields = [entry.get(name) for name in names]
        elif isinstance(entry, list):
            fields = entry[: len(names)]
        if len(fields) != len(names) or not (
            all(_is_id(fields[i]) for i in (0, 1, 3))
            and all(isinstance(fields[i], int) for i in (2, 4))
        ):
            raise GlideError(
                f"the workflow's link {shown(entry)} is not a link. Expected [id, from node, slot, "
                "to node, slot, type]. Save the workflow again from ComfyUI."
            )
        key, origin, slot, target, target_slot = fields
        level.links[key] = (origin, slot)
        if target == TO_OUTSIDE:
            level.outputs.setdefault(target_slot, (origin, slot))
    return level


class _Reader:
    """The unfolded scopes of one workflow, and where each connection was found to come from."""

    def __init__(
        self, schemas: Mapping[str, NodeSchema], definitions: Mapping[str, _Level]
    ) -> None:
        self.schemas = schemas
        self.definitions = definitions
        self.scopes: list[_Scope] = []
        self.count = 0
        self.found: dict[_Place, _Found] = {}

    def unfold(self, scope: _Scope) -> None:
        """Register a scope and those inside it, refusing too many nodes or levels."""
        self.count += len(scope.level.nodes)
        check_count(self.count)
        self.scopes.append(scope)
        for key, raw in scope.level.nodes.items():
            inner = self.definitions.get(raw["type"])
            if inner is None:
                continue
            if scope.prefix.count(":") >= MAX_NESTING:
                raise GlideError(
                    f"subgraph {plain(_title(raw))} is nested more than {MAX_NESTING} deep, or "
                    "contains itself. Unpack it in ComfyUI."
                )
            prefix = f"{scope.prefix}{str(key).replace(':', '.')}:"
            scope.inside[key] = _Scope(prefix, inner, scope, raw)
            self.unfold(scope.inside[key])

    def nodes(self) -> dict[str, Node]:
        """Return every node that runs, by its unfolded id."""
        nodes = {}
        muted: set[_Scope] = set()
        for scope in self.scopes:  # parents stand before what is inside them
            if scope.parent in muted or (scope.outer or {}).get("mode") in (MUTED, BYPASSED):
                muted.add(scope)
                continue
            for key, raw in scope.level.nodes.items():
                runs = raw.get("mode", 0) not in (MUTED, BYPASSED) and key not in scope.inside
                if runs and raw["type"] not in (*NOTES, "Reroute", "PrimitiveNode"):
                    node = self._node(scope, raw)
                    nodes[node.id] = node
        return nodes

    def _node(self, scope: _Scope, raw: Mapping[str, Any]) -> Node:
        schema = self.schemas.get(raw["type"])
        title = str(raw.get("title") or (schema.title if schema else raw["type"]))
        inputs, cut = _widget_values(scope, raw, schema), {}
        for declared in _slots(raw, "inputs"):
            source = self._follow(_source(scope, declared))
            name = str(declared.get("name"))
            if isinstance(source, Link):
                inputs[name] = source
            elif isinstance(source, _Value):
                inputs[name] = source.value
            elif source.why:
                # A connection that leads nowhere removes the widget's value, as in ComfyUI.
                inputs.pop(name, None)
                cut[name] = source.why
        return Node(f"{scope.prefix}{raw['id']}", raw["type"], title, inputs, cut)

    def _follow(self, start: _Place | _Found) -> _Found:
        """Follow a connection back to the node that produces its value."""
        path: dict[_Place, None] = {}
        now = start
        while isinstance(now, _Place) and now not in self.found:
            if now in path:
                now = _Cut("its reroutes form a cycle")
                break
            path[now] = None
            now = _before(now)
        found = self.found[now] if isinstance(now, _Place) else now
        for place in reversed(path):
            if place.key == FROM_OUTSIDE and place.scope.outer and found == _Cut():
                found = _promoted(place.scope.outer, place.slot)
            self.found[place] = found
        return found


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
            f"{scope.label(raw)}: widgets_values is a {type(values).__name__}. Expected a list. "
            "Save the workflow again from ComfyUI."
        )
    named: dict[str, Any] = {}
    rest: Iterator[Any] = iter(values)
    for spec in schema.widgets:
        try:
            named[spec.name] = next(rest)
        except StopIteration:
            break  # saved before the node had this widget: its default applies
        if spec.has_control:
            next(rest, None)
    return named


def _source(scope: _Scope, declared: Mapping[str, Any]) -> _Place | _Cut:
    """Say which output is connected to a node's input."""
    link = declared.get("link")
    if link is None:
        return _Cut()
    if not _is_id(link) or link not in scope.level.links:
        return _Cut(f"its link {shown(link)} is not in the file")
    return _Place(scope, *scope.level.links[link])


def _before(place: _Place) -> _Place | _Found:
    """Follow one step: to the value itself, or to the output that this one passes on."""
    scope, key, slot = place
    if key == FROM_OUTSIDE and scope.parent is not None and scope.outer is not None:
        return _passed(scope.parent, scope.outer, slot)
    raw = scope.level.nodes.get(key)
    if raw is None:
        return _Cut(f"node {plain(scope.prefix)}{plain(key)} is not in the file")
    if raw.get("mode", 0) == MUTED:
        return _Cut(f"{scope.label(raw)} is muted")
    if raw.get("mode", 0) == BYPASSED:
        through = _bypass_slot(raw, slot)
        if through is None:
            return _Cut(f"{scope.label(raw)} is bypassed and has no such input to pass on")
        return _passed(scope, raw, through, needed=True)
    if raw["type"] == "Reroute":
        return _passed(scope, raw, 0, needed=True)
    if raw["type"] == "PrimitiveNode":
        values = _entries(raw.get("widgets_values"))
        return _Value(values[0]) if values else _Cut()
    if key in scope.inside:
        inner = scope.inside[key]
        if slot in inner.level.outputs:
            return _Place(inner, *inner.level.outputs[slot])
        return _Cut(f"output {slot} of subgraph {scope.label(raw)} is not connected inside")
    return Link(f"{scope.prefix}{key}", slot)


def _passed(
    scope: _Scope, raw: Mapping[str, Any], slot: int, *, needed: bool = False
) -> _Place | _Cut:
    """Say what a node passes on from its input `slot`; needed: unconnected is worth a message."""
    slots = _slots(raw, "inputs")
    found = _source(scope, slots[slot]) if 0 <= slot < len(slots) else _Cut()
    if needed and found == _Cut():
        return _Cut(f"{scope.label(raw)} has nothing connected to pass on")
    return found


def _promoted(outer: Mapping[str, Any], slot: int) -> _Value | _Cut:
    """Return the value of the subgraph node's widget that stands for an inner node's.

    Older frontends copy it into the inner node as well; newer ones save it here alone.
    """
    slots, values = _slots(outer, "inputs"), outer.get("widgets_values")
    widgets = [i for i, declared in enumerate(slots) if isinstance(declared.get("widget"), Mapping)]
    if slot not in widgets or not isinstance(values, list) or len(values) != len(widgets):
        return _Cut()
    value = values[widgets.index(slot)]
    return _Cut() if value is None else _Value(value)


def _bypass_slot(raw: Mapping[str, Any], slot: int) -> int | None:
    """Return the input that stands in for an output: the same slot if the types fit, else the first
    of the output's type."""
    inputs, outputs = _slots(raw, "inputs"), _slots(raw, "outputs")
    if not 0 <= slot < len(outputs):
        return None
    kind = outputs[slot].get("type")
    same = [i for i, declared in enumerate(inputs) if declared.get("type") in (kind, "*")]
    if slot in same:
        return slot
    return same[0] if same else None
