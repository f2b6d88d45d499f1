// What an empty stage shows: a grid of masked tokens, which is what every image begins as.

import { h } from "../base/dom.js";
import { Tiles, palette, wholeLayout } from "./tiles.js";

const GRID = [8, 8];

/** Return {element, show(visible)}; `more` are further elements, such as a button. */
export function blank(title, text, ...more) {
  const canvas = h("canvas", { width: 416, height: 416, "aria-hidden": "true" });
  const element = h("div", { className: "blank" }, canvas, h("h2", {}, title), h("p", {}, text), more);
  const tiles = new Tiles(() => {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    tiles.paint(context, { x: 0, y: 0, width: canvas.width, height: canvas.height }, palette(canvas));
  });
  return {
    element,
    show(visible) {
      element.hidden = !visible;
      if (visible && tiles.empty) tiles.begin(wholeLayout(GRID), null, true);
      else if (!visible) tiles.clear();
    },
  };
}
