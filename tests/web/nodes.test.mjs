import assert from "node:assert/strict";
import { test } from "node:test";
import { findNode, rootOf } from "../../web/lib/nodes.mjs";

/** A graph as the interface has it: ids are numbers, subgraph nodes hold a graph. */
function graph(nodes) {
  return { getNodeById: (id) => nodes[id] ?? null };
}

const inner = { id: 8 };
const deep = { id: 3 };
const root = graph({
  7: { id: 7 },
  57: { id: 57, subgraph: graph({ 8: inner, 9: { id: 9, subgraph: graph({ 3: deep }) } }) },
});

test("a plain id is a node of the root graph", () => {
  assert.equal(findNode(root, "7").id, 7);
  assert.equal(findNode(root, 7).id, 7);
});

test("an id with colons leads through subgraphs", () => {
  assert.equal(findNode(root, "57:8"), inner);
  assert.equal(findNode(root, "57:9:3"), deep);
});

test("an id that leads nowhere gives null", () => {
  for (const id of ["8", "7:8", "57:99", "57:8:1", "1.0.0.2", "", undefined]) {
    assert.equal(findNode(root, id), null);
  }
  assert.equal(findNode(undefined, "7"), null);
});

test("the root is found from inside a subgraph, in old interfaces and in new ones", () => {
  assert.equal(rootOf({ rootGraph: root, graph: inner }), root);
  assert.equal(rootOf({ graph: { rootGraph: root } }), root);
  assert.equal(rootOf({ graph: root }), root);
  assert.equal(rootOf({}), undefined);
});
