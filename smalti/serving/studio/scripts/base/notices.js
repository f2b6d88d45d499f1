// What is said to everyone: a live region for those who listen, notices in a corner for those who look.

import { $, h, icon } from "./dom.js";

const SHOWN_MILLISECONDS = 6000;

/** Tell screen readers, without moving the focus. */
export function announce(text) {
  const region = $("#live");
  region.textContent = "";
  // A region whose text is set twice in one frame is read once or not at all.
  setTimeout(() => (region.textContent = text), 30);
}

/**
 * Show a notice.
 *
 * options: `kind` "plain" or "error"; `action` {label, run}; `gone` runs when it disappears without the action.
 */
export function notice(text, { kind = "plain", action = null, gone = null, milliseconds = SHOWN_MILLISECONDS } = {}) {
  const box = h("div", { className: `notice notice-${kind}` }, h("p", {}, text));
  let open = true;
  const close = (acted) => {
    if (!open) return;
    open = false;
    clearTimeout(timer);
    box.classList.add("leaving");
    setTimeout(() => box.remove(), 200);
    if (!acted) gone?.();
  };
  if (action) {
    box.append(
      h(
        "button",
        { type: "button", className: "button quiet", onclick: () => (close(true), action.run()) },
        action.label,
      ),
    );
  }
  box.append(
    h(
      "button",
      { type: "button", className: "icon-button", "aria-label": "Dismiss", onclick: () => close(false) },
      icon("close"),
    ),
  );
  // Errors stay until they are dismissed: they say what to do.
  const timer = setTimeout(() => close(false), kind === "error" ? 30_000 : milliseconds);
  $("#notices").append(box);
  announce(text);
  return { close: () => close(false) };
}

export const problem = (error) => notice(error.message, { kind: "error" });
