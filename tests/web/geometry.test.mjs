import assert from "node:assert/strict";
import { test } from "node:test";
import {
  contain,
  heightFor,
  nearestStep,
  pathOf,
  percentAt,
  percentForKey,
  rangeOf,
  stretches,
  ticksOf,
  xOf,
  yOf,
} from "../../web/lib/geometry.mjs";

const BOX = { left: 10, top: 5, width: 100, height: 50 };

function series(values, total = values.length) {
  return { run: "r", total, steps: values.map((value, step) => ({ step, similarity: value })) };
}

test("a run spans the full width before all its steps have arrived", () => {
  assert.equal(xOf(0, 11, BOX), 10);
  assert.equal(xOf(10, 11, BOX), 110);
  assert.equal(xOf(5, 11, BOX), 60);
  assert.equal(xOf(0, 1, BOX), 60); // a run of one step: the middle
});

test("the highest value is at the top and the lowest at the bottom", () => {
  const range = { low: 0.2, high: 0.6 };
  assert.equal(yOf(0.6, range, BOX), 5);
  assert.equal(yOf(0.2, range, BOX), 55);
});

test("on a root scale a quarter of the highest value is half as high", () => {
  const range = { low: 0, high: 0.8, root: true };
  assert.equal(yOf(0.2, range, BOX), 30);
  assert.deepEqual(ticksOf(range), [0.8, 0.2, 0]);
  assert.deepEqual(ticksOf({ low: 1, high: 3, root: false }), [3, 2, 1]);
});

test("a scale covers all its lines and ignores NaN", () => {
  const steps = [{ a: 0.1, b: null }, { a: 0.3, b: 0.9 }, { a: NaN, b: Infinity }];
  assert.deepEqual(rangeOf(steps, ["a", "b"]), { low: 0.1, high: 0.9, root: false });
  assert.deepEqual(rangeOf(steps, ["a"], { root: true }), { low: 0, high: 0.3, root: true });
  assert.equal(rangeOf(steps, ["c"]), null);
});

test("a flat line has a scale too", () => {
  for (const options of [{}, { root: true }]) {
    const { low, high } = rangeOf([{ a: 0 }, { a: 0 }], ["a"], options);
    assert.ok(high > low);
  }
});

test("a missing value or a missing step interrupts a line", () => {
  const range = { low: 0, high: 1 };
  const gaps = series([0.1, 0.2, null, 0.4, 0.5]);
  assert.deepEqual(stretches(gaps, "similarity", range, BOX).map((s) => s.length), [2, 2]);
  const late = { run: "r", total: 9, steps: [{ step: 2, similarity: 1 }, { step: 5, similarity: 0 }] };
  assert.deepEqual(stretches(late, "similarity", range, BOX).map((s) => s[0].step), [2, 5]);
});

test("a path has a move for every stretch, and a lone point is drawn as a dot", () => {
  const range = { low: 0, high: 1 };
  const path = pathOf(stretches(series([0, 1, null, 1]), "similarity", range, BOX));
  assert.equal(path, "M10.0 55.0L43.3 5.0M110.0 5.0L110.0 5.0");
  assert.equal(pathOf([]), "");
});

test("pointing at the chart finds the nearest step that is known", () => {
  const known = series([0.1, 0.2, 0.3], 5);
  assert.equal(nearestStep(known, 33, BOX).step, 1);
  assert.equal(nearestStep(known, 500, BOX).step, 2);
  assert.equal(nearestStep({ total: 3, steps: [] }, 33, BOX), undefined);
});

test("an image of any shape is centred in its frame and fully visible", () => {
  const frame = { width: 300, height: 200 };
  assert.deepEqual(contain(frame, { width: 10, height: 10 }), {
    left: 50, top: 0, width: 200, height: 200,
  });
  assert.deepEqual(contain(frame, { width: 60, height: 20 }), {
    left: 0, top: 50, width: 300, height: 100,
  });
  assert.deepEqual(contain(frame, { width: 0, height: 0 }), { left: 0, top: 0, ...frame });
});

test("a panel's height follows its image, within bounds", () => {
  const bounds = { rest: 16, least: 140, most: 460 };
  assert.equal(heightFor(300, { width: 64, height: 64 }, bounds), 316);
  assert.equal(heightFor(300, { width: 640, height: 64 }, bounds), 140);
  assert.equal(heightFor(300, { width: 64, height: 640 }, bounds), 460);
  assert.equal(heightFor(300, { width: 0, height: 0 }, bounds), 316); // one that did not load
});

test("the divider follows the pointer and stays on the image", () => {
  const rect = { left: 100, width: 400 };
  assert.equal(percentAt(300, rect), 50);
  assert.equal(percentAt(0, rect), 0);
  assert.equal(percentAt(900, rect), 100);
  assert.equal(percentAt(5, { left: 0, width: 0 }), 50);
});

test("arrows, page keys, Home and End move the divider; other keys are left alone", () => {
  assert.equal(percentForKey(50, "ArrowLeft"), 45);
  assert.equal(percentForKey(50, "ArrowRight", true), 51);
  assert.equal(percentForKey(98, "ArrowUp"), 100);
  assert.equal(percentForKey(10, "PageDown"), 0);
  assert.equal(percentForKey(10, "PageUp"), 30);
  assert.equal(percentForKey(50, "Home"), 0);
  assert.equal(percentForKey(50, "End"), 100);
  for (const key of ["Tab", "Enter", "a", "constructor"]) assert.equal(percentForKey(50, key), null);
});
