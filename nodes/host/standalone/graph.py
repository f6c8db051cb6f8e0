"""A workflow as both file formats mean it: nodes with values and links, ready to be checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from glide_core.errors import GlideError


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
    # Inputs that were connected to something that does not run, and why: for a better message.
    cut: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How messages name it: node 5 (GLIDE Sampler)."""
        return f"node {self.id} ({self.title or self.class_type})"

    def links(self) -> Iterator[tuple[str, Link]]:
        for name, value in self.inputs.items():
            if isinstance(value, Link):
                yield name, value


@dataclass(frozen=True)
class Graph:
    nodes: dict[str, Node]
    # The file's UI form, kept to be written into pictures as ComfyUI does; None for an API file.
    ui: dict[str, Any] | None = None

    def order(self, wanted: Iterable[str]) -> list[str]:
        """Give what the wanted nodes need, sources first; GlideError names a loop's nodes."""
        done: dict[str, None] = {}
        state: dict[str, bool] = {}  # False while its sources are being visited
        for root in wanted:
            stack: list[tuple[str, Iterator[str]]] = [(root, self._sources(root))]
            state.setdefault(root, False)
            if root in done:
                continue
            while stack:
                current, sources = stack[-1]
                for source in sources:
                    if source in done:
                        continue
                    if state.get(source) is False:
                        loop = [node for node, _ in stack]
                        names = [self.nodes[n].label for n in loop[loop.index(source) :]]
                        raise GlideError(
                            f"the workflow runs in a circle: {' -> '.join(reversed(names))}. "
                            "Expected every node to depend on earlier ones only. Cut one of these "
                            "connections."
                        )
                    state[source] = False
                    stack.append((source, self._sources(source)))
                    break
                else:
                    stack.pop()
                    state[current] = True
                    done[current] = None
        return list(done)

    def _sources(self, node: str) -> Iterator[str]:
        return (link.node for _, link in self.nodes[node].links() if link.node in self.nodes)

    def to_api(self) -> dict[str, Any]:
        """Write ComfyUI's API format: what its /prompt takes and its PNGs carry as `prompt`."""

        def plain(value: Any) -> Any:
            if isinstance(value, Link):
                return [value.node, value.slot]
            return {"__value__": value} if isinstance(value, list) else value

        return {
            node.id: {
                "class_type": node.class_type,
                "inputs": {name: plain(value) for name, value in node.inputs.items()},
                "_meta": {"title": node.title or node.class_type},
            }
            for node in self.nodes.values()
        }
