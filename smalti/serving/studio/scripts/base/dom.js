// Elements without a framework. Text only ever goes through textContent, so nothing that a person typed becomes markup.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

const SVG = "http://www.w3.org/2000/svg";

/** Return an element: attributes by name, `on` followed by an event's name for listeners, then children. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    const property = key in element && key !== "list";
    if (value === null || value === undefined || (value === false && !property)) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (property) element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Return an icon of index.html. It is decoration: the button around it has a name of its own. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Return a function that runs `work` once, `milliseconds` after its last call. */
export function debounce(work, milliseconds) {
  let timer = 0;
  const later = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), milliseconds);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** Whether the person asked the system for less motion. */
export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Whether an event's target takes typed text, so that single letters are not commands. */
export const takesText = (target) =>
  target instanceof HTMLElement &&
  (target.isContentEditable ||
    target.matches("textarea, select, input:not([type=range], [type=checkbox], [type=radio])"));

/** Replace what an element holds only where it differs, so that screen readers and focus are left alone. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
