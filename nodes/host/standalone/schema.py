"""Inputs and outputs of a node, from a V1 class or from a ComfyUI server's /object_info."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SEED_NAMES = ("seed", "noise_seed")  # the frontend adds a control to these even when not asked


@dataclass(frozen=True)
class InputSpec:
    name: str
    type: str
    options: Mapping[str, Any]
    required: bool
    choices: tuple[Any, ...] | None = None

    @property
    def is_widget(self) -> bool:
        """Whether the frontend shows a widget for it, whose value is in `widgets_values`."""
        return self.type in WIDGET_TYPES and not self.options.get("forceInput", False)

    @property
    def has_control(self) -> bool:
        """Whether a `control_after_generate` widget follows it in `widgets_values`."""
        asked = self.options.get("control_after_generate")
        if asked is not None:
            return bool(asked)
        return self.type == "INT" and self.name in SEED_NAMES


@dataclass(frozen=True)
class NodeSchema:
    class_type: str
    title: str
    inputs: tuple[InputSpec, ...]  # required first, then optional: the order of the widgets
    outputs: tuple[str, ...]
    output_node: bool = False
    validate: Callable[..., Any] | None = None  # V1's VALIDATE_INPUTS
    validated: frozenset[str] = frozenset()  # its parameters: ComfyUI skips its own checks

    def input(self, name: str) -> InputSpec | None:
        return next((spec for spec in self.inputs if spec.name == name), None)

    @property
    def widgets(self) -> tuple[InputSpec, ...]:
        return tuple(spec for spec in self.inputs if spec.is_widget)


def _input(name: str, declared: Any, required: bool) -> InputSpec:
    """Read one INPUT_TYPES entry: (type,), (type, options), ([choices], options).

    A server may send anything: what is not of that form becomes an input without choices.
    """
    parts = declared if isinstance(declared, (list, tuple)) and declared else [declared]
    kind = parts[0]
    extra = parts[1] if len(parts) > 1 else {}
    options: Mapping[str, Any] = extra if isinstance(extra, Mapping) else {}
    if isinstance(kind, (list, tuple)):
        return InputSpec(name, "COMBO", options, required, tuple(kind))
    if kind == "COMBO":  # the newer form, with the choices among the options
        choices = options.get("options")
        known = tuple(choices) if isinstance(choices, (list, tuple)) else ()
        return InputSpec(name, "COMBO", options, required, known)
    return InputSpec(name, str(kind), options, required)


def _inputs(declared: Any) -> tuple[InputSpec, ...]:
    groups = declared if isinstance(declared, Mapping) else {}
    return tuple(
        _input(str(name), entry, group == "required")
        for group in ("required", "optional")
        if isinstance(groups.get(group), Mapping)
        for name, entry in groups[group].items()
    )


def from_class(class_type: str, node: Any, title: str = "") -> NodeSchema:
    """Read a V1 node class."""
    validate = getattr(node, "VALIDATE_INPUTS", None)
    named = frozenset(inspect.signature(validate).parameters) if validate else frozenset()
    return NodeSchema(
        class_type=class_type,
        title=title or class_type,
        inputs=_inputs(node.INPUT_TYPES()),
        outputs=tuple(str(kind) for kind in node.RETURN_TYPES),
        output_node=bool(getattr(node, "OUTPUT_NODE", False)),
        validate=validate,
        validated=named,
    )


def from_object_info(info: Mapping[str, Any]) -> dict[str, NodeSchema]:
    """Read a ComfyUI server's /object_info; entries that are not nodes are left out."""
    return {
        class_type: NodeSchema(
            class_type=class_type,
            title=str(entry.get("display_name") or class_type),
            inputs=_inputs(entry.get("input")),
            outputs=_outputs(entry.get("output")),
            output_node=bool(entry.get("output_node", False)),
        )
        for class_type, entry in info.items()
        if isinstance(entry, Mapping)
    }


def _outputs(declared: Any) -> tuple[str, ...]:
    kinds = declared if isinstance(declared, (list, tuple)) else ()
    return tuple(kind if isinstance(kind, str) else "COMBO" for kind in kinds)
