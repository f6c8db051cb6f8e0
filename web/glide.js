/**
 * GLIDE in ComfyUI's interface: a live chart on guidance and sampler nodes, a before/after slider
 * on the nodes that change an image, the scores on GLIDE CLIP Score, and presets that show what
 * they set. The views are DOM widgets that appear with their first data and are never saved; they
 * come back after a reload of the page, from the browser tab's own storage and from the history.
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { Chart } from "./lib/chart.mjs";
import { findNode, rootOf } from "./lib/nodes.mjs";
import { Panels, removePreview } from "./lib/panel.mjs";
import { followPreset } from "./lib/presets.mjs";
import { Scores } from "./lib/scores.mjs";
import { LiveStore, readLines, readPairs } from "./lib/series.mjs";
import { Slider } from "./lib/slider.mjs";

const VIEWS = {
  GlideClipGuidance: Chart,
  GlideSampler: Chart,
  GlideUpsample: Slider,
  GlideInpaint: Slider,
  GlideEdit: Slider,
  GlideClipScore: Scores,
};
const STORED = "glide.liveViews"; // key in the tab's session storage
const HISTORY = 20; // runs looked at after a reload
const LATE = [0, 300, 1500]; // milliseconds after a result

const store = new LiveStore();
const panels = new Panels(() => app.canvas?.canvas);
let saving = null;

/** Show what is known of one node of the open workflow, if it is there and has a view. */
function show(id) {
  const root = rootOf(app);
  const node = findNode(root, id);
  const known = node && store.get(root.id, id, node.comfyClass);
  if (known) panels.of(node, VIEWS[node.comfyClass]).show(known);
}

/** Keep new data of a node, and show it. */
function keep(id, view, update) {
  const root = rootOf(app);
  const node = findNode(root, id);
  if (!node || VIEWS[node.comfyClass] !== view) return;
  store.update(root.id, id, node.comfyClass, update);
  show(id);
  saving ??= setTimeout(save, 500);
}

function save() {
  saving = null;
  try {
    sessionStorage.setItem(STORED, store.save());
  } catch {
    // full or forbidden: the views then end with the page
  }
}

/**
 * The view shows the result: remove the blurred preview of the last step, in both renderers. One
 * that the browser is still decoding appears after the result, hence several times.
 */
function dropPreview(id) {
  for (const delay of LATE) {
    setTimeout(() => {
      const root = rootOf(app);
      const node = findNode(root, id);
      if (!node) return;
      const key = node.graph === root ? String(node.id) : `${node.graph.id}:${node.id}`;
      if (app.nodePreviewImages) delete app.nodePreviewImages[key];
      removePreview(node);
    }, delay);
  }
}

function keepOutput(id, output) {
  const pairs = readPairs(output, address);
  if (pairs.length) {
    dropPreview(id);
    keep(id, Slider, () => pairs);
  }
  const lines = readLines(output);
  if (lines.length) {
    dropPreview(id);
    keep(id, Scores, () => lines);
  }
}

/** Take the latest output of every node of the open workflow from the history. */
async function restoreFromHistory() {
  const root = rootOf(app);
  const missing = new Set(
    (root?.nodes ?? [])
      .filter((node) => [Slider, Scores].includes(VIEWS[node.comfyClass]))
      .map((node) => String(node.id))
      .filter((id) => !store.ids(root.id).includes(id)),
  );
  if (!missing.size) return;
  const answer = await api.fetchApi(`/history?max_items=${HISTORY}`);
  if (!answer.ok) return;
  for (const run of Object.values(await answer.json()).reverse()) {
    if (run?.prompt?.[3]?.extra_pnginfo?.workflow?.id !== root.id) continue;
    for (const [id, output] of Object.entries(run.outputs ?? {})) {
      if (missing.delete(id)) keepOutput(id, output);
    }
  }
}

function address({ filename, subfolder = "", type = "temp" }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

app.registerExtension({
  name: "glide.liveViews",

  init() {
    try {
      store.load(sessionStorage.getItem(STORED));
    } catch {
      // forbidden: nothing to show yet
    }
  },

  setup() {
    api.addEventListener("glide.step", ({ detail }) => {
      keep(detail.node, Chart, (series) => LiveStore.withStep(series, detail));
    });
    api.addEventListener("executed", ({ detail }) => {
      keepOutput(detail?.display_node ?? detail?.node, detail?.output);
    });
  },

  nodeCreated(node) {
    const inputs = node.constructor.nodeData?.input;
    const options = inputs?.required?.preset?.[1];
    if (node.comfyClass === "GlideSampler") followPreset(node, options?.glide_presets);
  },

  /** Undo and a change of tabs build the nodes again: give them back what they showed. */
  afterConfigureGraph() {
    for (const id of store.ids(rootOf(app)?.id)) show(id);
    restoreFromHistory().catch(() => {}); // no history, no views
  },
});
