// The canvas of the editor: the image, what lies over it, and the tiles while it is drawn, at any zoom.

import { h } from "../base/dom.js";
import { Tiles, palette, tile } from "../stage/tiles.js";
import { Viewport } from "./viewport.js";

const MASK_COLOR = "#e0218a"; // one that hardly any image has

export class Easel {
  viewport = new Viewport();
  canvas = h("canvas", { className: "easel-canvas", tabIndex: 0 });
  element = h("div", { className: "easel" }, this.canvas);

  /** What is painted; see `set`. */
  scene = {
    image: null,
    mask: null,
    stroke: null,
    region: null,
    loss: null,
    grid: null,
    tiles: false,
    cursor: null,
    block: null,
  };
  tiles = new Tiles(() => this.paint());
  #area = { left: 0, top: 0, right: 1, bottom: 1 };
  #margin = { left: 20, top: 20, right: 20, bottom: 20 };
  #asked = 0;

  constructor() {
    new ResizeObserver(() => this.#resize()).observe(this.element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
  }

  /** The part of the plane that is shown: the image with what it is to grow by, in pixels of the image. */
  set area(area) {
    const same = Object.keys(area).every((side) => area[side] === this.#area[side]);
    if (same) return;
    this.#area = area;
    if (this.viewport.fitted) this.fit();
    this.paint();
  }

  /** Room at the sides in CSS pixels, so that tools and handles cover nothing: {left, top, right, bottom}. */
  set margin(margin) {
    if (JSON.stringify(margin) === JSON.stringify(this.#margin)) return;
    this.#margin = margin;
    if (this.viewport.fitted) this.fit();
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.element;
    this.viewport.fit(this.#area, { width, height }, this.#margin);
    this.paint();
  }

  /**
   * Change what is painted:
   *
   * image {bitmap, area}; mask a canvas over the source; stroke what is being painted; region {layout, bits, area}; loss
   * values for its tokens; grid {layout, area}; tiles whether they are shown; cursor {x, y, radius}; block a rectangle.
   */
  set(changes) {
    Object.assign(this.scene, changes);
    this.paint();
  }

  /** Paint once, before the next frame. */
  paint() {
    this.#asked ||= requestAnimationFrame(() => {
      this.#asked = 0;
      this.#paint();
      this.onpaint?.();
    });
  }

  #resize() {
    const ratio = Math.min(devicePixelRatio, 2);
    const { clientWidth: width, clientHeight: height } = this.element;
    Object.assign(this.canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    if (this.viewport.fitted && width) this.fit();
    this.paint();
  }

  #rectangle({ left, top, right, bottom }) {
    const { x, y } = this.viewport.toScreen(left, top);
    return { x, y, width: (right - left) * this.viewport.scale, height: (bottom - top) * this.viewport.scale };
  }

  #paint() {
    const { canvas, scene } = this;
    const context = canvas.getContext("2d");
    const ratio = canvas.width / Math.max(1, this.element.clientWidth);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!scene.image || canvas.width === 0 || canvas.height === 0) return;
    const colors = palette(canvas);
    this.#paintGround(context, colors);
    const place = this.#rectangle(scene.image.area);
    context.imageSmoothingEnabled = this.viewport.scale < 6; // close up, pixels are what one wants to see
    context.imageSmoothingQuality = "high";
    context.drawImage(scene.image.bitmap, place.x, place.y, place.width, place.height);
    if (scene.tiles) this.tiles.paint(context, this.#rectangle(scene.tiles), colors);
    if (scene.region) this.#paintRegion(context, colors);
    if (scene.mask) this.#paintMask(context);
    if (scene.grid && this.viewport.scale * scene.grid.pixels > 5) this.#paintGrid(context);
    this.#paintCursor(context);
  }

  /** The plane below the image, which shows where it grows. */
  #paintGround(context, colors) {
    const { x, y, width, height } = this.#rectangle(this.#area);
    context.fillStyle = colors.grout;
    context.fillRect(x, y, width, height);
  }

  #paintRegion(context, colors) {
    const { layout, bits, area } = this.scene.region;
    const { loss } = this.scene;
    const place = this.#rectangle(area);
    const largest = loss ? Math.max(...loss) : 0;
    const [w, h] = [layout.dx * place.width, layout.dy * place.height];
    context.save();
    context.beginPath();
    context.rect(place.x, place.y, place.width, place.height);
    context.clip();
    for (let index = 0; index < bits.length; index++) {
      const column = index % layout.columns;
      const row = (index - column) / layout.columns;
      const left = place.x + (layout.x + column * layout.dx) * place.width;
      const top = place.y + (layout.y + row * layout.dy) * place.height;
      if (bits[index]) {
        tile(context, left, top, w, h, 0.9);
        context.globalAlpha = 0.55;
        context.fillStyle = colors.gold;
        context.fill();
        context.globalAlpha = 1;
        context.lineWidth = 3;
        context.strokeStyle = "#0006"; // dark around light shows on any image
        context.stroke();
        context.lineWidth = 1.5;
        context.strokeStyle = "#fffd";
        context.stroke();
      } else if (largest > 0 && loss[index] > 0.02 * largest) {
        // What the prompt makes a little less likely: it would be next if the slider moved.
        tile(context, left, top, w, h, 0.15 + 0.4 * Math.sqrt(loss[index] / largest));
        context.globalAlpha = 0.6;
        context.fillStyle = colors.gold;
        context.fill();
        context.globalAlpha = 1;
      }
    }
    context.restore();
  }

  /** The mask in a colour, composed at the size of the screen: a large image must not make strokes slow. */
  #paintMask(context) {
    const { mask, stroke } = this.scene;
    const layer = (this.layer ??= new OffscreenCanvas(1, 1));
    const { width, height } = this.canvas;
    if (layer.width !== width || layer.height !== height) Object.assign(layer, { width, height });
    const painter = layer.getContext("2d");
    painter.setTransform(1, 0, 0, 1, 0, 0);
    painter.globalCompositeOperation = "source-over";
    painter.clearRect(0, 0, width, height);
    const ratio = width / Math.max(1, this.element.clientWidth);
    const { scale, x, y } = this.viewport;
    painter.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * x, ratio * y);
    painter.beginPath();
    painter.rect(0, 0, mask.width, mask.height);
    painter.save();
    painter.clip();
    painter.imageSmoothingEnabled = scale < 1;
    painter.drawImage(mask, 0, 0);
    if (stroke) {
      painter.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
      painter.fill(stroke.path, "nonzero");
    }
    painter.globalCompositeOperation = "source-in";
    painter.fillStyle = MASK_COLOR;
    painter.fillRect(0, 0, mask.width, mask.height);
    painter.restore();
    context.globalAlpha = 0.5;
    context.drawImage(layer, 0, 0, width / ratio, height / ratio);
    context.globalAlpha = 1;
  }

  #paintGrid(context) {
    const { layout, area, block } = this.scene.grid;
    const place = this.#rectangle(area);
    context.save();
    context.beginPath();
    context.rect(place.x, place.y, place.width, place.height);
    context.clip();
    const line = (strong, from, to) => {
      context.beginPath();
      context.moveTo(...from);
      context.lineTo(...to);
      context.strokeStyle = strong ? "#ffffff8c" : "#ffffff40";
      context.stroke();
      context.strokeStyle = strong ? "#0000004d" : "#0000001f";
      context.stroke();
    };
    context.lineWidth = 1;
    for (let column = 0; column <= layout.columns; column++) {
      const x = Math.round(place.x + (layout.x + column * layout.dx) * place.width) + 0.5;
      line(column % block === 0, [x, place.y], [x, place.y + place.height]);
    }
    for (let row = 0; row <= layout.rows; row++) {
      const y = Math.round(place.y + (layout.y + row * layout.dy) * place.height) + 0.5;
      line(row % block === 0, [place.x, y], [place.x + place.width, y]);
    }
    context.restore();
  }

  /** The brush's circle, or the block that the keyboard is at. */
  #paintCursor(context) {
    const { cursor, block } = this.scene;
    const outline = () => {
      context.lineWidth = 3;
      context.strokeStyle = "#000a";
      context.stroke();
      context.lineWidth = 1.5;
      context.strokeStyle = "#fff";
      context.stroke();
    };
    if (block) {
      const { x, y, width, height } = this.#rectangle({
        left: block.left,
        top: block.top,
        right: block.left + block.width,
        bottom: block.top + block.height,
      });
      context.beginPath();
      context.rect(x, y, width, height);
      outline();
    }
    if (cursor) {
      const { x, y } = this.viewport.toScreen(cursor.x, cursor.y);
      context.beginPath();
      if (cursor.radius) context.arc(x, y, cursor.radius * this.viewport.scale, 0, 2 * Math.PI);
      else
        context.rect(
          cursor.from.x * this.viewport.scale + this.viewport.x,
          cursor.from.y * this.viewport.scale + this.viewport.y,
          (cursor.x - cursor.from.x) * this.viewport.scale,
          (cursor.y - cursor.from.y) * this.viewport.scale,
        );
      outline();
    }
  }
}
