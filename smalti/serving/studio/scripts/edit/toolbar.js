// Buttons over the easel: how to paint the mask, and how to look at the image.

import { $$, h, icon } from "../base/dom.js";
import { saved } from "../base/saved.js";

const TOOLS = [
  ["brush", "Brush (B)"],
  ["eraser", "Eraser (E)"],
  ["rectangle", "Rectangle (R)"],
  ["hand", "Move the image (H)"],
];

/** Return {element, show()} of the tools that paint the mask. */
export function makeMaskTools(mask) {
  const tool = ([name, text]) =>
    h(
      "button",
      {
        type: "button",
        className: "icon-button",
        "data-tool": name,
        "aria-label": text,
        title: text,
        onclick: () => saved.setEdit({ tool: name }),
      },
      icon(name),
    );
  const flag = (name, text) =>
    h(
      "button",
      {
        type: "button",
        className: "icon-button",
        "data-flag": name,
        "aria-label": text,
        title: text,
        onclick: () => saved.setEdit({ [name]: !saved.form.edit[name] }),
      },
      icon(name),
    );
  const undo = h(
    "button",
    {
      type: "button",
      className: "icon-button",
      "aria-label": "Undo",
      title: "Undo (Ctrl Z)",
      onclick: () => mask.undo(),
    },
    icon("undo"),
  );
  const redo = h(
    "button",
    {
      type: "button",
      className: "icon-button",
      "aria-label": "Redo",
      title: "Redo (Shift Ctrl Z)",
      onclick: () => mask.redo(),
    },
    icon("redo"),
  );
  const element = h(
    "div",
    { className: "toolbar", role: "toolbar", "aria-label": "Mask" },
    TOOLS.map(tool),
    h("span", { className: "gap" }),
    flag("snap", "Snap to blocks of tokens (N)"),
    flag("grid", "Show the grid of tokens (G)"),
    h("span", { className: "gap" }),
    undo,
    redo,
  );
  const show = () => {
    for (const button of $$("[data-tool]", element))
      button.setAttribute("aria-pressed", String(button.dataset.tool === saved.form.edit.tool));
    for (const button of $$("[data-flag]", element))
      button.setAttribute("aria-pressed", String(saved.form.edit[button.dataset.flag]));
    undo.disabled = !mask.canUndo;
    redo.disabled = !mask.canRedo;
  };
  saved.on("change", show);
  mask.on("change", show);
  show();
  return { element, show };
}

/** Return the buttons that zoom. */
export function makeZoom(easel) {
  const button = (name, text, run) =>
    h(
      "button",
      { type: "button", className: "icon-button", "aria-label": text, title: text, onclick: run },
      icon(name),
    );
  const zoom = (factor) => () => (easel.viewport.zoom(factor), easel.paint());
  return h(
    "div",
    { className: "toolbar zoom", role: "group", "aria-label": "Zoom" },
    button("zoom-out", "Zoom out (−)", zoom(1 / 1.4)),
    button("fit", "Fit (0)", () => easel.fit()),
    button("zoom-in", "Zoom in (+)", zoom(1.4)),
  );
}
