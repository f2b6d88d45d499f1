// The keys of the editor, as keys.js of the page wants them.

import { saved } from "../base/saved.js";
import { LARGEST_BRUSH } from "./brush.js";

/** Return [keys, text, run] of each. */
export function editKeys(stage, mask, easel) {
  const edit = (changes) => () => saved.setEdit(changes(saved.form.edit));
  const tool = (name) => edit(() => ({ tool: name }));
  const zoom = (factor) => () => (easel.viewport.zoom(factor), easel.paint());
  const brush = (factor) =>
    edit((form) => {
      const size = Math.round(form.brush * factor + Math.sign(factor - 1));
      return { brush: Math.min(LARGEST_BRUSH, Math.max(1, size)) };
    });
  return [
    [["b"], "Brush", tool("brush")],
    [["e"], "Eraser", tool("eraser")],
    [["r"], "Rectangle", tool("rectangle")],
    [["h"], "Move the image", tool("hand")],
    [["["], "Smaller brush", brush(1 / 1.2)],
    [["]"], "Larger brush", brush(1.2)],
    [["n"], "Snap to tokens", edit((form) => ({ snap: !form.snap }))],
    [["g"], "Grid of tokens", edit((form) => ({ grid: !form.grid }))],
    [["Ctrl+z"], "Undo the mask", () => mask.undo()],
    [["Ctrl+Shift+z", "Ctrl+y"], "Redo the mask", () => mask.redo()],
    [["+", "="], "Zoom in", zoom(1.4)],
    [["-"], "Zoom out", zoom(1 / 1.4)],
    [["0"], "Fit", () => easel.fit()],
    [["q"], "Before", () => stage.show("before")],
    [["w"], "Chosen tokens", () => stage.job && stage.show("tokens")],
    [["a"], "After", () => stage.job && stage.show(0)],
    [["c"], "Compare", () => stage.result && stage.toggleCompare()],
    [["Arrow keys"], "On the image: from block to block", null],
    [["Space"], "On the image: mark or erase", null],
    [["Shift+Arrow keys"], "On the image: paint on the way", null],
  ];
}
