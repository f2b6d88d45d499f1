// Two images under a slider. The slider is a range input, so that keys and screen readers work it as well.

import { clamp, h } from "../base/dom.js";

export class Compare {
  #left = h("img", { className: "compare-image", draggable: false });
  #right = h("img", { className: "compare-image compare-over", draggable: false });
  #names = [h("figcaption", { className: "compare-name left" }), h("figcaption", { className: "compare-name right" })];
  #range = h("input", {
    type: "range",
    min: 0,
    max: 100,
    step: 1,
    value: 50,
    className: "compare-range",
    oninput: () => this.#move(Number(this.#range.value)),
  });
  #handle = h("span", { className: "compare-handle", "aria-hidden": "true" });

  constructor() {
    this.element = h(
      "figure",
      { className: "compare" },
      this.#left,
      this.#right,
      this.#handle,
      ...this.#names,
      this.#range,
    );
    this.element.addEventListener("pointerdown", (event) => this.#drag(event));
    this.#move(50);
  }

  /** Show two images: each {address, name}; `ratio` is width / height. */
  show(left, right, ratio) {
    Object.assign(this.#left, { src: left.address, alt: left.name });
    Object.assign(this.#right, { src: right.address, alt: right.name });
    this.#names[0].textContent = left.name;
    this.#names[1].textContent = right.name;
    this.#range.setAttribute("aria-label", `Compare: left of the slider ${left.name}, right of it ${right.name}`);
    this.element.style.setProperty("--ratio", ratio);
  }

  focus() {
    this.#range.focus();
  }

  #drag(event) {
    event.preventDefault();
    this.#range.focus({ preventScroll: true });
    this.element.setPointerCapture(event.pointerId);
    const follow = (moved) => {
      const box = this.element.getBoundingClientRect();
      this.#move(clamp((100 * (moved.clientX - box.left)) / box.width, 0, 100));
    };
    follow(event);
    this.element.addEventListener("pointermove", follow);
    const end = () => this.element.removeEventListener("pointermove", follow);
    this.element.addEventListener("pointerup", end, { once: true });
    this.element.addEventListener("pointercancel", end, { once: true });
  }

  #move(percent) {
    this.#range.value = percent;
    this.#range.setAttribute("aria-valuetext", `${Math.round(percent)} percent`);
    this.element.style.setProperty("--split", `${percent}%`);
  }
}
