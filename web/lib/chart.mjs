/** The live chart: CLIP similarity on the left scale, guidance strengths on the right one. */
import { nearestStep, pathOf, rangeOf, stretches, ticksOf, xOf } from "./geometry.mjs";
import { format, linesOf } from "./series.mjs";
import { make, makeSvg, styled } from "./style.mjs";

const HEIGHT = 150;
const SIDE = 38; // for the numbers of a scale

export class Chart {
  fixed = true; // its height does not follow the node's

  constructor() {
    const { element, panel } = styled("chart");
    this.element = element;
    this.legend = make("div", "legend");
    this.plot = make("div", "plot", { role: "img" });
    this.svg = makeSvg("svg");
    this.plot.append(this.svg);
    this.axis = make("div", "axis");
    panel.append(this.legend, this.plot, this.axis);
    this.series = null;
    this.pointed = null; // x of the pointer
    this.plot.addEventListener("pointermove", (event) => {
      const rect = this.plot.getBoundingClientRect();
      this.pointed = ((event.clientX - rect.left) / rect.width) * this.plot.clientWidth;
      this.draw();
    });
    this.plot.addEventListener("pointerleave", () => {
      this.pointed = null;
      this.draw();
    });
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(this.plot);
  }

  height() {
    return HEIGHT;
  }

  show(series) {
    this.series = series;
    this.draw();
  }

  close() {
    this.sizes.disconnect();
  }

  draw() {
    const { series } = this;
    if (!series) return;
    const lines = linesOf(series);
    const box = this.box(lines);
    const pointed = this.pointed === null ? undefined : nearestStep(series, this.pointed, box);
    this.drawLegend(lines, pointed ?? series.steps.at(-1));
    if (box.width > 0 && box.height > 0) this.drawLines(lines, box, pointed);
  }

  /** The area of the lines, beside the scales in use. */
  box(lines) {
    const left = lines.some((line) => line.scale === "similarity") ? SIDE : 0;
    const right = lines.some((line) => line.scale === "strength") ? SIDE : 0;
    const { clientWidth, clientHeight } = this.plot;
    return { left, top: 5, width: clientWidth - left - right, height: clientHeight - 10 };
  }

  drawLegend(lines, step) {
    const entries = lines.map((line) => {
      const entry = make("span", `entry ${line.key}`);
      const value = make("b");
      value.textContent = format(step[line.key]);
      entry.append(make("i"), `${line.label} `, value);
      return entry;
    });
    this.legend.replaceChildren(...entries);
    const place = make("span");
    place.textContent = `step ${step.step + 1} of ${this.series.total}`;
    const noise = make("span");
    noise.textContent = `sigma ${format(step.sigma)}`;
    this.axis.replaceChildren(place, noise);
    const words = lines.map((line) => `${line.label} ${format(step[line.key])}`).join(", ");
    this.plot.setAttribute("aria-label", `Step ${step.step + 1}: ${words}`);
    this.element.dataset.steps = String(this.series.steps.length);
  }

  drawLines(lines, box, pointed) {
    const { series } = this;
    const parts = [0, 0.5, 1].map((share) => {
      const y = Math.round(box.top + box.height * share) + 0.5;
      const ends = { x1: box.left, x2: box.left + box.width, y1: y, y2: y };
      return makeSvg("line", { class: "grid", ...ends });
    });
    if (pointed) {
      const x = xOf(pointed.step, series.total, box);
      const ends = { x1: x, x2: x, y1: box.top, y2: box.top + box.height };
      parts.push(makeSvg("line", { class: "cursor", ...ends }));
    }
    for (const scale of ["similarity", "strength"]) {
      const own = lines.filter((line) => line.scale === scale);
      const keys = own.map((line) => line.key);
      const range = rangeOf(series.steps, keys, { root: scale === "strength" });
      if (!range) continue;
      parts.push(...this.drawScale(scale, own, range, box));
      for (const key of keys) parts.push(...this.drawLine(key, range, box, pointed));
    }
    this.svg.replaceChildren(...parts);
  }

  drawLine(key, range, box, pointed) {
    const found = stretches(this.series, key, range, box);
    const points = found.flat();
    const marked = pointed ? points.find((p) => p.step === pointed.step) : points.at(-1);
    const line = makeSvg("path", { class: `line ${key}`, d: pathOf(found) });
    line.dataset.points = String(points.length);
    if (!marked) return [line];
    return [line, makeSvg("circle", { class: `dot ${key}`, cx: marked.x, cy: marked.y, r: 3 })];
  }

  /** The numbers of a scale, in its line's colour; one that two lines share has the text's. */
  drawScale(scale, own, range, box) {
    const left = scale === "similarity";
    const x = left ? box.left - 7 : box.left + box.width + 7;
    const kind = own.length > 1 ? scale : own[0].key;
    return ticksOf(range).map((value, i) => {
      const y = box.top + (box.height * i) / 2 + 3.5;
      const text = makeSvg("text", { x, y, "text-anchor": left ? "end" : "start", class: kind });
      text.textContent = format(value);
      return text;
    });
  }
}
