"""The CLIP-guided example in ComfyUI's interface: a page, and the actions of a user."""

from __future__ import annotations

import json
from typing import Any

from tools.comfyui import REPOSITORY
from tools.comfyui.browser import PATIENCE

STEPS, FEWER, UPSAMPLE_STEPS, IMAGE_COUNT = 6, 4, 2, 2
GUIDANCE, SAMPLER, UPSAMPLER, LATENT = 7, 6, 9, 5  # node ids of the example
RUN = """async () => {
    const ends = ["execution_success", "execution_error", "execution_interrupted"];
    const end = new Promise((found) => {
        for (const kind of ends) {
            app.api.addEventListener(kind, (event) => found([kind, event.detail]), { once: true });
        }
    });
    await app.queuePrompt(0);
    return await end;
}"""
# Vue nodes are measured one after the other, on a busy machine with pauses in between.
SETTLED = """async () => {
    let last = "", since = performance.now();
    for (let same = 0; same < 30 || performance.now() - since < 3000; same += 1) {
        await new Promise((next) => requestAnimationFrame(next));
        const now = JSON.stringify(app.graph.serialize());
        if (now !== last) {
            [last, since, same] = [now, performance.now(), 0];
        }
    }
    return last;
}"""
VIEW = """([id, script]) => {
    const node = app.graph.getNodeById(id);
    const view = node?.widgets.find((widget) => widget.name === "glide_view");
    return Function("node", "root", "view", `return ${script}`)(
        node, view?.element.shadowRoot, view);
}"""


def workflow(**changes: Any) -> dict[str, Any]:
    """The CLIP-guided example, with cfg 3, fewer steps, two images, and widgets changed."""
    found = json.loads(
        (REPOSITORY / "example_workflows" / "glide_clip_guided.json").read_text("utf-8")
    )
    nodes = {node["id"]: node for node in found["nodes"]}
    nodes[SAMPLER]["widgets_values"][3] = changes.get("steps", STEPS)
    nodes[SAMPLER]["widgets_values"][4] = 3.0  # classifier-free guidance, for its line in the chart
    nodes[SAMPLER]["widgets_values"][1] = changes.get("seed", 1)
    nodes[UPSAMPLER]["widgets_values"][2] = UPSAMPLE_STEPS
    nodes[LATENT]["widgets_values"][2] = IMAGE_COUNT
    return found


class Interface:
    """A page of the interface and the actions of a user."""

    def __init__(self, page: Any, vue: bool = False) -> None:
        self.page, self.vue = page, vue
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(error.stack or str(error)))

    def load(self, graph: dict[str, Any]) -> None:
        """Load a workflow and show all of it: a node that is drawn first gets its final size."""
        self.page.evaluate(
            """async (graph) => {
                await app.loadGraphData(graph);
                app.canvas.ds.scale = 0.4;
                app.canvas.ds.offset[0] = 500;
                app.canvas.ds.offset[1] = 400;
                app.canvas.setDirty(true, true);
            }""",
            graph,
        )

    def run(self) -> None:
        kind, detail = self.page.evaluate(RUN)
        assert kind == "execution_success", detail

    def serialize(self) -> dict[str, Any]:
        """The workflow as saved, once drawing it changes its nodes' sizes no more."""
        return json.loads(self.page.evaluate(SETTLED))

    def ask(self, node: int, script: str) -> Any:
        """Evaluate with `node`, its view's shadow `root` and the `view` widget."""
        return self.page.evaluate(VIEW, [node, script])

    def until(self, node: int, script: str, value: Any) -> None:
        """Wait until `ask` gives a value."""
        same = f"([asked, value]) => JSON.stringify(({VIEW})(asked)) === JSON.stringify(value)"
        self.page.wait_for_function(same, arg=[[node, script], value], timeout=PATIENCE)

    def bring(self, node: int) -> None:
        """Have a node in the upper left of the window, at its natural size."""
        self.page.evaluate(
            """(id) => {
                const { ds } = app.canvas, { pos } = app.graph.getNodeById(id);
                ds.scale = 1;
                ds.offset[0] = 200 - pos[0];
                ds.offset[1] = 150 - pos[1];
                app.canvas.setDirty(true, true);
            }""",
            node,
        )

    def box(self, node: int, selector: str) -> dict[str, float]:
        """Where a part of a node's view is on the screen, once it no longer moves."""
        script = f"root?.querySelector({selector!r})?.getBoundingClientRect().toJSON()"
        last: Any = None
        for _ in range(200):
            found = self.ask(node, script)
            if found and found == last and found["width"] > 0:
                return found
            last = found
            self.page.evaluate("() => new Promise((next) => requestAnimationFrame(next))")
        raise AssertionError(f"{selector} of node {node} is not on the screen: {last}")

    def check(self) -> None:
        """No error of the page came from our scripts."""
        ours = [error for error in self.errors if "/extensions/glide" in error]
        assert not ours, ours
