/** The scores of GLIDE CLIP Score, one line per image. */
import { make, styled } from "./style.mjs";

const LINE = 16;
const MAX_LINES = 12;

export class Scores {
  fixed = true; // its height does not follow the node's

  constructor() {
    const { element, panel } = styled("scores");
    this.element = element;
    this.list = make("pre", "list");
    panel.append(this.list);
  }

  prepare(lines) {
    this.count = Math.min(MAX_LINES, lines.length);
    return true;
  }

  height() {
    return 20 + LINE * (this.count ?? 1);
  }

  show(lines) {
    this.list.textContent = lines.join("\n");
    this.element.dataset.lines = String(lines.length);
  }

  close() {}
}
