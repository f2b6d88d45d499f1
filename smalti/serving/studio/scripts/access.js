// A server with keys: the person gives theirs once, and it stays in this tab's sessionStorage.

import { $, h } from "./base/dom.js";
import { onKeyNeeded } from "./server/api.js";

export function askForKeys() {
  onKeyNeeded(
    (refused) =>
      new Promise((resolve) => {
        const dialog = $("#access-dialog");
        const input = h("input", {
          id: "access-key",
          type: "password",
          autocomplete: "off",
          required: true,
          "aria-describedby": "access-hint",
        });
        const form = h(
          "form",
          {
            method: "dialog",
            onsubmit: (event) => {
              event.preventDefault();
              if (!input.value.trim()) return;
              dialog.close();
              resolve(input.value.trim());
            },
          },
          h("h2", { id: "access-title" }, "This server needs a key"),
          h("div", { className: "field" }, h("label", { htmlFor: "access-key" }, "Key"), input),
          h(
            "p",
            { className: "hint", id: "access-hint" },
            refused || "It stays in this tab and is forgotten when the tab is closed.",
          ),
          h("div", { className: "dialog-end" }, h("button", { className: "button primary" }, "Continue")),
        );
        dialog.replaceChildren(form);
        dialog.addEventListener("cancel", (event) => event.preventDefault()); // there is nothing to see without a key
        dialog.showModal();
      }),
  );
}
