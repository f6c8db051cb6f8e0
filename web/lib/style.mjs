/** Styles of the views, each in its own shadow root: nothing of the page changes. */

const COMMON = `<style>
.glide-panel, .glide-panel * { box-sizing: border-box; }
.glide-panel {
  display: flex; flex-direction: column; gap: 6px; width: 100%; height: 100%;
  padding: 8px 10px; overflow: hidden; border-radius: 8px;
  font: 11px/14px Inter, Arial, sans-serif; color: var(--input-text, #ddd);
  background: var(--component-node-widget-background, var(--comfy-input-bg, #222));
  user-select: none; -webkit-user-select: none;
}
</style>`;

const CHART = `<style>
.glide-chart .legend, .glide-chart .axis {
  display: flex; flex-wrap: wrap; gap: 2px 10px; min-height: 14px;
}
.glide-chart .axis {
  justify-content: space-between; opacity: 0.7; font-variant-numeric: tabular-nums;
}
.glide-chart .entry { display: inline-flex; align-items: center; gap: 4px; white-space: nowrap; }
.glide-chart .entry b { font-weight: 600; font-variant-numeric: tabular-nums; }
.glide-chart .entry i { width: 8px; height: 8px; border-radius: 4px; background: var(--line); }
.glide-chart .plot { position: relative; flex: 1 1 0; min-height: 40px; }
.glide-chart .plot svg {
  position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible;
}
.glide-chart .grid { stroke: currentColor; stroke-width: 1; opacity: 0.16; }
.glide-chart .cursor { stroke: currentColor; stroke-width: 1; opacity: 0.5; }
.glide-chart .line {
  fill: none; stroke: var(--line); stroke-width: 1.75; stroke-linecap: round;
  stroke-linejoin: round;
}
.glide-chart .dot { fill: var(--line); }
.glide-chart text {
  font: 10px Inter, Arial, sans-serif; fill: var(--line, currentColor);
  font-variant-numeric: tabular-nums;
}
.glide-chart .similarity { --line: color-mix(in srgb, #3f8ae6 76%, var(--input-text, #ddd)); }
.glide-chart .cfg_strength { --line: color-mix(in srgb, #e07b1f 76%, var(--input-text, #ddd)); }
.glide-chart .clip_strength { --line: color-mix(in srgb, #22a06b 76%, var(--input-text, #ddd)); }
.glide-chart .strength { --line: currentColor; opacity: 0.75; }
</style>`;

const SLIDER = `<style>
.glide-slider .stage { position: relative; flex: 1 1 0; min-height: 80px; overflow: hidden; }
.glide-slider .frame {
  position: absolute; overflow: hidden; border-radius: 4px; cursor: ew-resize;
  touch-action: none;
}
.glide-slider .frame img {
  position: absolute; inset: 0; width: 100%; height: 100%; object-fit: fill;
  pointer-events: none;
}
.glide-slider .frame img.small { image-rendering: pixelated; }
.glide-slider .after { clip-path: inset(0 0 0 var(--at)); }
.glide-slider .divider {
  position: absolute; top: 0; bottom: 0; left: var(--at); width: 24px; margin-left: -12px;
  cursor: ew-resize; outline: none;
}
.glide-slider .divider::before {
  content: ""; position: absolute; top: 0; bottom: 0; left: 11px; width: 2px; background: #fff;
  box-shadow: 0 0 0 1px rgb(0 0 0 / 0.45);
}
.glide-slider .divider::after {
  content: "\\2039\\2009\\203a"; position: absolute; top: 50%; left: 0; width: 24px;
  height: 24px; margin-top: -12px; border-radius: 12px; background: #fff; color: #222;
  text-align: center; font: 600 14px/21px Arial, sans-serif; box-shadow: 0 0 0 1px rgb(0 0 0 / 0.45);
}
.glide-slider .divider:focus-visible::after { box-shadow: 0 0 0 3px #4a90e2; }
.glide-slider .chip {
  position: absolute; bottom: 6px; padding: 1px 7px; border-radius: 8px; color: #fff;
  background: rgb(0 0 0 / 0.6); pointer-events: none; white-space: nowrap;
  transition: opacity 120ms;
}
.glide-slider .chip.left { left: 6px; }
.glide-slider .chip.right { right: 6px; }
.glide-slider .chip.hidden { opacity: 0; }
.glide-slider .pager {
  display: flex; justify-content: center; align-items: center; gap: 8px; height: 20px;
}
.glide-slider .pager[hidden] { display: none; }
.glide-slider .pager span {
  min-width: 34px; text-align: center; font-variant-numeric: tabular-nums;
}
.glide-slider .pager button {
  width: 22px; height: 20px; padding: 0; border: 0; border-radius: 6px; color: inherit;
  font: 600 14px/18px Arial, sans-serif; cursor: pointer;
  background: color-mix(in srgb, currentColor 14%, transparent);
}
.glide-slider .pager button:hover {
  background: color-mix(in srgb, currentColor 26%, transparent);
}
.glide-slider .pager button:focus-visible { outline: 2px solid #4a90e2; }
</style>`;

const SCORES = `<style>
.glide-scores .list {
  margin: 0; overflow: auto; font: 11px/16px monospace; user-select: text;
  -webkit-user-select: text;
}
</style>`;
const STYLES = { chart: CHART, slider: SLIDER, scores: SCORES };

/** A view's outer element, its shadow root styled, and the panel inside. */
export function styled(kind) {
  const element = document.createElement("div");
  element.className = `glide-view glide-${kind}-view`;
  element.style.width = "100%";
  element.style.height = "100%";
  element.style.minWidth = "0";
  const root = element.attachShadow({ mode: "open" });
  root.innerHTML = COMMON + STYLES[kind]; // constants only
  const panel = make("div", `glide-panel glide-${kind}`);
  root.append(panel);
  return { element, panel };
}

/** An HTML element with a class and attributes. */
export function make(tag, className = "", attributes = {}) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** An SVG element with attributes. */
export function makeSvg(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
