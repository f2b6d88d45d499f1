// Files that are dropped, pasted or opened anywhere. An image of Smalti's says how it was made; nothing in the form
// changes before the person says so.

import { $, h } from "./base/dom.js";
import { readMaking } from "./base/metadata.js";
import { notice, problem } from "./base/notices.js";

const TYPES = ["image/png", "image/jpeg", "image/webp"];

/** use(making) fills the form; edit(blob, name, making) opens an image in the editor. */
export function buildDrop(use, edit) {
  const offer = (file) => offerFile(file, use, edit).catch(problem);
  const veil = $("#drop-veil");
  let inside = 0;
  const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => carriesFile(event) && (inside++, (veil.hidden = false)));
  addEventListener("dragleave", (event) => carriesFile(event) && (veil.hidden = --inside <= 0));
  addEventListener("dragover", (event) => carriesFile(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    inside = 0;
    veil.hidden = true;
    if (!carriesFile(event)) return;
    event.preventDefault();
    offer(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => TYPES.includes(type));
    if (!file) return;
    event.preventDefault();
    offer(file);
  });
  return offer;
}

async function offerFile(file, use, edit) {
  if (!file) return;
  if (!TYPES.includes(file.type)) {
    notice(`${file.name || "The file"} is not a PNG, JPEG or WebP image`, { kind: "error" });
    return;
  }
  const making = await readMaking(file);
  const dialog = $("#file-dialog");
  const address = URL.createObjectURL(file);
  const choose = (run) => () => (dialog.close(), run());
  const facts = making && [
    ["Prompt", making.prompt],
    ["Seed", making.seed],
    ["Model", making.model],
    ["Steps", making.settings.num_inference_steps],
    ["Guidance", making.settings.guidance_scale],
  ];
  const rows = facts?.filter(([, value]) => value !== "" && value !== undefined) ?? [];
  dialog.replaceChildren(
    h("h2", { id: "file-title" }, file.name || "Image"),
    h(
      "div",
      { className: "dropped" },
      h("img", { src: address, alt: "The dropped image" }),
      making
        ? h(
            "dl",
            { className: "facts" },
            rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]),
          )
        : h("p", { className: "muted" }, "The file does not say how it was made. It can be edited all the same."),
    ),
    h(
      "div",
      { className: "dialog-end" },
      h("button", { type: "button", className: "button quiet", onclick: () => dialog.close() }, "Cancel"),
      h(
        "button",
        {
          type: "button",
          className: `button${making ? "" : " primary"}`,
          autofocus: !making,
          onclick: choose(() => edit(file, file.name, making)),
        },
        "Edit this image",
      ),
      making &&
        h(
          "button",
          { type: "button", className: "button primary", autofocus: true, onclick: choose(() => use(making)) },
          "Use its settings",
        ),
    ),
  );
  dialog.addEventListener("close", () => URL.revokeObjectURL(address), { once: true });
  dialog.showModal();
}
