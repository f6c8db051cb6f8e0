/** What the browser received, kept per workflow and node, so that a rebuilt node shows it again. */

/** The lines of a chart, in drawing order. Lines of one scale share their axis. */
export const LINES = [
  { key: "similarity", label: "similarity", scale: "similarity" },
  { key: "cfg_strength", label: "CFG", scale: "strength" },
  { key: "clip_strength", label: "CLIP", scale: "strength" },
];

const MAX_NODES = 64; // beyond that the least recently updated one is removed

export class LiveStore {
  constructor() {
    this.known = new Map();
  }

  /** Change what is known of a node; `update` gets the old value, or undefined. */
  update(graph, id, kind, update) {
    const key = `${graph}|${id}`;
    const old = this.known.get(key);
    const value = update(old?.kind === kind ? old.value : undefined);
    this.known.delete(key);
    this.known.set(key, { graph, id: String(id), kind, value });
    if (this.known.size > MAX_NODES) this.known.delete(this.known.keys().next().value);
  }

  /** What is known of a node, if it is still the same kind of node. */
  get(graph, id, kind) {
    const found = this.known.get(`${graph}|${id}`);
    return found?.kind === kind ? found.value : undefined;
  }

  /** Everything as text, for the browser tab's storage. */
  save() {
    return JSON.stringify([...this.known.values()]);
  }

  /** Take back what `save` gave; anything else is ignored. */
  load(text) {
    let items;
    try {
      items = JSON.parse(text ?? "[]");
    } catch {
      return;
    }
    for (const item of Array.isArray(items) ? items : []) {
      if (item?.value && item.id) this.update(item.graph, item.id, item.kind, () => item.value);
    }
  }

  /** The ids of all nodes of a workflow that something is known of. */
  ids(graph) {
    return [...this.known.values()].filter((k) => k.graph === graph).map((k) => k.id);
  }

  /**
   * Put one "glide.step" message into a series {run, total, steps}. A message of another run
   * begins again, as does one that goes back by more than a step (a node that samples twice); a
   * step that is sent again is replaced (heun calls the model twice).
   */
  static withStep(series, message) {
    const last = series?.steps.at(-1)?.step ?? -1;
    const goesOn = series?.run === message.run && message.step >= last - 1;
    const others = goesOn ? series.steps.filter((s) => s.step !== message.step) : [];
    const steps = [...others, message].sort((a, b) => a.step - b.step);
    return { run: message.run, total: message.total, steps };
  }
}

/** Read a node's "glide_compare" output: pairs of addresses; none where it has no such output. */
export function readPairs(output, address) {
  const items = Array.isArray(output?.glide_compare) ? output.glide_compare : [];
  return items
    .filter((pair) => pair?.before?.filename && pair?.after?.filename)
    .map((pair) => ({ before: address(pair.before), after: address(pair.after) }));
}

/** Read the lines of a node's "text" output; none where it has no such output. */
export function readLines(output) {
  const texts = Array.isArray(output?.text) ? output.text : [];
  return texts.filter((text) => typeof text === "string" && text).flatMap((t) => t.split("\n"));
}

/** The lines that have at least one value. */
export function linesOf(series) {
  return LINES.filter(({ key }) => series.steps.some((step) => Number.isFinite(step[key])));
}

/** A value as the chart writes it: about three digits that count, never an exponent. */
export function format(value) {
  if (!Number.isFinite(value)) return "-";
  const size = Math.abs(value);
  if (size < 0.00005) return "0";
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1);
  if (size >= 1) return value.toFixed(2);
  return value.toFixed(size >= 0.01 ? 3 : 4);
}
