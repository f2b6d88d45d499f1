// Keys, and the list that `?` shows. What is listed is what works: both come from one table.

import { $, h, icon, takesText } from "./base/dom.js";
import { view } from "./base/views.js";

/**
 * Connect keys. `groups` is a list of [title, [[keys, text, run, view?], …], view?]; keys are texts like "Ctrl+Enter",
 * and `run` may be null where a part of the page listens for itself.
 */
export function buildKeys(groups) {
  const table = groups.flatMap(([, entries, where]) => entries.map(([keys, , run]) => ({ keys, run, where })));
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || $("dialog[open]")) return;
    const pressed = nameOf(event);
    // Sliders and choices have their own use for arrows.
    if (event.target.matches("input, select, [role=slider]") && pressed.includes("Arrow")) return;
    const typing = takesText(event.target) && !pressed.includes("Ctrl+");
    for (const { keys, run, where } of table) {
      if (!run || (where && where !== view()) || !keys.includes(pressed)) continue;
      if (typing) continue;
      // Typed text has an undo of its own.
      if (takesText(event.target) && /^(Shift\+)?Ctrl\+(Shift\+)?[zy]$/i.test(pressed)) continue;
      if (run(event) !== false) event.preventDefault();
      return;
    }
  });
  const show = () => showKeys(groups);
  $("#show-keys").addEventListener("click", show);
  return show;
}

/** Return a key as the table names it. */
function nameOf(event) {
  const letter = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const ctrl = event.ctrlKey || event.metaKey ? "Ctrl+" : "";
  // Shift is part of what a sign such as ? is.
  const shift = event.shiftKey && (event.key.length > 1 || /[a-z]/.test(letter)) ? "Shift+" : "";
  return event.altKey ? "" : `${ctrl}${shift}${letter === " " ? "Space" : letter}`;
}

const SIGNS = { ArrowLeft: "←", ArrowRight: "→", Enter: "↵", Escape: "Esc" };

function showKeys(groups) {
  const dialog = $("#keys-dialog");
  const part = (name) => SIGNS[name] ?? (name.length === 1 ? name.toUpperCase() : name);
  const sign = (key) => (key.length === 1 ? part(key) : key.split("+").map(part).join(" "));
  const list = groups.flatMap(([title, entries]) => [
    h("h3", {}, title),
    ...entries.map(([keys, text]) => h("div", {}, h("span", {}, text), h("span", {}, h("kbd", {}, sign(keys[0]))))),
  ]);
  dialog.replaceChildren(
    h(
      "div",
      { className: "rail-head" },
      h("h2", { id: "keys-title" }, "Keyboard"),
      h(
        "button",
        { type: "button", className: "icon-button", "aria-label": "Close", onclick: () => dialog.close() },
        icon("close"),
      ),
    ),
    h("div", { className: "keys-list" }, list),
  );
  dialog.showModal();
}
