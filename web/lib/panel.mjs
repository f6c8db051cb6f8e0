/** A view (chart, slider or scores) as a DOM widget of a node. */

const NAME = "glide_view";
const MARGIN = 8;
const PREVIEW = "$$canvas-image-preview"; // ComfyUI's name of the widget

/** Remove the interface's own preview of a node's last step, which a view replaces. */
export function removePreview(node) {
  const { widgets = [] } = node;
  node.imgs = undefined;
  const found = widgets.findIndex((widget) => widget.name === PREVIEW);
  if (found < 0) return;
  const [preview] = widgets.splice(found, 1);
  preview.onRemove?.();
  const height = node.size[1] - (preview.computedHeight ?? 0);
  node.setSize([node.size[0], Math.max(height, node.computeSize()[1])]);
  node.setDirtyCanvas?.(true, true);
}

/** The panels of all nodes; each is removed with its node. */
export class Panels {
  /** canvas: gives the element that zooms, which wheels over a panel are meant for. */
  constructor(canvas) {
    this.canvas = canvas;
    this.known = new WeakMap();
  }

  /** Return a node's panel, with a view of this class. */
  of(node, View) {
    if (!this.known.has(node)) this.known.set(node, new Panel(node, new View(), this.canvas));
    return this.known.get(node);
  }
}

class Panel {
  constructor(node, view, canvas) {
    this.node = node;
    this.view = view;
    this.canvas = canvas;
    this.grown = 0;
    this.latest = 0; // number of the last call of show
    this.widget = null;
  }

  /** Show data. The widget is added with the first, so that a node without data is as it was. */
  async show(data) {
    const call = ++this.latest;
    const ready = await this.view.prepare?.(data);
    if (this.gone || call !== this.latest) return; // newer data came while this was prepared
    if (ready === false) return;
    if (!this.widget) this.add();
    this.view.show(data);
  }

  add() {
    const { node, view } = this;
    const inner = view.height(node.size[0] - 2 * MARGIN);
    const height = inner + 2 * MARGIN;
    view.element.style.minHeight = `${inner}px`; // where the node is DOM and grows by itself
    this.widget = node.addDOMWidget(NAME, "GLIDE_VIEW", view.element, {
      serialize: false, // not in prompts
      hideOnZoom: false,
      margin: MARGIN,
      getMinHeight: () => height,
      getMaxHeight: () => (view.fixed ? height : undefined),
    });
    this.widget.serialize = false; // nor in saved workflows
    this.place();
    view.element.addEventListener("wheel", (event) => this.zoom(event), { passive: false });
    this.grow(height);
    this.clean();
  }

  /** Place the widget before the interface's own preview, which draws over all that follows it. */
  place() {
    const { widgets } = this.node;
    const preview = widgets.findIndex((widget) => widget.name?.startsWith("$$"));
    if (preview < 0 || preview > widgets.indexOf(this.widget)) return;
    widgets.splice(widgets.indexOf(this.widget), 1);
    widgets.splice(preview, 0, this.widget);
  }

  /** Enlarge the node by the widget's height, which the saved size leaves out. */
  grow(height) {
    const { node } = this;
    const before = node.size[1];
    node.setSize([node.size[0], before + height]);
    this.grown = node.size[1] - before;
    const saved = node.onSerialize;
    node.onSerialize = (data) => {
      const result = saved?.call(node, data);
      if (data?.size) data.size = [data.size[0], Math.max(0, data.size[1] - this.grown)];
      return result;
    };
    node.setDirtyCanvas?.(true, true);
  }

  clean() {
    const { node } = this;
    const removed = node.onRemoved;
    node.onRemoved = (...args) => {
      this.gone = true;
      this.view.close();
      return removed?.apply(node, args);
    };
  }

  /** Zoom the canvas under the pointer; where nodes are DOM themselves, the page does so. */
  zoom(event) {
    const canvas = this.canvas();
    const floating = this.view.element.closest(".dom-widget");
    if (!canvas || !floating || event.defaultPrevented) return;
    event.preventDefault();
    event.stopPropagation();
    canvas.dispatchEvent(new WheelEvent("wheel", event));
  }
}
