// From pixels of the image to the screen: a scale and a shift, changed by wheel, buttons and two fingers.

import { clamp } from "../base/dom.js";

const MOST = 40; // CSS pixels for one pixel of the image

export class Viewport {
  scale = 1;
  x = 0;
  y = 0;
  fitted = true;
  #box = { width: 1, height: 1 };
  #area = { left: 0, top: 0, right: 1, bottom: 1 };

  /** Show an area of the image, {left, top, right, bottom}, in a box of CSS pixels, less margins at the four sides. */
  fit(area, box, margin) {
    this.#box = box;
    this.#area = area;
    const [width, height] = [area.right - area.left, area.bottom - area.top];
    const across = box.width - margin.left - margin.right;
    const down = box.height - margin.top - margin.bottom;
    this.scale = Math.max(0.01, Math.min(across / width, down / height));
    this.x = margin.left + (across - width * this.scale) / 2 - area.left * this.scale;
    this.y = margin.top + (down - height * this.scale) / 2 - area.top * this.scale;
    this.fitted = true;
  }

  /** Zoom by a factor; the point of the image below (x, y) stays where it is. */
  zoom(factor, x = this.#box.width / 2, y = this.#box.height / 2) {
    const scale = clamp(this.scale * factor, 0.05, MOST);
    const image = this.toImage(x, y);
    this.scale = scale;
    this.x = x - image.x * scale;
    this.y = y - image.y * scale;
    this.#settle();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.#settle();
  }

  toImage(x, y) {
    return { x: (x - this.x) / this.scale, y: (y - this.y) / this.scale };
  }

  toScreen(x, y) {
    return { x: x * this.scale + this.x, y: y * this.scale + this.y };
  }

  /** Keep some of the image in sight. */
  #settle() {
    const { left, top, right, bottom } = this.#area;
    const [width, height] = [this.#box.width, this.#box.height];
    this.x = clamp(this.x, 60 - right * this.scale, width - 60 - left * this.scale);
    this.y = clamp(this.y, 60 - bottom * this.scale, height - 60 - top * this.scale);
    this.fitted = false;
  }
}

/**
 * Turn pointer and wheel events of an element into gestures.
 *
 * handle: {pans(event) whether this pointer moves the image; start(point, event), move(point, event), end(cancelled) of
 * a pointer that does not; moved() after the viewport changed}. A second finger ends the first one's gesture.
 */
export function gestures(element, viewport, handle) {
  const pointers = new Map();
  let drawing = null;
  let last = null;
  const point = (event) => {
    const box = element.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const middle = () => {
    const [a, b = a] = [...pointers.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) };
  };
  element.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    element.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, point(event));
    if (pointers.size === 1 && !handle.pans(event)) {
      drawing = event.pointerId;
      handle.start(point(event), event);
    } else {
      if (drawing !== null) handle.end(true);
      drawing = null;
      last = middle();
    }
  });
  element.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) {
      handle.hover?.(point(event), event);
      return;
    }
    pointers.set(event.pointerId, point(event));
    if (drawing === event.pointerId) {
      // Browsers merge quick movements into one event; a stroke wants them all.
      const every = event.getCoalescedEvents?.() ?? [];
      for (const one of every.length ? every : [event]) handle.move(point(one), event);
    } else if (last && drawing === null) {
      const now = middle();
      viewport.pan(now.x - last.x, now.y - last.y);
      if (pointers.size > 1 && last.apart > 0) viewport.zoom(now.apart / last.apart, now.x, now.y);
      last = now;
      handle.moved();
    }
  });
  const up = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (drawing === event.pointerId) {
      drawing = null;
      handle.end(event.type === "pointercancel");
    }
    last = pointers.size ? middle() : null;
  };
  element.addEventListener("pointerup", up);
  element.addEventListener("pointercancel", up);
  element.addEventListener("pointerleave", () => handle.hover?.(null));
  element.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const { x, y } = point(event);
      if (event.shiftKey) viewport.pan(-event.deltaY - event.deltaX, 0);
      else viewport.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), x, y);
      handle.moved();
    },
    { passive: false },
  );
}
