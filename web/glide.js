/**
 * GLIDE in ComfyUI's interface: a live chart on guidance and sampler nodes, and a before/after
 * slider on the nodes that change a picture. Both are DOM widgets that appear with their first
 * data and are never saved; ./lib holds what they are made of.
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { Chart } from "./lib/chart.mjs";
import { findNode, rootOf } from "./lib/nodes.mjs";
import { Panels } from "./lib/panel.mjs";
import { LiveStore, readPairs } from "./lib/series.mjs";
import { Slider } from "./lib/slider.mjs";

const CHARTED = ["GlideClipGuidance", "GlideSampler"];
const COMPARED = ["GlideUpsample", "GlideInpaint", "GlideEdit"];

const store = new LiveStore();
const panels = new Panels(() => app.canvas?.canvas);

/** Show what is known of one node of the open workflow, if it is there and of a kind we know. */
function show(id) {
  const root = rootOf(app);
  const node = findNode(root, id);
  const known = node && store.get(root.id, id, node.comfyClass);
  if (!known) return;
  const View = CHARTED.includes(node.comfyClass) ? Chart : Slider;
  panels.of(node, View).show(known);
}

/** Keep news of a node, and show them. */
function keep(id, kinds, update) {
  const root = rootOf(app);
  const node = findNode(root, id);
  if (!node || !kinds.includes(node.comfyClass)) return;
  store.update(root.id, id, node.comfyClass, update);
  show(id);
}

function address({ filename, subfolder = "", type = "temp" }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

app.registerExtension({
  name: "glide.liveViews",

  setup() {
    api.addEventListener("glide.step", ({ detail }) => {
      keep(detail.node, CHARTED, (series) => LiveStore.withStep(series, detail));
    });
    api.addEventListener("executed", ({ detail }) => {
      const pairs = readPairs(detail?.output, address);
      if (pairs.length) keep(detail.display_node ?? detail.node, COMPARED, () => pairs);
    });
  },

  /** Undo and a change of tabs build the nodes anew: give them back what they showed. */
  afterConfigureGraph() {
    for (const id of store.ids(rootOf(app)?.id)) show(id);
  },
});
