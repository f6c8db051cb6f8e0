"""Writing workflows in the format of ComfyUI's editor, laid out in rows of columns."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glide_pack.nodes import NODE_CLASS_MAPPINGS
from glide_pack.nodes.host.standalone.schema import (
    InputSpec,
    NodeSchema,
    from_class,
    from_object_info,
)

ROOT = Path(__file__).resolve().parents[1]
BUILT_IN = json.loads((ROOT / "tests" / "nodes" / "builtin_nodes.json").read_text())
SCHEMAS: dict[str, NodeSchema] = {
    **from_object_info({k: {**v, "display_name": k} for k, v in BUILT_IN.items()}),
    **{name: from_class(name, node) for name, node in NODE_CLASS_MAPPINGS.items()},
}
GAP_X, GAP_Y = 50, 70
WIDTHS = {"SaveImage": 400, "PreviewImage": 330, "MarkdownNote": 400, "GlideTextEncode": 360}
# what previews, charts and sliders add to a node's height during a run
GROWTH = {
    "GlideSampler": 310,
    "GlideUpsample": 290,
    "GlideEdit": 290,
    "GlideInpaint": 290,
    "KSampler": 200,
    "SamplerCustomAdvanced": 200,
}
HEIGHTS = {"SaveImage": 440, "PreviewImage": 300, "MarkdownNote": 260}
NAMESPACE = uuid.UUID("0f9e2c1a-6d1c-5d0e-9a3f-6f2f0d6b7a11")

Link = tuple["Node", int]


@dataclass
class Node:
    """One node; `node[i]` is its output i, to connect to another node's input."""

    id: int
    type: str
    title: str
    links: dict[str, Link]
    values: list[Any]
    models: list[dict[str, str]]
    height: int | None = None
    pos: tuple[int, int] = (0, 0)
    outputs: dict[int, list[int]] = field(default_factory=dict)

    def __getitem__(self, slot: int) -> Link:
        return self, slot

    @property
    def size(self) -> tuple[int, int]:
        schema = SCHEMAS.get(self.type)
        width = WIDTHS.get(self.type, 330)
        if self.height or self.type in HEIGHTS or schema is None:
            return width, self.height or HEIGHTS[self.type]
        sockets = sum(not spec.is_widget for spec in schema.inputs)
        height = 20 * max(sockets, len(schema.outputs)) + 16
        return width, height + sum(_widget_height(spec) for spec in schema.widgets)


def _widget_height(spec: InputSpec) -> int:
    return 80 if spec.options.get("multiline") else 26 * (1 + spec.has_control)


class Workflow:
    """A workflow under construction: add nodes, lay them out, write the file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Node] = []

    def note(self, heading: str, *lines: str, height: int | None = None) -> Node:
        """Add the note: a heading and at most three lines."""
        text = "\n\n".join((f"## {heading}", *lines))
        node = Node(0, "MarkdownNote", "Read me", {}, [text], [], height)
        self.nodes.append(node)
        return node

    def add(
        self,
        kind: str,
        *values: Any,
        title: str = "",
        models: list[dict[str, str]] | None = None,
        height: int | None = None,
        **given: Any,
    ) -> Node:
        """Add a node. given: connections (`node[slot]`) and widget values by name.

        values: all widget values in their order instead, for built-in nodes, of which no default
        is recorded. models: files to download, for ComfyUI's dialog of missing models.
        """
        schema = SCHEMAS[kind]
        links = {name: value for name, value in given.items() if isinstance(value, tuple)}
        filled = list(values)
        for spec in () if values else schema.widgets:
            default = spec.options.get("default", (spec.choices or [None])[0])
            filled.append(given.get(spec.name, default))
            if spec.has_control:
                filled.append("fixed")
        unknown = given.keys() - {spec.name for spec in schema.inputs}
        if unknown:
            raise ValueError(f"{kind} has no input {sorted(unknown)}")
        node = Node(0, kind, title, links, filled, models or [], height)
        self.nodes.append(node)
        return node

    def place(self, *rows: list[list[Node]]) -> None:
        """Lay the nodes out: rows of columns of nodes, each as high as it needs to be."""
        top = 0
        for row in rows:
            left, bottom = 0, top
            for column in row:
                y = top
                for node in column:
                    node.pos = (left, y)
                    y += node.size[1] + GAP_Y + GROWTH.get(node.type, 0)
                left += max(node.size[0] for node in column) + GAP_X
                bottom = max(bottom, y)
            top = bottom + 20

    def data(self) -> dict[str, Any]:
        """Give the workflow as the editor saves it."""
        for number, node in enumerate(self.nodes, 1):
            node.id = number
            node.outputs = {}
        links: list[list[Any]] = []
        slots = {node.id: self._slots(node, links) for node in self.nodes}
        nodes = [self._node(node, slots[node.id]) for node in self.nodes]
        return {
            "id": str(uuid.uuid5(NAMESPACE, self.name)),
            "revision": 0,
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": links,
            "groups": [],
            "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [100, 120]}},
            "version": 0.4,
        }

    def _slots(self, node: Node, links: list[list[Any]]) -> list[dict[str, Any]]:
        """Give a node's input slots, and add its links."""
        slots: list[dict[str, Any]] = []
        for spec in SCHEMAS[node.type].inputs if node.type in SCHEMAS else ():
            source = node.links.get(spec.name)
            if spec.is_widget and source is None:
                continue
            slot: dict[str, Any] = {"name": spec.name, "type": spec.type, "link": None}
            if spec.is_widget:
                slot["widget"] = {"name": spec.name}
            if source is not None:
                origin, out = source
                number = len(links) + 1
                kind = SCHEMAS[origin.type].outputs[out]
                links.append([number, origin.id, out, node.id, len(slots), kind])
                origin.outputs.setdefault(out, []).append(number)
                slot["link"] = number
            slots.append(slot)
        return slots

    def _node(self, node: Node, slots: list[dict[str, Any]]) -> dict[str, Any]:
        ours = node.type in NODE_CLASS_MAPPINGS
        properties: dict[str, Any] = {"cnr_id": "glide-diffusion" if ours else "comfy-core"}
        properties["Node name for S&R"] = node.type
        if node.models:
            properties["models"] = node.models
        schema = SCHEMAS.get(node.type)
        kinds = schema.outputs if schema else ()
        cls: Any = NODE_CLASS_MAPPINGS.get(node.type)
        names = getattr(cls, "RETURN_NAMES", kinds)
        found = {
            "id": node.id,
            "type": node.type,
            "pos": list(node.pos),
            "size": list(node.size),
            "flags": {},
            "order": node.id - 1,
            "mode": 0,
            "inputs": slots,
            "outputs": [
                {"name": name, "type": kind, "slot_index": i, "links": node.outputs.get(i, [])}
                for i, (name, kind) in enumerate(zip(names, kinds, strict=True))
            ],
            "properties": properties if schema else {},
            "widgets_values": node.values,
        }
        return {**found, "title": node.title} if node.title else found

    def text(self) -> str:
        """Give the file's content."""
        return json.dumps(self.data(), indent=1) + "\n"
