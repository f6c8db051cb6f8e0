"""Checking a workflow before anything runs, by the rules ComfyUI's server has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from glide_core.errors import GlideError

from .graph import Graph, Link, Node
from .schema import InputSpec, NodeSchema


def check(graph: Graph, schemas: Mapping[str, NodeSchema]) -> tuple[Graph, list[str]]:
    """Give the graph with its values in their types, and the nodes whose output is the aim.

    GlideError lists every problem at once, each with the node and the input it is about.
    """
    unknown = [node for node in graph.nodes.values() if node.class_type not in schemas]
    outputs = [
        node.id
        for node in graph.nodes.values()
        if node.class_type in schemas and schemas[node.class_type].output_node
    ]
    if unknown:
        names = "; ".join(f"{node.label} is of type {node.class_type}" for node in unknown)
        raise GlideError(
            f"`glide run` does not have every node of this workflow: {names}. Expected this "
            "pack's nodes and the few core nodes around them. Run it in ComfyUI, or send it to a "
            "running one with --server URL."
        )
    if not outputs:
        raise GlideError(
            "the workflow saves nothing: it has no output node. Expected at least one SaveImage "
            "or PreviewImage that is not muted. Add one."
        )
    problems: list[str] = []
    nodes = dict(graph.nodes)
    for key in graph.order(outputs):
        node = graph.nodes[key]
        values, found = _check_node(node, graph, schemas)
        nodes[key] = replace(node, inputs=values)
        problems += found
    if problems:
        raise GlideError(
            "the workflow cannot run, and nothing was written:\n  " + "\n  ".join(problems)
        )
    return replace(graph, nodes=nodes), outputs


def _check_node(
    node: Node, graph: Graph, schemas: Mapping[str, NodeSchema]
) -> tuple[dict[str, Any], list[str]]:
    schema = schemas[node.class_type]
    values, problems = dict(node.inputs), []
    for spec in schema.inputs:
        where = f"{node.label}, input '{spec.name}'"
        if spec.name not in values:
            if spec.is_widget and "default" in spec.options and spec.name not in node.cut:
                values[spec.name] = spec.options["default"]
            elif spec.required:
                why = f" ({node.cut[spec.name]})" if spec.name in node.cut else ""
                problems.append(
                    f"{where}: required, but nothing arrives{why}. Connect {spec.type}."
                )
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
            problems.append(f"{node.label}, input {names}: {answer}")
    return values, problems


def _link_problem(
    link: Link, spec: InputSpec, graph: Graph, schemas: Mapping[str, NodeSchema]
) -> str | None:
    source = graph.nodes.get(link.node)
    if source is None:
        return (
            f"it is connected to node {link.node}, which is not in the workflow. Connect it again."
        )
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
    """Convert as ComfyUI does and check range or choice; give the value and what is wrong."""
    try:
        if spec.type == "INT":
            value = int(value)
        elif spec.type == "FLOAT":
            value = float(value)
            if math.isnan(value):
                raise ValueError
        elif spec.type == "STRING":
            value = str(value)
        elif spec.type == "BOOLEAN":
            value = _boolean(value)
        elif spec.type != "COMBO":
            return value, f"{value!r} is not a connection. Expected {spec.type} from another node."
    except (TypeError, ValueError, OverflowError):
        return value, f"{value!r} is not a {spec.type}. Type one in."
    if spec.type == "COMBO" and type(value) not in {str, *map(type, spec.choices or ())}:
        return value, f"{value!r} is not a choice. Expected one of the widget's entries."
    if node_checks:
        return value, None
    low, high = spec.options.get("min"), spec.options.get("max")
    if spec.type in ("INT", "FLOAT"):
        if low is not None and value < low:
            return value, f"{value} is too small. Expected {low} or more."
        if high is not None and value > high:
            return value, f"{value} is too large. Expected {high} or less."
    if spec.type == "COMBO" and spec.choices is not None and value not in spec.choices:
        known = ", ".join(repr(choice) for choice in spec.choices[:20]) or "nothing (none found)"
        return value, f"{value!r} is not a choice. Expected one of: {known}."
    return value, None


def _boolean(value: Any) -> bool:
    if isinstance(value, str):
        if value.lower() in ("true", "yes", "on", "1"):
            return True
        if value.lower() in ("false", "no", "off", "0"):
            return False
        raise ValueError(value)
    return bool(value)
