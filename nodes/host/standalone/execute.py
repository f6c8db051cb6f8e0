"""Run a checked workflow graph: each node once, values freed after their last use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from glide_core.errors import GlideError

from .builtin_nodes import BUILTIN_NODES, Place
from .graph import Graph, Link, Node
from .schema import NodeSchema, from_class


def schemas(pack: Mapping[str, type], titles: Mapping[str, str], place: Place) -> dict[str, Any]:
    """Return the inputs and outputs of every node that can run here, by type."""
    found: dict[str, NodeSchema] = {}
    for name, (builtin, title) in BUILTIN_NODES.items():
        schema = from_class(name, builtin, title)
        problem = getattr(builtin(place), "problem", None)
        if problem is not None:
            schema = replace(schema, validate=problem, validated=frozenset({"image"}))
        found[name] = schema
    for name, node in pack.items():
        found[name] = from_class(name, node, titles.get(name, name))
    return found


def execute(
    graph: Graph, wanted: Sequence[str], pack: Mapping[str, type], place: Place
) -> list[Path]:
    """Run what the wanted nodes need and return the files written; errors name the node."""
    import torch

    order = graph.order(wanted)
    uses = Counter(link.node for key in order for _, link in graph.nodes[key].links())
    results: dict[str, Sequence[Any]] = {}
    with torch.inference_mode():  # as ComfyUI does
        for key in order:
            node = graph.nodes[key]
            arguments = {
                name: results[value.node][value.slot] if isinstance(value, Link) else value
                for name, value in node.inputs.items()
            }
            results[key] = _call(node, arguments, pack, place)
            for _, link in node.links():
                uses[link.node] -= 1
                if not uses[link.node]:
                    del results[link.node]
    return place.written


def _call(
    node: Node, arguments: dict[str, Any], pack: Mapping[str, type], place: Place
) -> Sequence[Any]:
    if node.class_type in BUILTIN_NODES:
        instance: Any = BUILTIN_NODES[node.class_type][0](place)
    else:
        instance = pack[node.class_type]()
    declared = instance.INPUT_TYPES()
    names = {**declared.get("required", {}), **declared.get("optional", {})}
    known = {name: value for name, value in arguments.items() if name in names}
    try:
        result = getattr(instance, instance.FUNCTION)(**known)
    except GlideError as error:
        raise GlideError(f"{node.label}: {error}") from error
    if isinstance(result, Mapping):
        result = result.get("result", ())
    return tuple(result)
