"""A workflow as both file formats mean it: nodes with values and links; reads the API format."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from glide_core.errors import GlideError

MAX_NODES = 5000  # with every subgraph unfolded; the largest published workflows have a few hundred

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def shown(value: Any) -> str:
    """Format a value for a message: at most a line, whatever the workflow holds."""
    return _SHORT.repr(value)


def plain(text: Any, limit: int = 60) -> str:
    """Format text of a file or a server for a message: printable, in one line, shortened."""
    printable = "".join(c if c.isprintable() else " " for c in str(text)[: limit + 1])
    words = " ".join(printable.split())
    return words if len(str(text)) <= limit else f"{words[:limit]}..."


@dataclass(frozen=True)
class Link:
    """Output `slot` of node `node`."""

    node: str
    slot: int


@dataclass(frozen=True)
class Node:
    id: str
    class_type: str
    title: str
    inputs: dict[str, Any] = field(default_factory=dict)  # a Link, or a widget's value
    # Inputs connected to something that does not run, and why: for the error message.
    cut: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How messages name it: node 5 (GLIDE Sampler)."""
        return f"node {plain(self.id)} ({plain(self.title or self.class_type)})"

    def links(self) -> Iterator[tuple[str, Link]]:
        for name, value in self.inputs.items():
            if isinstance(value, Link):
                yield name, value


@dataclass(frozen=True)
class Graph:
    nodes: dict[str, Node]
    # The file's UI form, written into images as ComfyUI does; None for an API file.
    ui: dict[str, Any] | None = None

    def order(self, wanted: Iterable[str]) -> list[str]:
        """Return what the wanted nodes need, sources first; GlideError names the nodes of a cycle.

        Depth-first search with an explicit stack: a chain of any length is walked.
        """
        done: dict[str, None] = {}
        for root in wanted:
            if root in done:
                continue
            path: dict[str, Iterator[str]] = {root: self._sources(root)}
            while path:
                current = next(reversed(path))
                source = next((s for s in path[current] if s not in done), None)
                if source is None:
                    done[current] = None
                    del path[current]
                elif source in path:
                    cycle = list(path)[list(path).index(source) :]
                    names = " -> ".join(self.nodes[n].label for n in reversed(cycle[-8:]))
                    raise GlideError(
                        f"the workflow has a cycle of {len(cycle)} nodes: {names}. Every node may "
                        "depend on earlier ones only: remove one of these connections."
                    )
                else:
                    path[source] = self._sources(source)
        return list(done)

    def _sources(self, node: str) -> Iterator[str]:
        return (link.node for _, link in self.nodes[node].links() if link.node in self.nodes)

    def to_api(self) -> dict[str, Any]:
        """Return ComfyUI's API format: what /prompt accepts and its PNGs carry as `prompt`."""

        def written(value: Any) -> Any:
            if isinstance(value, Link):
                return [value.node, value.slot]
            return {"__value__": value} if isinstance(value, list) else value

        return {
            node.id: {
                "class_type": node.class_type,
                "inputs": {name: written(value) for name, value in node.inputs.items()},
                "_meta": {"title": node.title or node.class_type},
            }
            for node in self.nodes.values()
        }


def check_count(nodes: int) -> None:
    """Refuse a workflow that is too large to be meant."""
    if nodes > MAX_NODES:
        raise GlideError(
            f"the workflow has more than {MAX_NODES} nodes, its subgraphs unfolded. Split it."
        )


def is_api(data: Any) -> bool:
    """Whether this looks like the API format, {id: {class_type, inputs, _meta}}."""
    return (
        isinstance(data, Mapping)
        and bool(data)
        and "nodes" not in data
        and any(isinstance(node, Mapping) and "class_type" in node for node in data.values())
    )


def read_api(data: Mapping[str, Any]) -> Graph:
    """Read the API format; GlideError names the entry that is not a node."""
    check_count(len(data))
    nodes = {}
    for key, raw in data.items():
        if not isinstance(raw, Mapping) or not isinstance(raw.get("class_type"), str):
            raise GlideError(
                f"node {plain(key)} is not a node: it has no class_type. Expected "
                '{"class_type": "...", "inputs": {...}}. Save the workflow again with Export (API).'
            )
        inputs = raw.get("inputs", {})
        if not isinstance(inputs, Mapping):
            raise GlideError(
                f"node {plain(key)} ({plain(raw['class_type'])}): its inputs are a "
                f"{type(inputs).__name__}. Expected an object of names and values."
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
