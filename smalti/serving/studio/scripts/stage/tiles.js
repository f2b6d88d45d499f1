// The mosaic: one tile for each token of an image in progress.
//
// A masked token is a small dot in the colour of its current candidate. Once it is filled it grows to a whole tile. A
// token that the model revised gets a gold rim for a moment. Everything is painted by hand, so that one canvas can hold
// thousands of tiles and the same tiles can lie over an image that is zoomed.

import { calm } from "../base/dom.js";

const GROW_MILLISECONDS = 260;
const RIM_MILLISECONDS = 700;
const FRAME_MILLISECONDS = 1000 / 24; // the server needs the cores more than a smoother growth does
const WAVE_MILLISECONDS = 1000 / 12; // waiting must not take time from the drawing
const DOT = 0.36;
const GAP = 0.05;

/** Return where tokens lie on an image, in fractions of its sides, when the image fills its canvas. */
export const wholeLayout = ([rows, columns]) => ({ rows, columns, x: 0, y: 0, dx: 1 / columns, dy: 1 / rows });

/** Return where tokens lie on an image that has a place on a larger canvas, as a region of the server says. */
export function regionLayout({ grid: [rows, columns], canvas, place: [top, left, height, width] }) {
  return {
    rows,
    columns,
    x: -left / width,
    y: -top / height,
    dx: canvas[1] / columns / width,
    dy: canvas[0] / rows / height,
  };
}

/** Return a region's rows of 0 and 1 as one array. */
export const regionBits = (region) => Uint8Array.from(region.rows.join(""), Number);

export class Tiles {
  #layout = null;
  #within = null;
  #from = null;
  #to = null;
  #started = 0;
  #rims = null;
  #restAt = 0; // when nothing moves any more
  #frame = 0;
  #painted = 0;
  #waiting = false;

  /** `repaint` is called whenever the tiles look different. */
  constructor(repaint) {
    this.repaint = repaint;
  }

  get empty() {
    return this.#layout === null;
  }

  /**
   * Start again: every token is masked and nothing is known of it.
   *
   * `within` limits the tiles to some tokens; `still` keeps them from moving while nothing happens.
   */
  begin(layout, within = null, still = false) {
    const count = layout.rows * layout.columns;
    this.#layout = layout;
    this.#within = within;
    this.#from = this.#to = { fill: new Float32Array(count), colors: null };
    this.#rims = new Float64Array(count).fill(-Infinity);
    this.#waiting = !still;
    this.#animate();
  }

  /** Show colours of a step: {grid, colors, known, edited}. */
  show({ colors, known, edited }) {
    const now = performance.now();
    this.#waiting = false;
    this.#move({ fill: Float32Array.from(known), colors: Float32Array.from(colors) }, now);
    edited.forEach((bit, index) => bit && (this.#rims[index] = now));
    if (edited.includes(1)) this.#restAt = now + RIM_MILLISECONDS;
    this.#animate();
  }

  /** Fill what is still masked: the image is about to replace the tiles. */
  settle() {
    if (this.empty || this.#to.colors === null) return;
    this.#waiting = false;
    this.#move({ fill: new Float32Array(this.#to.fill.length).fill(1), colors: this.#to.colors }, performance.now());
    this.#animate();
  }

  clear() {
    cancelAnimationFrame(this.#frame);
    this.#layout = null;
  }

  #move(target, now) {
    this.#from = this.#between(now);
    if (this.#from.colors === null) this.#from.colors = target.colors;
    this.#to = target;
    this.#restAt = Math.max(this.#restAt, now + GROW_MILLISECONDS);
    this.#started = calm() ? -Infinity : now;
  }

  #progress(now) {
    const t = Math.min(1, (now - this.#started) / GROW_MILLISECONDS);
    return 1 - (1 - t) ** 3;
  }

  /** Return fills and colours at a moment between the last step and the present one. */
  #between(now) {
    const t = this.#progress(now);
    if (t >= 1 || this.#from.colors === null) return { ...this.#to };
    const mix = (a, b) => a.map((value, index) => value + (b[index] - value) * t);
    return { fill: mix(this.#from.fill, this.#to.fill), colors: mix(this.#from.colors, this.#to.colors) };
  }

  #animate() {
    cancelAnimationFrame(this.#frame);
    const tick = (now) => {
      if (this.empty) return;
      if (now - this.#painted >= (this.#waiting ? WAVE_MILLISECONDS : FRAME_MILLISECONDS)) {
        this.#painted = now;
        this.repaint();
      }
      const moving = this.#waiting ? !calm() : now < this.#restAt;
      if (moving) this.#frame = requestAnimationFrame(tick);
      else this.repaint();
    };
    this.#frame = requestAnimationFrame(tick);
  }

  /**
   * Paint the tiles over a rectangle of a canvas that stands for the whole image.
   *
   * palette: {grout, dot, gold} as CSS colours.
   */
  paint(context, { x, y, width, height }, palette) {
    if (this.empty) return;
    const now = performance.now();
    const { rows, columns } = this.#layout;
    const { fill, colors } = this.#between(now);
    const [w, h] = [this.#layout.dx * width, this.#layout.dy * height];
    context.save();
    context.beginPath();
    context.rect(x, y, width, height);
    context.clip();
    const moves = this.#waiting && !calm();
    context.fillStyle = palette.grout;
    if (!this.#within) context.fillRect(x, y, width, height);
    for (let index = 0; index < rows * columns; index++) {
      if (this.#within && !this.#within[index]) continue;
      const column = index % columns;
      const row = (index - column) / columns;
      const left = x + (this.#layout.x + column * this.#layout.dx) * width;
      const top = y + (this.#layout.y + row * this.#layout.dy) * height;
      if (this.#within) {
        context.fillStyle = palette.grout;
        context.fillRect(left - 0.5, top - 0.5, w + 1, h + 1);
      }
      const wave = moves ? 0.5 + 0.5 * Math.sin(now / 420 - (row + column) * 0.55) : 0.5;
      context.globalAlpha = colors === null ? 0.35 + 0.4 * wave : 0.55 + 0.45 * fill[index];
      const base = 3 * index;
      context.fillStyle = colors ? `rgb(${colors[base]} ${colors[base + 1]} ${colors[base + 2]})` : palette.dot;
      const size = DOT + (1 - GAP - DOT) * fill[index];
      tile(context, left, top, w, h, size);
      context.fill();
      context.globalAlpha = 1;
      const age = (now - this.#rims[index]) / RIM_MILLISECONDS;
      if (age < 1) {
        context.globalAlpha = 1 - age;
        context.strokeStyle = palette.gold;
        context.lineWidth = Math.max(1.5, w * 0.1);
        context.stroke();
        context.globalAlpha = 1;
      }
    }
    context.restore();
  }
}

/** Begin the path of a tile that fills a share `size` of its place. */
export function tile(context, left, top, width, height, size) {
  const [w, h] = [width * size, height * size];
  context.beginPath();
  const [x, y] = [left + (width - w) / 2, top + (height - h) / 2];
  if (w < 5) context.rect(x, y, w, h);
  else context.roundRect(x, y, w, h, Math.min(w, h) * 0.16);
}

/** Return the colours that tiles need, as the style sheet has them. */
export function palette(element) {
  const style = getComputedStyle(element);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    grout: read("--grout"),
    dot: read("--dot"),
    gold: read("--gold"),
    accent: read("--accent"),
    ink: read("--ink"),
  };
}
