import assert from "node:assert/strict";
import { test } from "node:test";
import { LiveStore, format, linesOf, readPairs } from "../../web/lib/series.mjs";

function message(step, more = {}) {
  return { node: "7", run: "a/8/None", step, total: 4, similarity: step / 10, ...more };
}

function collect(...messages) {
  return messages.reduce((series, m) => LiveStore.withStep(series, m), undefined);
}

const stepsOf = (series) => series.steps.map((s) => s.step);

test("a run collects its steps", () => {
  const series = collect(message(0), message(1), message(2));
  assert.deepEqual(stepsOf(series), [0, 1, 2]);
  assert.equal(series.total, 4);
});

test("a step that is sent again is replaced (heun)", () => {
  const series = collect(
    message(0),
    message(1, { similarity: 0.9 }),
    message(1, { similarity: 0.4 }),
    message(2),
    message(2),
  );
  assert.deepEqual(stepsOf(series), [0, 1, 2]);
  assert.equal(series.steps[1].similarity, 0.4);
});

test("a second run replaces the first", () => {
  const series = collect(message(0), message(1), message(2), message(0, { run: "b/8/None" }));
  assert.deepEqual(stepsOf(series), [0]);
});

test("a node that samples twice in one run starts a new series", () => {
  const series = collect(message(0), message(1), message(2), message(3), message(0));
  assert.deepEqual(stepsOf(series), [0]);
});

test("a series held by a view is not modified", () => {
  const first = collect(message(0));
  LiveStore.withStep(first, message(1));
  assert.deepEqual(stepsOf(first), [0]);
});

test("a node of a workflow keeps its own, and one of another kind gets nothing", () => {
  const store = new LiveStore();
  store.update("g1", "7", "GlideSampler", () => "one");
  store.update("g2", "7", "GlideSampler", () => "two");
  assert.equal(store.get("g1", "7", "GlideSampler"), "one");
  assert.equal(store.get("g2", 7, "GlideSampler"), "two");
  assert.equal(store.get("g1", "7", "GlideUpsample"), undefined);
  assert.deepEqual(store.ids("g1"), ["7"]);
  store.update("g1", "7", "GlideUpsample", (old) => {
    assert.equal(old, undefined);
    return "three";
  });
  assert.equal(store.get("g1", "7", "GlideSampler"), undefined);
});

test("the number of series is limited, and the newest ones stay", () => {
  const store = new LiveStore();
  for (let i = 0; i < 500; i += 1) store.update("g", `n${i}`, "GlideSampler", () => i);
  assert.ok(store.ids("g").length <= 64);
  assert.equal(store.get("g", "n499", "GlideSampler"), 499);
});

test("only lines with values are drawn", () => {
  const steps = [message(0, { similarity: null, clip_strength: null, cfg_strength: 0.5 })];
  assert.deepEqual(linesOf({ steps }).map((line) => line.key), ["cfg_strength"]);
});

test("pairs are read from a node's output, and from nothing else", () => {
  const address = ({ filename, type }) => `/view?${filename}&${type}`;
  const file = (filename) => ({ filename, subfolder: "", type: "temp" });
  const output = { glide_compare: [{ before: file("a"), after: file("b") }, { before: file("c") }] };
  assert.deepEqual(readPairs(output, address), [{ before: "/view?a&temp", after: "/view?b&temp" }]);
  for (const other of [undefined, null, {}, { images: [file("a")] }, { glide_compare: 3 }]) {
    assert.deepEqual(readPairs(other, address), []);
  }
});

test("values are short and never exponents", () => {
  const cases = [[0.3124, "0.312"], [0.00123, "0.0012"], [1e-9, "0"], [0, "0"], [1.5, "1.50"]];
  cases.push([20291.1, "20291"], [-0.25, "-0.250"], [12.34, "12.3"], [null, "-"], [NaN, "-"]);
  for (const [value, text] of cases) assert.equal(format(value), text);
});

test("a store comes back from its text, and nothing comes of a damaged one", () => {
  const store = new LiveStore();
  store.update("graph", 7, "GlideUpsample", () => [{ before: "a", after: "b" }]);
  const copy = new LiveStore();
  copy.load(store.save());
  assert.deepEqual(copy.get("graph", 7, "GlideUpsample"), [{ before: "a", after: "b" }]);
  for (const text of [null, "", "{", "{}", "[null, 1]"]) copy.load(text);
  assert.deepEqual(copy.ids("graph"), ["7"]);
});
