// Painting the mask: brush, eraser and rectangle by pointer, blocks of tokens by keyboard.

import { clamp } from "../base/dom.js";
import { announce } from "../base/notices.js";
import { saved } from "../base/saved.js";
import { blockAt, blockOf } from "./layout.js";
import { gestures } from "./viewport.js";

export const LARGEST_BRUSH = 400;

export class Brush {
  #stroke = null;
  #block = null; // {row, column} of the keyboard
  #space = false;

  /** place() returns {layout, block, size} of the tokens; active() whether the mask can be painted now. */
  constructor(easel, mask, place, active) {
    Object.assign(this, { easel, mask, place, active });
    const { canvas, viewport } = easel;
    gestures(canvas, viewport, {
      pans: (event) => event.button === 1 || this.#space || !active() || saved.form.edit.tool === "hand",
      start: (point) => this.#start(point),
      move: (point) => this.#move(point),
      end: (cancelled) => this.#end(cancelled),
      hover: (point) => this.#hover(point),
      moved: () => easel.paint(),
    });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("keyup", (event) => event.key === " " && (this.#space = false));
    canvas.addEventListener("blur", () => ((this.#space = false), easel.set({ block: null })));
  }

  /** Mark or erase a rectangle in pixels of the image; with snapping, every block that it touches. */
  rectangle(left, top, width, height, erase) {
    const box = saved.form.edit.snap
      ? this.#snapped(left, top, left + width, top + height)
      : { left, top, width, height };
    this.mask.rectangle(box.left, box.top, box.width, box.height, erase);
  }

  #start(point) {
    const { tool, brush } = saved.form.edit;
    const at = this.easel.viewport.toImage(point.x, point.y);
    const erase = tool === "eraser";
    this.#stroke = {
      from: at,
      last: at,
      erase,
      tool,
      radius: brush / 2,
      path: new Path2D(),
      box: { left: at.x, top: at.y, right: at.x, bottom: at.y },
      blocks: new Set(),
    };
    this.#move(point);
  }

  #move(point) {
    const stroke = this.#stroke;
    if (!stroke) return;
    const at = this.easel.viewport.toImage(point.x, point.y);
    if (stroke.tool === "rectangle") {
      this.easel.set({ cursor: { ...at, from: stroke.from } });
      return;
    }
    if (saved.form.edit.snap) this.#addBlocks(stroke, at);
    else this.#addSegment(stroke, at);
    stroke.last = at;
    this.easel.set({ stroke, cursor: { ...at, radius: stroke.radius } });
  }

  #end(cancelled) {
    const stroke = this.#stroke;
    this.#stroke = null;
    this.easel.set({ stroke: null, cursor: null });
    if (!stroke || cancelled) return;
    if (stroke.tool === "rectangle") {
      const [x, y] = [Math.min(stroke.from.x, stroke.last.x), Math.min(stroke.from.y, stroke.last.y)];
      this.rectangle(x, y, Math.abs(stroke.last.x - stroke.from.x), Math.abs(stroke.last.y - stroke.from.y), false);
    } else this.mask.paint(stroke.path, stroke.box, stroke.erase);
  }

  #hover(point) {
    const { tool, brush } = saved.form.edit;
    const shown = point && this.active() && (tool === "brush" || tool === "eraser");
    this.easel.set({ cursor: shown ? { ...this.easel.viewport.toImage(point.x, point.y), radius: brush / 2 } : null });
  }

  /** Add a piece of a round stroke: a capsule from the last point to this one. */
  #addSegment(stroke, at) {
    const { last, radius, path, box } = stroke;
    const angle = Math.atan2(at.y - last.y, at.x - last.x);
    const piece = new Path2D();
    piece.arc(last.x, last.y, radius, angle + Math.PI / 2, angle + (3 * Math.PI) / 2);
    piece.arc(at.x, at.y, radius, angle - Math.PI / 2, angle + Math.PI / 2);
    piece.closePath();
    path.addPath(piece);
    widen(box, at.x - radius, at.y - radius, at.x + radius, at.y + radius);
    widen(box, last.x - radius, last.y - radius, last.x + radius, last.y + radius);
  }

  /** Add the blocks of tokens that the brush's circle touches on its way. */
  #addBlocks(stroke, at) {
    const { layout, block, size } = this.place();
    const { width, height } = blockOf(layout, block, size, 0, 0);
    const reach = Math.max(0, stroke.radius - Math.min(width, height) / 2);
    const length = Math.hypot(at.x - stroke.last.x, at.y - stroke.last.y);
    const steps = Math.max(1, Math.ceil(length / (Math.min(width, height) / 2)));
    for (let step = 0; step <= steps; step++) {
      const x = stroke.last.x + ((at.x - stroke.last.x) * step) / steps;
      const y = stroke.last.y + ((at.y - stroke.last.y) * step) / steps;
      const first = blockAt(layout, block, size, x - reach, y - reach);
      const end = blockAt(layout, block, size, x + reach, y + reach);
      for (let row = first.row; row <= end.row; row++) {
        for (let column = first.column; column <= end.column; column++)
          this.#addBlock(stroke, blockOf(layout, block, size, row, column));
      }
    }
  }

  #addBlock(stroke, { row, column, left, top, width, height }) {
    const name = `${row},${column}`;
    if (stroke.blocks.has(name)) return;
    stroke.blocks.add(name);
    const box = wholePixels(left, top, left + width, top + height);
    stroke.path.rect(box.left, box.top, box.width, box.height);
    widen(stroke.box, box.left, box.top, box.left + box.width, box.top + box.height);
  }

  #snapped(left, top, right, bottom) {
    const { layout, block, size } = this.place();
    const first = blockAt(layout, block, size, left, top);
    const last = blockAt(layout, block, size, Math.max(left, right - 0.01), Math.max(top, bottom - 0.01));
    return wholePixels(first.left, first.top, last.left + last.width, last.top + last.height);
  }

  #key(event) {
    if (event.key === " " && !this.active()) this.#space = true;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.key in steps) {
      event.preventDefault();
      if (this.active()) this.#step(...steps[event.key], event.shiftKey);
      else this.easel.viewport.pan(-40 * steps[event.key][1], -40 * steps[event.key][0]);
      this.easel.paint();
    } else if (this.active() && this.#block && (event.key === " " || event.key === "Enter")) {
      event.preventDefault();
      this.#toggle();
    }
  }

  /** Move the keyboard's block, and paint it if `paint` is held. */
  #step(down, across, paint) {
    const { layout, block, size } = this.place();
    const first = blockAt(layout, block, size, 0.01, 0.01);
    const last = blockAt(layout, block, size, size.width - 0.01, size.height - 0.01);
    const from = this.#block ?? { row: first.row - down, column: first.column - across };
    const row = clamp(from.row + down, first.row, last.row);
    const column = clamp(from.column + across, first.column, last.column);
    this.#block = { row, column };
    const place = blockOf(layout, block, size, row, column);
    this.easel.set({ block: place });
    if (paint) this.#paintBlock(place, saved.form.edit.tool === "eraser");
    announce(
      `Row ${row - first.row + 1}, column ${column - first.column + 1}, ${this.#marked(place) ? "marked" : "not marked"}`,
    );
  }

  #toggle() {
    const { layout, block, size } = this.place();
    const place = blockOf(layout, block, size, this.#block.row, this.#block.column);
    this.#paintBlock(place, this.#marked(place));
    announce(this.#marked(place) ? "Marked" : "Not marked");
  }

  #paintBlock({ left, top, width, height }, erase) {
    const box = wholePixels(left, top, left + width, top + height);
    this.mask.rectangle(box.left, box.top, box.width, box.height, erase);
  }

  #marked({ left, top, width, height }) {
    const { width: w, height: h } = this.mask.canvas;
    return this.mask.at(clamp(left + width / 2, 0, w - 1), clamp(top + height / 2, 0, h - 1));
  }
}

/** Return whole pixels whose middle lies in a rectangle, so that neighbouring blocks do not touch each other. */
function wholePixels(left, top, right, bottom) {
  const [x, y] = [Math.round(left), Math.round(top)];
  return { left: x, top: y, width: Math.round(right) - x, height: Math.round(bottom) - y };
}

function widen(box, left, top, right, bottom) {
  Object.assign(box, {
    left: Math.min(box.left, left),
    top: Math.min(box.top, top),
    right: Math.max(box.right, right),
    bottom: Math.max(box.bottom, bottom),
  });
}
