/** GLIDE Sampler's `preset`: shows in the other widgets what it sets. */

/** Fill a node's widgets from its preset, and set it back to "custom" when one of them is edited. */
export function followPreset(node, presets) {
  const widget = (name) => node.widgets?.find((found) => found.name === name);
  const preset = widget("preset");
  if (!preset || !presets) return;
  let filling = false;
  after(preset, () => {
    filling = true;
    try {
      for (const [name, value] of Object.entries(presets[preset.value] ?? {})) {
        const target = widget(name);
        if (target) target.value = value;
      }
    } finally {
      filling = false;
    }
  });
  for (const name of new Set(Object.values(presets).flatMap(Object.keys))) {
    const target = widget(name);
    if (!target) continue;
    after(target, () => {
      const expected = presets[preset.value]?.[name];
      if (!filling && expected !== undefined && target.value !== expected) preset.value = "custom";
    });
  }
}

/** Call `then` after a widget's own callback. */
function after(widget, then) {
  const own = widget.callback;
  widget.callback = function (...args) {
    const result = own?.apply(this, args);
    then();
    return result;
  };
}
