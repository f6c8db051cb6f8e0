/** Positions: lines in a chart, images in a frame, the divider between them. */

/** The scale of some lines: from the smallest to the largest value, or from 0 and by roots. */
export function rangeOf(steps, keys, { root = false } = {}) {
  const values = steps.flatMap((step) => keys.map((key) => step[key])).filter(Number.isFinite);
  if (!values.length) return null;
  const low = root ? Math.min(0, ...values) : Math.min(...values);
  const high = Math.max(...values);
  if (high > low) return { low, high, root };
  const margin = Math.abs(high) * 0.1 || 0.1; // a flat line is in the middle, or at 0
  return { low: root ? low : low - margin, high: high + margin, root };
}

/** x of a step: the first at the left edge, the last of `total` at the right one. */
export function xOf(step, total, { left, width }) {
  return total > 1 ? left + (width * step) / (total - 1) : left + width / 2;
}

/**
 * y of a value: `high` on top. On a root scale the height is the square root of the share:
 * guidance moves x0 a lot at first and a hundredth of that at the end, and both are to be seen.
 */
export function yOf(value, { low, high, root }, { top, height }) {
  const share = Math.max(0, (value - low) / (high - low));
  return top + height * (1 - (root ? Math.sqrt(share) : share));
}

/** The values at the top, the middle and the bottom of a scale. */
export function ticksOf({ low, high, root }) {
  return [high, low + (high - low) * (root ? 0.25 : 0.5), low];
}

/**
 * Points of a line, in stretches without gaps: a step without a value, or one that is missing,
 * ends a stretch. Each point is {x, y, step}.
 */
export function stretches(series, key, range, box) {
  const found = [];
  let before = null;
  for (const { step, [key]: value } of series.steps) {
    if (!Number.isFinite(value)) {
      before = null;
      continue;
    }
    if (before === null || step > before + 1) found.push([]);
    found.at(-1).push({ x: xOf(step, series.total, box), y: yOf(value, range, box), step });
    before = step;
  }
  return found;
}

/** SVG path of stretches; a single point becomes a dot of the line's own width. */
export function pathOf(parts) {
  const at = ({ x, y }) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  return parts
    .map((part) => (part.length > 1 ? part : [part[0], part[0]]))
    .map(([first, ...rest]) => `M${at(first)}${rest.map((p) => `L${at(p)}`).join("")}`)
    .join("");
}

/** The known step whose x is nearest; undefined without steps. */
export function nearestStep(series, x, box) {
  let best;
  let least = Infinity;
  for (const step of series.steps) {
    const distance = Math.abs(xOf(step.step, series.total, box) - x);
    if (distance < least) [best, least] = [step, distance];
  }
  return best;
}

/** The largest rectangle of an image's shape in the middle of a frame. */
export function contain(frame, image) {
  if (!(image.width > 0 && image.height > 0)) return { left: 0, top: 0, ...frame };
  const scale = Math.min(frame.width / image.width, frame.height / image.height);
  const width = image.width * scale;
  const height = image.height * scale;
  return { left: (frame.width - width) / 2, top: (frame.height - height) / 2, width, height };
}

/** The height of a panel of this width for an image, within bounds. */
export function heightFor(width, image, { rest, least, most }) {
  const ratio = image.width > 0 ? image.height / image.width : 1;
  return Math.round(Math.min(most, Math.max(least, width * ratio + rest)));
}

/** The divider's place, 0 to 100, for a pointer at clientX over a rectangle on the screen. */
export function percentAt(clientX, rect) {
  if (!(rect.width > 0)) return 50;
  return Math.min(100, Math.max(0, (100 * (clientX - rect.left)) / rect.width));
}

/** Where a key moves the divider; null for any other key. */
export function percentForKey(percent, key, fine = false) {
  const small = fine ? 1 : 5;
  const moves = {
    ArrowLeft: percent - small,
    ArrowDown: percent - small,
    ArrowRight: percent + small,
    ArrowUp: percent + small,
    PageDown: percent - 20,
    PageUp: percent + 20,
    Home: 0,
    End: 100,
  };
  return Object.hasOwn(moves, key) ? Math.min(100, Math.max(0, moves[key])) : null;
}
