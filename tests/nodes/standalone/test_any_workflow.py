"""Any JSON is read as a workflow or refused with a GlideError, and quickly."""

from __future__ import annotations

import json
from typing import Any

from glide_pack.nodes.host.standalone import workflow
from glide_pack.nodes.host.standalone.check import check
from glide_pack.nodes.host.standalone.schema import from_class
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glide_core.errors import GlideError


class Both:
    """A node with widgets of every type, and a connection."""

    RETURN_TYPES = ("IMAGE",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "seed": ("INT", {"default": 0, "min": 0, "max": 9}),
                "amount": ("FLOAT", {"default": 0.0}),
                "on": ("BOOLEAN", {"default": True}),
                "text": ("STRING", {"default": ""}),
                "mode": (["a", "b"], {"default": "a"}),
            },
            "optional": {"image": ("IMAGE",)},
        }


SCHEMAS = {"Both": from_class("Both", Both)}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
IDS = st.sampled_from([0, 1, 2, 3, -10, -20, "1", "a"])
TYPES = st.sampled_from(["Both", "Reroute", "PrimitiveNode", "Note", "g0", "g1", "g2"])
SLOTS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["image", "seed"]), "link": st.none() | st.integers(0, 5) | JSON},
        optional={"type": st.sampled_from(["IMAGE", "*"]), "widget": JSON},
    ),
    max_size=3,
)
NODE = st.fixed_dictionaries(
    {"id": IDS, "type": TYPES},
    optional={
        "inputs": SLOTS | JSON,
        "outputs": SLOTS | JSON,
        "mode": st.sampled_from([0, 2, 4]) | JSON,
        "widgets_values": st.lists(JSON, max_size=6) | JSON,
        "title": JSON,
    },
)
LINK = st.tuples(st.integers(0, 5), IDS, st.integers(0, 2), IDS, st.integers(0, 2)).map(list)
LEVEL = {"nodes": st.lists(NODE, max_size=5), "links": st.lists(LINK, max_size=5)}
GRAPHS = st.lists(
    st.fixed_dictionaries({"id": st.sampled_from(["g0", "g1", "g2"]), **LEVEL}), max_size=3
)
UI = st.fixed_dictionaries(
    LEVEL, optional={"definitions": st.fixed_dictionaries({"subgraphs": GRAPHS}) | JSON}
)
VALUE = JSON | st.tuples(st.sampled_from(["1", "2", "x"]), st.integers(-1, 2)).map(list)
API = st.dictionaries(
    st.sampled_from(["1", "2", "3"]),
    st.fixed_dictionaries(
        {"class_type": st.sampled_from(["Both", "Other"])},
        optional={
            "inputs": st.dictionaries(
                st.sampled_from(["image", "seed", "amount", "on", "text", "mode"]), VALUE
            )
            | JSON,
            "_meta": JSON,
        },
    ),
)


@settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(UI | API | JSON)
def test_any_json_is_read_or_refused(data: Any) -> None:
    try:
        graph, wanted = check(workflow.read(data, SCHEMAS), SCHEMAS)
    except GlideError as error:
        assert len(str(error)) < 5000
        return
    order = graph.order(wanted)
    assert set(wanted) <= set(order) <= set(graph.nodes)
    again = workflow.read(json.loads(json.dumps(graph.to_api())), SCHEMAS)
    assert repr(check(again, SCHEMAS)[0].to_api()) == repr(graph.to_api())


@settings(max_examples=100, deadline=2000)
@given(st.binary(max_size=60) | JSON.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_json_or_refused(content: bytes) -> None:
    try:
        json.dumps(workflow.parse_json(content, "file", "")).encode()
    except GlideError as error:
        assert len(str(error)) < 500


def test_an_input_that_the_node_does_not_declare_is_left_out() -> None:
    """As ComfyUI does: its link may lead nowhere."""
    extra = {"image": ["1", 0], "gone": ["99", 0], "slot": ["1", 5], "value": 3}
    nodes = {key: {"class_type": "Both", "inputs": {}} for key in "12"}
    nodes["2"]["inputs"] = extra
    graph, _ = check(workflow.read(nodes, SCHEMAS), SCHEMAS)
    assert "image" in graph.nodes["2"].inputs
    assert not {"gone", "slot", "value"} & graph.nodes["2"].inputs.keys()
