/** Before and after: two images over each other, and a divider to drag between them. */
import { contain, heightFor, percentAt, percentForKey } from "./geometry.mjs";
import { make, styled } from "./style.mjs";

const PAGER = 26; // height of the row of buttons, with its gap
const BORDER = 16; // of the panel, top and bottom together
const MIN_HEIGHT = 140;
const MAX_HEIGHT = 460;
const places = new Map(); // the divider's place per image shown, for nodes that are rebuilt

export class Slider {
  fixed = false;

  constructor() {
    const { element, panel } = styled("slider");
    this.element = element;
    this.pairs = [];
    this.page = 0;
    this.percent = 50;
    this.stage = make("div", "stage");
    this.frame = make("div", "frame");
    this.before = make("img", "before", { alt: "before", draggable: "false" });
    this.after = make("img", "after", { alt: "after", draggable: "false" });
    this.chips = [make("span", "chip left"), make("span", "chip right")];
    this.divider = make("div", "divider", {
      role: "slider",
      tabindex: "0",
      "aria-label": "Before and after",
      "aria-valuemin": "0",
      "aria-valuemax": "100",
      "aria-orientation": "horizontal",
    });
    this.frame.append(this.before, this.after, ...this.chips, this.divider);
    this.stage.append(this.frame);
    this.pager = this.makePager();
    panel.append(this.stage, this.pager);
    this.listen();
    this.move(50);
  }

  makePager() {
    const pager = make("div", "pager");
    const buttons = [
      ["\u2039", "Previous pair", -1],
      ["\u203a", "Next pair", 1],
    ].map(([text, label, by]) => {
      const button = make("button", "", { type: "button", "aria-label": label });
      button.textContent = text;
      button.addEventListener("click", () => this.turn(by));
      return button;
    });
    this.count = make("span", "", { "aria-live": "polite" });
    pager.append(buttons[0], this.count, buttons[1]);
    return pager;
  }

  listen() {
    const { frame, divider } = this;
    const follow = (event) => this.move(percentAt(event.clientX, frame.getBoundingClientRect()));
    frame.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.stopPropagation(); // the node stays where it is
      frame.setPointerCapture(event.pointerId);
      divider.focus({ preventScroll: true });
      follow(event);
      event.preventDefault();
    });
    frame.addEventListener("pointermove", (event) => {
      if (frame.hasPointerCapture(event.pointerId)) follow(event);
    });
    divider.addEventListener("keydown", (event) => {
      const to = percentForKey(this.percent, event.key, event.shiftKey);
      if (to === null || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      this.move(to);
    });
    this.sizes = new ResizeObserver(() => this.fit());
    this.sizes.observe(this.stage);
  }

  /** Wait for the first pair, whose shape decides how high the panel is. */
  async prepare(pairs) {
    const loading = [pairs[0].before, pairs[0].after].map((address) => {
      const image = new Image();
      image.src = address;
      return image.decode().then(() => image).catch(() => image);
    });
    const [, after] = await Promise.all(loading);
    this.shape = { width: after.naturalWidth, height: after.naturalHeight };
    this.several = pairs.length > 1;
    return after.naturalWidth > 0; // gone when the server has been restarted since
  }

  height(width) {
    const rest = BORDER + (this.several ? PAGER : 0);
    return heightFor(width - 20, this.shape, { rest, least: MIN_HEIGHT, most: MAX_HEIGHT });
  }

  show(pairs) {
    if (pairs === this.pairs) return;
    this.pairs = pairs;
    this.move(places.get(pairs[0].after) ?? this.percent);
    this.page = Math.min(this.page, pairs.length - 1);
    this.open();
  }

  close() {
    this.sizes.disconnect();
  }

  turn(by) {
    this.page = (this.page + by + this.pairs.length) % this.pairs.length;
    this.open();
  }

  async open() {
    const { before, after, pairs, page } = this;
    this.pager.hidden = pairs.length < 2;
    this.count.textContent = `${page + 1} / ${pairs.length}`;
    before.src = pairs[page].before;
    after.src = pairs[page].after;
    await Promise.all([before.decode(), after.decode()].map((wait) => wait.catch(() => {})));
    if (pairs !== this.pairs || page !== this.page) return; // another pair was opened meanwhile
    this.shape = { width: after.naturalWidth, height: after.naturalHeight };
    before.classList.toggle("small", before.naturalWidth < after.naturalWidth);
    ["before", "after"].forEach((name, i) => {
      const { naturalWidth, naturalHeight } = this[name];
      this.chips[i].textContent = `${name} ${naturalWidth} \u00d7 ${naturalHeight}`;
    });
    this.element.dataset.pairs = String(pairs.length);
    this.fit();
  }

  /** Lay the frame where the images fit whole, whatever their shape. */
  fit() {
    const { clientWidth, clientHeight } = this.stage;
    if (!this.shape || !clientWidth) return;
    const place = contain({ width: clientWidth, height: clientHeight }, this.shape);
    for (const [name, value] of Object.entries(place)) {
      this.frame.style[name] = `${value}px`;
    }
    this.move(this.percent);
  }

  move(percent) {
    this.percent = percent;
    if (this.pairs.length) places.set(this.pairs[0].after, percent);
    this.frame.style.setProperty("--at", `${percent}%`);
    this.divider.setAttribute("aria-valuenow", String(Math.round(percent)));
    // a label that its image is too narrow for is hidden
    const width = this.frame.clientWidth;
    const room = [(width * percent) / 100, (width * (100 - percent)) / 100];
    this.chips.forEach((chip, i) => {
      chip.classList.toggle("hidden", room[i] < chip.offsetWidth + 18);
    });
  }
}
