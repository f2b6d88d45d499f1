// What is to change: one value a pixel, apart from the image, with undo and redo.
//
// The mask is the alpha channel of a canvas as large as the image. Each change keeps what was below it, and only there,
// so that a long history of strokes on a large image takes little memory.

import { Emitter } from "../base/emitter.js";
import { debounce } from "../base/dom.js";
import { keep, recall } from "../base/kept.js";

const KEY = "mask";
const MOST_CHANGES = 100;
const KEEP_MILLISECONDS = 400;

/** Events: "paint" (it looks different), "change" (a change is complete). */
export class Mask extends Emitter {
  canvas = new OffscreenCanvas(1, 1);
  #context = this.canvas.getContext("2d", { willReadFrequently: true });
  #undo = [];
  #redo = [];
  #marked = 0;
  #keep = debounce(() => this.#save(), KEEP_MILLISECONDS);

  get empty() {
    return this.#marked === 0;
  }

  get full() {
    return this.#marked === this.canvas.width * this.canvas.height;
  }

  get canUndo() {
    return this.#undo.length > 0;
  }

  get canRedo() {
    return this.#redo.length > 0;
  }

  /** Fit the mask to an image; a mask of the same size stays. */
  fit(width, height) {
    if (this.canvas.width === width && this.canvas.height === height) return;
    Object.assign(this.canvas, { width, height });
    this.#undo = [];
    this.#redo = [];
    this.#marked = 0;
    this.emit("paint");
    this.emit("change");
  }

  /** Mark or erase what `path` fills: a Path2D within `box`, {left, top, right, bottom} in pixels. */
  paint(path, box, erase) {
    this.#change(box, (context) => {
      context.globalCompositeOperation = erase ? "destination-out" : "source-over";
      context.fill(path, "nonzero");
    });
  }

  rectangle(left, top, width, height, erase) {
    const path = new Path2D();
    path.rect(left, top, width, height);
    this.paint(path, { left, top, right: left + width, bottom: top + height }, erase);
  }

  clear() {
    this.#change(this.#everything(), (context) => context.clearRect(0, 0, this.canvas.width, this.canvas.height));
  }

  invert() {
    this.#change(this.#everything(), (context) => {
      context.globalCompositeOperation = "xor";
      context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    });
  }

  /** Take the mask of an image file: transparent pixels are marked if there are some, else light ones. */
  async load(blob) {
    const bitmap = await createImageBitmap(blob);
    const { width, height } = this.canvas;
    const copy = new OffscreenCanvas(width, height).getContext("2d");
    copy.drawImage(bitmap, 0, 0, width, height);
    const image = copy.getImageData(0, 0, width, height);
    const { data } = image;
    let [least, most] = [255, 0];
    for (let at = 3; at < data.length; at += 4) {
      least = Math.min(least, data[at]);
      most = Math.max(most, data[at]);
    }
    const byAlpha = least < most;
    for (let at = 0; at < data.length; at += 4) {
      const light = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
      data[at + 3] = (byAlpha ? data[at + 3] < 128 : light >= 128) ? 255 : 0;
    }
    this.#change(this.#everything(), (context) => context.putImageData(image, 0, 0));
    return { resized: bitmap.width !== width || bitmap.height !== height };
  }

  /** Return the mask as the server wants it: a PNG of the image's size, white where it is to change. */
  toBlob() {
    const { width, height } = this.canvas;
    const copy = new OffscreenCanvas(width, height);
    const context = copy.getContext("2d");
    context.drawImage(this.canvas, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    return copy.convertToBlob({ type: "image/png" });
  }

  /** Whether a pixel is marked. */
  at(x, y) {
    return this.#context.getImageData(Math.floor(x), Math.floor(y), 1, 1).data[3] >= 128;
  }

  undo() {
    this.#swap(this.#undo, this.#redo);
  }

  redo() {
    this.#swap(this.#redo, this.#undo);
  }

  /** Take the mask that was there before a reload, if it fits the image. */
  async restore() {
    const kept = await recall(KEY);
    if (!kept || kept.width !== this.canvas.width || kept.height !== this.canvas.height) return;
    const bitmap = await createImageBitmap(kept.blob).catch(() => null);
    if (!bitmap) return;
    this.#context.clearRect(0, 0, kept.width, kept.height);
    this.#context.drawImage(bitmap, 0, 0);
    this.#marked = this.#count(this.#everything());
    this.emit("paint");
    this.emit("change");
  }

  async #save() {
    const { width, height } = this.canvas;
    keep(KEY, { width, height, blob: await this.canvas.convertToBlob({ type: "image/png" }) });
  }

  #everything() {
    return { left: 0, top: 0, right: this.canvas.width, bottom: this.canvas.height };
  }

  #change(box, work) {
    const area = this.#clip(box);
    if (!area) return;
    const before = this.#read(area);
    const marked = this.#count(area);
    this.#context.save();
    this.#context.fillStyle = "#fff";
    work(this.#context);
    this.#context.restore();
    this.#marked += this.#count(area) - marked;
    this.#undo.push({ area, alpha: before });
    if (this.#undo.length > MOST_CHANGES) this.#undo.shift();
    this.#redo = [];
    this.#changed();
  }

  /** Put back what a change covered, and keep what it showed for the way back. */
  #swap(from, to) {
    const change = from.pop();
    if (!change) return;
    const marked = this.#count(change.area);
    to.push({ area: change.area, alpha: this.#read(change.area) });
    this.#write(change);
    this.#marked += this.#count(change.area) - marked;
    this.#changed();
  }

  #changed() {
    this.emit("paint");
    this.emit("change");
    this.#keep();
  }

  #clip({ left, top, right, bottom }) {
    const x = Math.max(0, Math.floor(left) - 1);
    const y = Math.max(0, Math.floor(top) - 1);
    const width = Math.min(this.canvas.width, Math.ceil(right) + 1) - x;
    const height = Math.min(this.canvas.height, Math.ceil(bottom) + 1) - y;
    return width > 0 && height > 0 ? { left: x, top: y, right: x + width, bottom: y + height } : null;
  }

  #pixels({ left, top, right, bottom }) {
    return this.#context.getImageData(left, top, right - left, bottom - top);
  }

  #read(area) {
    const { data } = this.#pixels(area);
    return Uint8Array.from({ length: data.length / 4 }, (_, index) => data[4 * index + 3]);
  }

  #write({ area, alpha }) {
    const image = new ImageData(area.right - area.left, area.bottom - area.top);
    image.data.fill(255);
    alpha.forEach((value, index) => (image.data[4 * index + 3] = value));
    this.#context.putImageData(image, area.left, area.top);
  }

  #count(area) {
    const { data } = this.#pixels(area);
    let marked = 0;
    for (let at = 3; at < data.length; at += 4) marked += data[at] >= 128;
    return marked;
  }
}
