// One image on the stage: tiles while it is drawn, then the image itself, which fades in over them.

import { h } from "../base/dom.js";
import { Tiles, palette, wholeLayout } from "./tiles.js";

const FADE_MILLISECONDS = 500; // stage.css fades in a little less

export class Frame {
  #canvas = h("canvas", { "aria-hidden": "true" });
  #base = h("img", { className: "frame-base", alt: "", hidden: true });
  #image = h("img", { className: "frame-image", alt: "", hidden: true, draggable: true });
  #observer = new ResizeObserver(() => this.#fit());
  #tiles = new Tiles(() => this.#paint());
  #address = null;

  /** Whether there are tiles, and the newest preview that they show. */
  begun = false;
  shown = null;

  /** `open` is called when the frame is clicked. */
  constructor(open) {
    this.element = h(
      "button",
      { type: "button", className: "frame", onclick: open },
      this.#base,
      this.#canvas,
      this.#image,
    );
    this.#observer.observe(this.element);
  }

  /** Set the shape, and a name for those who do not see it. */
  shape(width, height, label) {
    this.element.style.setProperty("--ratio", width / height);
    this.element.style.setProperty("--most", `${Math.max(width * 2.5, 640)}px`);
    this.element.setAttribute("aria-label", label);
  }

  /** Start with masked tokens only; an edit shows them over the image that it changes. */
  begin(grid, { layout = null, within = null } = {}) {
    this.#image.hidden = true;
    this.#image.classList.remove("in");
    this.#address = null;
    this.begun = true;
    this.#tiles.begin(layout ?? wholeLayout(grid), within);
  }

  /** Put an image below the tiles; `inset` is its place in fractions {left, top, width, height}. */
  base(address, inset = { left: 0, top: 0, width: 1, height: 1 }) {
    this.#base.hidden = !address;
    if (!address) return;
    this.#base.src = address;
    for (const [name, value] of Object.entries(inset)) this.#base.style[name] = `${100 * value}%`;
  }

  preview(preview) {
    performance.mark("preview"); // benchmarks/studio.py measures from a click to this and to "image"
    this.#tiles.show(preview);
  }

  /** Show the finished image. */
  async finish(address, alt) {
    if (this.#address === address) return;
    this.#address = address;
    this.#tiles.settle();
    this.#image.src = address;
    this.#image.alt = alt;
    await this.#image.decode().catch(() => {});
    if (this.#address !== address) return;
    this.#image.hidden = false;
    this.#image.getBoundingClientRect(); // the fade needs a first state
    this.#image.classList.add("in");
    performance.mark("image");
    setTimeout(() => this.#tiles.clear(), FADE_MILLISECONDS);
  }

  remove() {
    this.#observer.disconnect();
    this.#tiles.clear();
    this.element.remove();
  }

  #fit() {
    const { clientWidth: width, clientHeight: height } = this.element;
    const ratio = Math.min(devicePixelRatio, 2);
    Object.assign(this.#canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    this.#paint();
  }

  #paint() {
    const { width, height } = this.#canvas;
    const context = this.#canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    this.#tiles.paint(context, { x: 0, y: 0, width, height }, palette(this.#canvas));
  }
}
