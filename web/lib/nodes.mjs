/** From a message's node id to the node on the canvas. */

/** The workflow's outermost graph, whichever subgraph is open. */
export function rootOf(app) {
  return app.rootGraph ?? app.graph?.rootGraph ?? app.graph;
}

/**
 * Find the node that an execution id names: "8" in the root graph, "57:8" inside subgraph node 57,
 * any depth. null where there is none (another workflow is open, the node was deleted).
 */
export function findNode(root, id) {
  let graph = root;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById?.(/^\d+$/.test(part) ? Number(part) : part) ?? null;
    graph = node?.subgraph;
  }
  return node;
}
