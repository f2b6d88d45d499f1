// The sides of the image, which are dragged outwards to extend it. Each is a slider for the keyboard as well.

import { clamp, h } from "../base/dom.js";
import { saved } from "../base/saved.js";

const SIDES = ["left", "top", "right", "bottom"];
const MOST = 4096;

/** Return {element, place()}: handles over the easel, which move with it. */
export function makeHandles(easel, source, unit) {
  const handles = SIDES.map((side, index) => makeHandle(side, index));
  const element = h("div", { className: "handles" }, handles);

  function makeHandle(side, index) {
    const handle = h("div", {
      className: `handle handle-${side}`,
      role: "slider",
      tabIndex: 0,
      "aria-label": `Pixels to add at the ${side}`,
      "aria-valuemin": 0,
      "aria-valuemax": MOST,
      "aria-orientation": index % 2 ? "vertical" : "horizontal",
    });
    const outwards = index < 2 ? -1 : 1;
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      event.stopPropagation();
      handle.focus();
      handle.setPointerCapture(event.pointerId);
      const start = {
        at: index % 2 ? event.clientY : event.clientX,
        grow: saved.form.edit.grow[index],
        scale: easel.viewport.scale,
      };
      const move = (moved) => {
        const distance = ((index % 2 ? moved.clientY : moved.clientX) - start.at) / start.scale;
        set(index, start.grow + outwards * distance, !moved.altKey);
      };
      const end = () => {
        handle.removeEventListener("pointermove", move);
        if (easel.viewport.fitted) easel.fit();
      };
      handle.addEventListener("pointermove", move);
      handle.addEventListener("pointerup", end, { once: true });
      handle.addEventListener("pointercancel", end, { once: true });
    });
    handle.addEventListener("keydown", (event) => {
      const far = event.shiftKey ? 1 : unit();
      const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
      const grow = saved.form.edit.grow[index];
      if (event.key in steps) set(index, grow + outwards * steps[event.key] * far, false);
      else if (event.key === "Home") set(index, 0, false);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    return handle;
  }

  /** Set a side; with snapping in whole blocks of tokens, which fill most cheaply. */
  function set(index, pixels, snap) {
    const step = snap ? unit() : 1;
    const grow = [...saved.form.edit.grow];
    grow[index] = clamp(Math.round(pixels / step) * step, 0, MOST);
    saved.setEdit({ grow });
  }

  return {
    element,
    place() {
      const { grow } = saved.form.edit;
      const { viewport } = easel;
      const from = viewport.toScreen(-grow[0], -grow[1]);
      const to = viewport.toScreen(source.width + grow[2], source.height + grow[3]);
      const ends = [from.x, from.y, to.x, to.y];
      handles.forEach((handle, index) => {
        handle.setAttribute("aria-valuenow", String(grow[index]));
        handle.setAttribute("aria-valuetext", `${grow[index]} pixels`);
        const along = index % 2 ? (from.x + to.x) / 2 : (from.y + to.y) / 2;
        handle.style.left = `${index % 2 ? along : ends[index]}px`;
        handle.style.top = `${index % 2 ? ends[index] : along}px`;
      });
    },
  };
}
