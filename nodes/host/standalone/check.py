"""Checking a workflow before anything runs, by the rules ComfyUI's server has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from glide_core.errors import GlideError

from .graph import Graph, Link, Node, plain, shown
from .schema import InputSpec, NodeSchema

MAX_LISTED = 20  # problems in one message


def check(graph: Graph, schemas: Mapping[str, NodeSchema]) -> tuple[Graph, list[str]]:
    """Return the graph with values converted to their types, and the ids of its output nodes.

    GlideError lists every problem at once, each with the node and the input it is about.
    """
    check_known(
        graph,
        schemas,
        "`glide run` has this pack's nodes and a few of ComfyUI's built-in ones. Run the workflow "
        "in ComfyUI, or send it to a running one with --server URL.",
    )
    outputs = [node.id for node in graph.nodes.values() if schemas[node.class_type].output_node]
    if not outputs:
        raise GlideError(
            "the workflow has no output node. Expected at least one SaveImage or PreviewImage that "
            "is not muted."
        )
    problems: list[str] = []
    nodes = dict(graph.nodes)
    for key in graph.order(outputs):
        node = graph.nodes[key]
        values, found = _check_node(node, graph, schemas)
        nodes[key] = replace(node, inputs=values)
        problems += found
    if problems:
        raise GlideError("the workflow cannot run:\n  " + "\n  ".join(problems[:MAX_LISTED]))
    return replace(graph, nodes=nodes), outputs


def check_known(graph: Graph, schemas: Mapping[str, NodeSchema], hint: str) -> None:
    """Refuse node types that are not among the schemas, naming them."""
    unknown = [node for node in graph.nodes.values() if node.class_type not in schemas]
    if unknown:
        names = "; ".join(
            f"{node.label} is of type {plain(node.class_type)}" for node in unknown[:MAX_LISTED]
        )
        raise GlideError(f"unknown nodes: {names}. {hint}")


def _check_node(
    node: Node, graph: Graph, schemas: Mapping[str, NodeSchema]
) -> tuple[dict[str, Any], list[str]]:
    schema = schemas[node.class_type]
    declared = {spec.name for spec in schema.inputs}
    values = {name: value for name, value in node.inputs.items() if name in declared}
    problems: list[str] = []
    for spec in schema.inputs:
        where = f"{node.label}, input '{spec.name}'"
        if spec.name not in values:
            if spec.is_widget and "default" in spec.options and spec.name not in node.cut:
                values[spec.name] = spec.options["default"]
            elif spec.required:
                why = f" ({node.cut[spec.name]})" if spec.name in node.cut else ""
                problems.append(f"{where}: required, but not connected{why}. Connect {spec.type}.")
            continue
        value = values[spec.name]
        if isinstance(value, Link):
            problem = _link_problem(value, spec, graph, schemas)
        else:
            values[spec.name], problem = _value(value, spec, spec.name in schema.validated)
        if problem:
            problems.append(f"{where}: {problem}")
    if schema.validate is not None and not problems:
        known = {
            name: None if isinstance(values.get(name), Link) else values.get(name)
            for name in schema.validated
            if name in values
        }
        answer = schema.validate(**known)
        if answer is not True:
            names = ", ".join(f"'{name}'" for name in known)
            problems.append(f"{node.label}, input {names}: {plain(answer, 500)}")
    return values, problems


def _link_problem(
    link: Link, spec: InputSpec, graph: Graph, schemas: Mapping[str, NodeSchema]
) -> str | None:
    source = graph.nodes.get(link.node)
    if source is None:
        return f"connected to node {plain(link.node)}, which is not in the workflow."
    outputs = schemas[source.class_type].outputs
    if not 0 <= link.slot < len(outputs):
        return (
            f"connected to output {link.slot} of {source.label}, which has {len(outputs)}. "
            "Connect it again."
        )
    given = outputs[link.slot]
    wanted = set(spec.type.split(","))
    if given != "*" and "*" not in wanted and not wanted & set(given.split(",")):
        return f"{source.label} gives {given} there. Expected {spec.type}. Connect {spec.type}."
    return None


def _value(value: Any, spec: InputSpec, node_checks: bool) -> tuple[Any, str | None]:
    """Convert as ComfyUI does and check range or choice; return the value and the problem."""
    try:
        if spec.type == "INT":
            value = int(value)
        elif spec.type == "FLOAT":
            value = float(value)
            if not math.isfinite(value):
                raise ValueError
        elif spec.type == "STRING":
            value = str(value)
        elif spec.type == "BOOLEAN":
            value = _boolean(value)
        elif spec.type != "COMBO":
            return (
                value,
                f"{shown(value)} is not a connection. Expected {spec.type} from another node.",
            )
    except (TypeError, ValueError, OverflowError):
        return value, f"{shown(value)} is not a {spec.type}. Enter one."
    if spec.type == "COMBO" and type(value) not in {str, *map(type, spec.choices or ())}:
        return value, f"{shown(value)} is not a choice. Expected one of the widget's entries."
    if node_checks:
        return value, None
    low, high = spec.options.get("min"), spec.options.get("max")
    if spec.type in ("INT", "FLOAT"):
        if low is not None and value < low:
            return value, f"{shown(value)} is too small. Expected {low} or more."
        if high is not None and value > high:
            return value, f"{shown(value)} is too large. Expected {high} or less."
    if spec.type == "COMBO" and spec.choices is not None and value not in spec.choices:
        known = ", ".join(shown(choice) for choice in spec.choices[:20]) or "nothing (none found)"
        return value, f"{shown(value)} is not a choice. Expected one of: {known}."
    return value, None


def _boolean(value: Any) -> bool:
    if isinstance(value, str):
        if value.lower() in ("true", "yes", "on", "1"):
            return True
        if value.lower() in ("false", "no", "off", "0"):
            return False
        raise ValueError(value)
    return bool(value)
