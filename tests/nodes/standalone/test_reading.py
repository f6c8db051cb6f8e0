"""Both file formats, read the way ComfyUI's frontend and server read them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from glide_pack.nodes.host.standalone import workflow
from glide_pack.nodes.host.standalone.check import check
from glide_pack.nodes.host.standalone.schema import from_class, from_object_info
from glide_pack.nodes.host.standalone.workflow import Link, NodeSchema

from glide_core.errors import GlideError


class Source:
    RETURN_TYPES = ("IMAGE", "MASK")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "seed": ("INT", {"default": 0, "min": 0, "max": 100}),
                "mode": (["soft", "hard"], {"default": "soft"}),
                "amount": ("FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0}),
            },
            "optional": {
                "late": ("BOOLEAN", {"default": True}),
                "text": ("STRING", {"forceInput": True}),
            },
        }


class Filter:
    RETURN_TYPES = ("MASK", "IMAGE")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"mask": ("MASK",), "image": ("IMAGE",)}}


class Save:
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "name": ("STRING", {"default": "x"})}}


SCHEMAS: dict[str, NodeSchema] = {
    c.__name__: from_class(c.__name__, c) for c in (Source, Filter, Save)
}


def node(key: int, kind: str, inputs: Any = (), outputs: Any = (), **more: Any) -> dict[str, Any]:
    """inputs: (name, type, link); outputs: types."""
    return {
        "id": key,
        "type": kind,
        "inputs": [{"name": n, "type": t, "link": link} for n, t, link in inputs],
        "outputs": [{"name": t, "type": t} for t in outputs],
        **more,
    }


def ui(nodes: list[dict[str, Any]], links: list[Any], **more: Any) -> dict[str, Any]:
    return {"nodes": nodes, "links": links, "version": 0.4, **more}


def source(key: int = 1, **more: Any) -> dict[str, Any]:
    given = {"widgets_values": [7, "fixed", "hard", 0.25, False], **more}
    return node(key, "Source", outputs=("IMAGE", "MASK"), **given)


def save(key: int, link: int | None, **more: Any) -> dict[str, Any]:
    return node(key, "Save", [("image", "IMAGE", link)], **{"widgets_values": ["out"], **more})


def test_a_seeds_control_widget_is_skipped_and_forced_inputs_have_no_value() -> None:
    graph = workflow.read(ui([source()], []), SCHEMAS)
    assert graph.nodes["1"].inputs == {"seed": 7, "mode": "hard", "amount": 0.25, "late": False}


def test_a_file_from_before_a_widget_was_added_gets_its_default() -> None:
    data = ui([source(widgets_values=[7, "fixed", "hard"]), save(2, 1)], [[1, 1, 0, 2, 0, "IMAGE"]])
    graph, _ = check(workflow.read(data, SCHEMAS), SCHEMAS)
    assert graph.nodes["1"].inputs["amount"] == 0.5


def test_widget_values_may_be_named() -> None:
    graph = workflow.read(ui([source(widgets_values={"mode": "hard", "seed": 3})], []), SCHEMAS)
    assert graph.nodes["1"].inputs == {"seed": 3, "mode": "hard"}


def test_links_of_both_versions_are_read() -> None:
    for link in (
        [1, 1, 0, 2, 0, "IMAGE"],
        {"id": 1, "origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 0},
    ):
        graph = workflow.read(ui([source(), save(2, 1)], [link]), SCHEMAS)
        assert graph.nodes["2"].inputs == {"name": "out", "image": Link("1", 0)}


def test_a_converted_widget_takes_its_value_from_its_link() -> None:
    primitive = node(5, "PrimitiveNode", outputs=("INT",), widgets_values=[42, "randomize"])
    target = source()
    target["inputs"] = [{"name": "seed", "type": "INT", "link": 9, "widget": {"name": "seed"}}]
    graph = workflow.read(ui([primitive, target], [[9, 5, 0, 1, 0, "INT"]]), SCHEMAS)
    assert graph.nodes["1"].inputs["seed"] == 42
    assert "5" not in graph.nodes


def test_reroutes_and_notes_disappear() -> None:
    nodes = [
        source(),
        node(2, "Reroute", [("", "*", 1)], ("IMAGE",)),
        node(3, "Reroute", [("", "*", 2)], ("IMAGE",)),
        save(4, 3),
        node(5, "Note", widgets_values=["hello"]),
        node(6, "MarkdownNote", widgets_values=["hello"]),
    ]
    links = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"], [3, 3, 0, 4, 0, "IMAGE"]]
    graph = workflow.read(ui(nodes, links), SCHEMAS)
    assert set(graph.nodes) == {"1", "4"}
    assert graph.nodes["4"].inputs["image"] == Link("1", 0)


def bypassing(mode: int) -> dict[str, Any]:
    """A Filter (IMAGE in slot 1, out of slot 1) between source and save, in this mode."""
    between = node(
        2, "Filter", [("mask", "MASK", 1), ("image", "IMAGE", 2)], ("MASK", "IMAGE"), mode=mode
    )
    links = [[1, 1, 1, 2, 0, "MASK"], [2, 1, 0, 2, 1, "IMAGE"], [3, 2, 1, 3, 0, "IMAGE"]]
    return ui([source(), between, save(3, 3)], links)


def test_a_bypassed_node_passes_its_input_of_the_same_type_on() -> None:
    graph = workflow.read(bypassing(4), SCHEMAS)
    assert set(graph.nodes) == {"1", "3"}
    assert graph.nodes["3"].inputs["image"] == Link("1", 0)


def test_a_muted_node_is_left_out_and_the_error_says_which() -> None:
    graph = workflow.read(bypassing(2), SCHEMAS)
    assert set(graph.nodes) == {"1", "3"}
    with pytest.raises(GlideError, match=r"node 3 \(Save\), input 'image'.*node 2 .*muted"):
        check(graph, SCHEMAS)


def test_a_muted_output_node_does_not_run() -> None:
    data = ui(
        [source(), save(2, 1), save(3, 2, mode=2)],
        [[1, 1, 0, 2, 0, "IMAGE"], [2, 1, 0, 3, 0, "IMAGE"]],
    )
    _, wanted = check(workflow.read(data, SCHEMAS), SCHEMAS)
    assert wanted == ["2"]


def test_a_subgraph_is_unfolded() -> None:
    inner = {
        "id": "f00d",
        "name": "Twice filtered",
        "nodes": [
            node(1, "Filter", [("mask", "MASK", 1), ("image", "IMAGE", 2)], ("MASK", "IMAGE")),
        ],
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 1, "target_slot": 0},
            {"id": 2, "origin_id": -10, "origin_slot": 1, "target_id": 1, "target_slot": 1},
            {"id": 3, "origin_id": 1, "origin_slot": 1, "target_id": -20, "target_slot": 0},
        ],
    }
    outer = node(8, "f00d", [("mask", "MASK", 1), ("image", "IMAGE", 2)], ("IMAGE",))
    links = [[1, 1, 1, 8, 0, "MASK"], [2, 1, 0, 8, 1, "IMAGE"], [3, 8, 0, 3, 0, "IMAGE"]]
    data = ui([source(), outer, save(3, 3)], links, definitions={"subgraphs": [inner]})
    graph, _ = check(workflow.read(data, SCHEMAS), SCHEMAS)
    assert set(graph.nodes) == {"1", "8:1", "3"}
    assert graph.nodes["3"].inputs["image"] == Link("8:1", 1)
    assert graph.nodes["8:1"].inputs == {"mask": Link("1", 1), "image": Link("1", 0)}
    outer["mode"] = 4  # bypassed as a whole
    assert workflow.read(data, SCHEMAS).nodes["3"].inputs["image"] == Link("1", 0)


def test_a_widget_on_a_subgraphs_node_decides_over_the_one_inside() -> None:
    """Newer frontends save it there alone; where nothing stands there, the inner one holds."""
    slot = {"name": "seed", "type": "INT", "widget": {"name": "seed"}, "link": 1}
    inner = {
        "id": "f00d",
        "name": "Seeded",
        "nodes": [{**source(), "inputs": [slot]}],
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 1, "target_slot": 0},
            {"id": 2, "origin_id": 1, "origin_slot": 0, "target_id": -20, "target_slot": 0},
        ],
    }
    outer = node(8, "f00d", [("seed", "INT", None)], ("IMAGE",))
    outer["inputs"][0]["widget"] = {"name": "seed"}
    data = ui([outer, save(3, 3)], [[3, 8, 0, 3, 0, "IMAGE"]], definitions={"subgraphs": [inner]})
    alone = workflow.read(data, SCHEMAS).nodes["8:1"].inputs["seed"]
    for values, seed in (([41], 41), ([None], alone), ([], alone)):
        outer["widgets_values"] = values
        assert workflow.read(data, SCHEMAS).nodes["8:1"].inputs["seed"] == seed


API = {
    "1": {"class_type": "Source", "inputs": {"seed": 1, "mode": "soft", "amount": 1}},
    "2": {"class_type": "Save", "inputs": {"image": ["1", 0]}, "_meta": {"title": "Keep"}},
}


def test_the_api_format_comes_back_as_it_was_with_defaults_filled_in() -> None:
    graph, _ = check(workflow.read({"prompt": API}, SCHEMAS), SCHEMAS)
    written = graph.to_api()
    assert written["1"]["inputs"] == {"seed": 1, "mode": "soft", "amount": 1.0, "late": True}
    assert written["2"]["inputs"] == {"image": ["1", 0], "name": "x"}
    assert written["2"]["_meta"] == {"title": "Keep"}


def test_the_schema_of_a_server_reads_like_that_of_a_class() -> None:
    info = {
        "Source": {
            "input": Source.INPUT_TYPES(),
            "output": ["IMAGE", "MASK"],
            "display_name": "Source",
        },
        "New": {"input": {"required": {"mode": ["COMBO", {"options": ["a"]}]}}, "output": []},
    }
    found = from_object_info(info)
    assert found["Source"].widgets == SCHEMAS["Source"].widgets
    assert found["New"].inputs[0].choices == ("a",)


def changed(key: str, **inputs: Any) -> dict[str, Any]:
    entry = {**API[key], "inputs": {**API[key]["inputs"], **inputs}}  # type: ignore[dict-item]
    return {
        **API,
        key: {**entry, "inputs": {k: v for k, v in entry["inputs"].items() if v is not ...}},
    }


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (changed("2", image=...), r"node 2 \(Keep\), input 'image': required, but not connected"),
        (changed("2", image=["1", 1]), r"'image': node 1 .* gives MASK there. Expected IMAGE"),
        (changed("2", image=["1", 5]), r"output 5 of node 1 \(Source\), which has 2"),
        (changed("2", image=["9", 0]), "node 9, which is not in the workflow"),
        (changed("2", image="photo.png"), "'photo.png' is not a connection"),
        (changed("1", seed=101), "input 'seed': 101 is too large. Expected 100 or less"),
        (changed("1", seed=-1), "too small. Expected 0 or more"),
        (changed("1", seed="many"), "'many' is not a INT"),
        (changed("1", amount=float("nan")), "nan is not a FLOAT"),
        (changed("1", mode="firm"), "'firm' is not a choice. Expected one of: 'soft', 'hard'"),
        ({**API, "7": {"class_type": "KSampler"}}, "node 7 .* is of type KSampler.*--server"),
        ({"1": API["1"]}, "has no output node"),
        ({**API, "3": {"inputs": {}}}, "node 3 is not a node"),
        ({**API, "3": {"class_type": "Save", "inputs": [1]}}, r"node 3 \(Save\): its inputs are"),
    ],
)
def test_what_is_wrong_is_named_with_its_node_and_input(data: Any, words: str) -> None:
    with pytest.raises(GlideError, match=words):
        check(workflow.read(data, SCHEMAS), SCHEMAS)


def test_all_problems_are_listed_at_once() -> None:
    data = {**changed("1", seed=101, mode="firm")}
    with pytest.raises(GlideError, match=r"(?s)'seed'.*'mode'"):
        check(workflow.read(data, SCHEMAS), SCHEMAS)


def test_a_cycle_is_named() -> None:
    data = {
        "1": {"class_type": "Filter", "inputs": {"mask": ["2", 0], "image": ["2", 1]}},
        "2": {"class_type": "Filter", "inputs": {"mask": ["1", 0], "image": ["1", 1]}},
        "3": {"class_type": "Save", "inputs": {"image": ["1", 1]}},
    }
    with pytest.raises(GlideError, match="has a cycle of 2 nodes: node"):
        check(workflow.read(data, SCHEMAS), SCHEMAS)


@pytest.mark.parametrize("data", [[], {}, 3, {"nodes": 3}, {"a": {"b": 1}}, None])
def test_json_that_is_not_a_workflow_is_refused(data: Any) -> None:
    with pytest.raises(GlideError, match="not a ComfyUI workflow"):
        workflow.read(data, SCHEMAS)


@pytest.mark.parametrize(
    ("nodes", "links", "words"),
    [
        ([3], [], "entry 0 of the workflow's nodes"),
        ([{"id": 1}], [], "entry 0"),
        ([source(key=[1])], [], "entry 0"),
        ([source()], [[1, 1]], "is not a link"),
        ([source()], [[1, [], 0, 2, 0, "IMAGE"]], "is not a link"),
        ([source()], [[1, 1, float("nan"), 2, 0, "IMAGE"]], "is not a link"),
        ([source(widgets_values=3)], [], r"node 1 \(Source\): widgets_values is a int"),
    ],
)
def test_a_broken_ui_file_says_where(nodes: Any, links: Any, words: str) -> None:
    with pytest.raises(GlideError, match=words):
        workflow.read(ui(nodes, links), SCHEMAS)


@pytest.mark.parametrize("junk", [True, 3, "x", [3], {"a": 1}, {"subgraphs": 3}])
def test_invalid_values_beside_the_nodes_raise_an_error_or_are_ignored(junk: Any) -> None:
    data = ui([source(), save(2, 1)], [[1, 1, 0, 2, 0, "IMAGE"]])
    check(workflow.read({**data, "definitions": junk}, SCHEMAS), SCHEMAS)
    for broken in (
        {**data, "links": junk},
        {**data, "nodes": [source(), {**save(2, 1), "inputs": junk}]},
        {**data, "nodes": [source(), save(2, junk)]},
    ):
        with pytest.raises(GlideError):
            check(workflow.read(broken, SCHEMAS), SCHEMAS)


def test_a_choice_of_another_type_is_refused_even_where_the_node_checks() -> None:
    schemas = {
        **SCHEMAS,
        "Source": replace(
            SCHEMAS["Source"], validate=lambda mode: mode.islower(), validated=frozenset({"mode"})
        ),
    }
    data = ui([source(widgets_values=[7, "fixed", [3]]), save(2, 1)], [[1, 1, 0, 2, 0, "IMAGE"]])
    with pytest.raises(GlideError, match=r"node 1 \(Source\), input 'mode': \[3\] is not a choice"):
        check(workflow.read(data, schemas), schemas)


def test_a_widget_is_set_by_id_title_or_class() -> None:
    for name in ("2", "keep", "Save"):
        graph = workflow.set_widgets(workflow.read(API, SCHEMAS), [f"{name}.name=a=b"], SCHEMAS)
        assert graph.nodes["2"].inputs["name"] == "a=b"
    graph = workflow.set_widgets(workflow.read(API, SCHEMAS), ["Source.seed=5"], SCHEMAS)
    assert check(graph, SCHEMAS)[0].nodes["1"].inputs["seed"] == 5


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("seed=5", "node.input=value"),
        ("Source.seed", "node.input=value"),
        ("Nope.seed=5", "no node is called Nope. Expected one of: 1, 'Source'"),
        ("Source.sead=5", "no widget 'sead'. Expected one of: seed, mode"),
        ("Save.image=5", "no widget 'image'"),
    ],
)
def test_an_invalid_setting_is_refused_with_the_valid_ones(setting: str, words: str) -> None:
    with pytest.raises(GlideError, match=words):
        workflow.set_widgets(workflow.read(API, SCHEMAS), [setting], SCHEMAS)
