"""The live chart and the slider in ComfyUI's real interface, in both of its renderers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from comfyui.interface import (
    FEWER,
    GUIDANCE,
    IMAGE_COUNT,
    SAMPLER,
    STEPS,
    UPSAMPLER,
    Interface,
    workflow,
)

from tools.comfyui.browser import PATIENCE, READY

VUE = "Comfy.VueNodes.Enabled"  # the setting of the new renderer
# Does this version of the interface show the DOM widgets of packs in its Vue nodes at all?
SHOWS_DOM_WIDGETS = """async () => {
    const element = document.createElement("div");
    const node = app.graph.nodes[0];
    const widget = node.addDOMWidget("probe", "PROBE", element, { serialize: false });
    widget.serialize = false;
    for (let i = 0; i < 60 && !element.isConnected; i += 1) {
        await new Promise((next) => requestAnimationFrame(next));
    }
    const shown = element.isConnected;
    node.removeWidget(widget);
    return shown;
}"""


@pytest.fixture(scope="module", params=["canvas", "vue"])
def interface(request: Any, editor: Any, server: Any) -> Iterator[Interface]:
    """The example after its run."""
    vue = request.param == "vue"
    with editor(server.url, size=(1500, 1000), settings={VUE: vue}) as page:
        found = Interface(page, vue)
        page.request.post(f"{server.url}/history", data={"clear": True})  # of the other renderer
        try:
            found.load(workflow())
            if vue and not page.evaluate(SHOWS_DOM_WIDGETS):
                version = page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__")
                pytest.skip(f"interface {version} shows no pack's DOM widgets in its Vue renderer")
            found.load(workflow())
            for node in (GUIDANCE, SAMPLER, UPSAMPLER):
                assert found.ask(node, "view === undefined")  # nothing to show yet
            found.run()
            yield found
        finally:
            page.request.post(f"{server.url}/settings", data={VUE: False})
        found.check()


POINTS = "[...root.querySelectorAll('.line')].map((line) => Number(line.dataset.points))"


def test_the_charts_have_a_point_a_step(interface: Interface) -> None:
    interface.bring(GUIDANCE)
    interface.until(GUIDANCE, POINTS, [STEPS, STEPS])
    interface.bring(SAMPLER)
    interface.until(SAMPLER, POINTS, [STEPS, STEPS, STEPS])
    legend = interface.ask(SAMPLER, "root.querySelector('.legend').textContent")
    assert all(word in legend for word in ("similarity", "CFG", "CLIP"))
    axis = interface.ask(SAMPLER, "root.querySelector('.axis').textContent")
    assert f"step {STEPS} of {STEPS}" in axis


def test_pointing_at_the_chart_reads_a_step(interface: Interface) -> None:
    interface.bring(SAMPLER)
    box = interface.box(SAMPLER, ".plot")
    interface.page.mouse.move(box["x"] + 45, box["y"] + box["height"] / 2)
    axis = "root.querySelector('.axis').firstChild.textContent"
    interface.until(SAMPLER, axis, f"step 1 of {STEPS}")
    interface.page.mouse.move(5, 5)
    interface.until(SAMPLER, axis, f"step {STEPS} of {STEPS}")


@pytest.mark.parametrize("node", [GUIDANCE, SAMPLER, UPSAMPLER])
def test_a_view_lies_within_its_node_and_nothing_is_cut_off(
    interface: Interface, node: int
) -> None:
    interface.bring(node)
    box = interface.box(node, ".glide-panel")
    left, top, width, height = interface.ask(node, "[...node.pos, ...node.size]")
    corner = interface.page.evaluate(
        "([x, y]) => [...app.canvas.ds.convertOffsetToCanvas([x, y])]", [left, top]
    )
    origin = interface.page.evaluate(
        "() => { const r = app.canvas.canvas.getBoundingClientRect(); return [r.x, r.y] }"
    )
    x, y = corner[0] + origin[0], corner[1] + origin[1]
    assert x <= box["x"] and box["x"] + box["width"] <= x + width + 1
    assert y <= box["y"] and box["y"] + box["height"] <= y + height + 1
    assert box["width"] > 0.85 * width  # it follows the node's width
    inside = "root.querySelector('.glide-panel')"
    assert interface.ask(node, f"{inside}.scrollHeight <= {inside}.clientHeight")
    assert interface.ask(node, f"{inside}.scrollWidth <= {inside}.clientWidth")


NOW = "Number(root.querySelector('[role=slider]').getAttribute('aria-valuenow'))"
COUNT = "root.querySelector('.pager span').textContent"


def test_the_slider_follows_the_mouse_and_the_keys(interface: Interface) -> None:
    interface.bring(UPSAMPLER)
    interface.until(UPSAMPLER, "view?.element.dataset.pairs", str(IMAGE_COUNT))
    page, box = interface.page, interface.box(UPSAMPLER, ".frame")
    before = interface.ask(UPSAMPLER, "[...node.pos]")
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, middle, steps=5)
    page.mouse.up()
    assert interface.ask(UPSAMPLER, NOW) == pytest.approx(25, abs=1)
    page.mouse.move(box["x"] + box["width"] * 0.9, middle)  # released: it stays
    assert interface.ask(UPSAMPLER, NOW) == pytest.approx(25, abs=1)
    assert interface.ask(UPSAMPLER, "[...node.pos]") == before  # the node was not dragged
    for key, now in (
        ("Home", 0),
        ("ArrowRight", 5),
        ("PageUp", 25),
        ("End", 100),
        ("ArrowLeft", 95),
    ):
        page.keyboard.press(key)
        assert interface.ask(UPSAMPLER, NOW) == now
    shown = "getComputedStyle(root.querySelector('.after')).clipPath"
    assert interface.ask(UPSAMPLER, shown) == "inset(0px 0px 0px 95%)"


def test_the_preview_of_the_last_step_makes_way_for_the_slider(interface: Interface) -> None:
    interface.bring(UPSAMPLER)
    interface.until(UPSAMPLER, "view?.element.dataset.pairs", str(IMAGE_COUNT))
    names = "node.widgets.map((widget) => widget.name).filter((name) => name.startsWith('$$'))"
    interface.until(UPSAMPLER, names, [])
    interface.until(UPSAMPLER, "Boolean(node.imgs?.length)", False)
    shown = interface.page.evaluate("(id) => app.nodePreviewImages?.[id] ?? null", UPSAMPLER)
    assert shown is None


def test_the_slider_pages_through_the_batch(interface: Interface) -> None:
    interface.bring(UPSAMPLER)
    first = interface.ask(UPSAMPLER, "root.querySelector('.after').src")
    box = interface.box(UPSAMPLER, ".pager button:last-child")
    interface.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    interface.until(UPSAMPLER, COUNT, "2 / 2")
    assert interface.ask(UPSAMPLER, "root.querySelector('.after').src") != first
    interface.until(UPSAMPLER, "root.querySelector('.chip').textContent", "before 64 \u00d7 64")
    small = "getComputedStyle(root.querySelector('.before')).imageRendering"
    assert interface.ask(UPSAMPLER, small) == "pixelated"


def test_the_wheel_over_a_view_zooms_the_canvas(interface: Interface) -> None:
    interface.bring(GUIDANCE)
    box = interface.box(GUIDANCE, ".plot")
    interface.page.mouse.move(box["x"] + 20, box["y"] + 20)
    interface.page.mouse.wheel(0, -200)
    interface.page.wait_for_function("() => app.canvas.ds.scale > 1")


def placed(nodes: list[dict[str, Any]], vue: bool) -> list[dict[str, Any]]:
    """Nodes to compare between two loads. In ComfyUI 0.16 and 0.24 the Vue renderer moves them by
    fractions of a pixel and gives some another height, our script or not."""
    if not vue:
        return nodes
    return [
        {**node, "pos": [round(n, 1) for n in node["pos"]], "size": node["size"][0]}
        for node in nodes
    ]


def test_a_workflow_is_saved_and_loaded_as_if_nothing_were_shown(interface: Interface) -> None:
    saved = interface.serialize()
    asked = {node["id"]: node for node in workflow()["nodes"]}
    for node in saved["nodes"]:
        if "widgets_values" in asked[node["id"]]:
            assert node["widgets_values"] == asked[node["id"]]["widgets_values"]
    interface.load(saved)
    again = interface.serialize()["nodes"]
    assert placed(again, interface.vue) == placed(saved["nodes"], interface.vue)
    interface.bring(GUIDANCE)
    interface.until(GUIDANCE, POINTS, [STEPS, STEPS])  # and what was known is shown again


def test_a_second_run_replaces_the_first(interface: Interface) -> None:
    interface.load(workflow(steps=FEWER, seed=2))
    interface.run()
    interface.bring(GUIDANCE)
    interface.until(GUIDANCE, POINTS, [FEWER, FEWER])


def test_removing_a_node_removes_its_view(interface: Interface) -> None:
    page = interface.page
    interface.bring(GUIDANCE)
    interface.box(GUIDANCE, ".plot")
    views = "() => document.querySelectorAll('.glide-chart-view').length"
    count = page.evaluate(views)
    page.evaluate("(id) => app.graph.remove(app.graph.getNodeById(id))", GUIDANCE)
    page.wait_for_function(f"({views})() < {count}")


def test_a_node_inside_a_subgraph_is_found(interface: Interface) -> None:
    step = {"run": "inner", "step": 0, "total": 3, "sigma": 1.0, "similarity": 0.5}
    interface.load(workflow())
    points = interface.page.evaluate(
        """([step, guidance]) => {
            const inside = app.graph.getNodeById(guidance);
            const { subgraph, node } = app.graph.convertToSubgraph(new Set([inside]));
            const [inner] = subgraph.nodes;
            const id = `${node.id}:${inner.id}`;
            app.api.dispatchCustomEvent("glide.step", { ...step, node: id });
            return new Promise((found) => requestAnimationFrame(() => {
                const view = inner.widgets.find((widget) => widget.name === "glide_view");
                found(view?.element.dataset.steps);
            }));
        }""",
        [step, GUIDANCE],
    )
    assert points == "1"


def test_the_extension_changes_no_saved_workflow_and_no_prompt(
    interface: Interface, server: Any
) -> None:
    """With views shown, against the interface without our script."""
    step = {"run": "other", "step": 0, "total": 2, "sigma": 1.0, "similarity": 0.5}
    step |= {"clip_strength": 0.1, "cfg_strength": 0.2}
    context = interface.page.context.browser.new_context(viewport={"width": 1500, "height": 1000})
    found = []
    for extension in (False, True):
        plain = Interface(context.new_page())
        plain.page.set_default_timeout(PATIENCE)
        plain.page.route(lambda url: not url.startswith(server.url), lambda route: route.abort())
        if not extension:
            plain.page.route("**/glide.js", lambda route: route.abort())
        plain.page.goto(server.url)
        plain.page.wait_for_function(READY)
        plain.page.wait_for_load_state("networkidle")  # extensions are set up last
        plain.load(workflow())
        for node in (GUIDANCE, SAMPLER):
            plain.page.evaluate(
                "(detail) => app.api.dispatchCustomEvent('glide.step', detail)",
                {**step, "node": str(node)},
            )
        prompt = plain.page.evaluate("async () => (await app.graphToPrompt()).output")
        saved = plain.serialize()
        assert plain.ask(GUIDANCE, "view !== undefined") == extension
        assert plain.ask(SAMPLER, "view !== undefined") == extension
        found.append((placed(saved["nodes"], interface.vue), saved["links"], prompt))
    context.close()
    assert found[0] == found[1]


def test_views_come_back_after_a_reload(interface: Interface) -> None:
    interface.load(workflow(seed=5))
    interface.run()
    interface.bring(UPSAMPLER)
    interface.until(UPSAMPLER, "view?.element.dataset.pairs", str(IMAGE_COUNT))
    interface.page.wait_for_timeout(1500)  # written to the tab's storage, the draft saved
    interface.page.reload()
    interface.page.wait_for_function(READY)
    interface.page.wait_for_load_state("networkidle")
    if not interface.page.evaluate("(id) => Boolean(app.graph.getNodeById(id))", GUIDANCE):
        interface.load(workflow(seed=5))
    interface.bring(GUIDANCE)
    interface.until(GUIDANCE, POINTS, [STEPS, STEPS])
    interface.bring(UPSAMPLER)
    interface.until(UPSAMPLER, "view?.element.dataset.pairs", str(IMAGE_COUNT))


def test_a_preset_fills_the_widgets_and_an_edit_makes_it_custom(interface: Interface) -> None:
    interface.load(workflow())
    values = interface.page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            const widget = (name) => node.widgets.find((found) => found.name === name);
            const change = (name, value) => {
                widget(name).value = value;
                widget(name).callback?.(value);
            };
            change("preset", "fast");
            const filled = [widget("steps").value, widget("sampler_name").value];
            change("steps", 11);
            return [...filled, widget("preset").value];
        }""",
        SAMPLER,
    )
    assert values == [8, "ddim", "custom"]
