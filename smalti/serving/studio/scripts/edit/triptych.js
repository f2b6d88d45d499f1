// Before, the tokens that change, after: three small pictures that choose what the large one shows.

import { h } from "../base/dom.js";

const SIDE = 64;

/** `choose(name)` is called with "before", "tokens", a number for one of the results, or "compare". */
export class Triptych {
  element = h("div", { className: "triptych", role: "group", "aria-label": "What is shown" });
  #buttons = [];
  #key = "";

  constructor(choose) {
    this.choose = choose;
  }

  /** Show buttons for views, each {name, text, paint(context, side)}; `current` is the one that is shown. */
  show(views, current) {
    this.element.hidden = views.length < 2;
    const key = JSON.stringify(views.map(({ name, text }) => [name, text]));
    if (key !== this.#key) {
      this.#key = key;
      this.#buttons = views.map(({ name, text }) => {
        const canvas = h("canvas", { width: 2 * SIDE, height: 2 * SIDE, "aria-hidden": "true" });
        return {
          name,
          canvas,
          button: h(
            "button",
            { type: "button", className: "panel-button", onclick: () => this.choose(name) },
            canvas,
            text,
          ),
        };
      });
      this.element.replaceChildren(...this.#buttons.map(({ button }) => button));
    }
    views.forEach(({ paint }, index) => {
      const context = this.#buttons[index].canvas.getContext("2d");
      context.clearRect(0, 0, 2 * SIDE, 2 * SIDE);
      paint(context, 2 * SIDE);
    });
    for (const { name, button } of this.#buttons) button.setAttribute("aria-pressed", String(name === current));
  }
}

/** Paint an image whole into a square. */
export function paintWhole(context, side, bitmap) {
  if (!bitmap) return { x: 0, y: 0, width: side, height: side };
  const scale = Math.min(side / bitmap.width, side / bitmap.height);
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  const place = { x: (side - width) / 2, y: (side - height) / 2, width, height };
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, place.x, place.y, width, height);
  return place;
}
