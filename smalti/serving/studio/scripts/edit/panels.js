// The part of the form that is the editor's own: the image, and for each way to choose tokens what belongs to it.

import { $, $$, h, icon } from "../base/dom.js";
import { saved } from "../base/saved.js";
import { LARGEST_BRUSH } from "./brush.js";

const HINTS = {
  words: "The tokens that the new words make less likely are filled again. The rest of the image stays.",
  mask: "Paint what is to change. Every token that the mask touches is filled again.",
  extend: "Drag a side of the image outwards. The model fills what is added.",
  vary: "Some tokens, picked at random, are filled again. Little strength stays close to the image.",
};

/** Build the panels. `tools` are {open(), close(), mask, rectangle(left, top, width, height, erase), save(), load(file)}. */
export function buildPanels(source, tools) {
  buildSource(source, tools);
  buildWords();
  buildMask(tools);
  buildExtend();
  buildVary();
  $("#ways").addEventListener("change", ({ target }) => saved.setEdit({ way: target.value }));
  const show = () => {
    const { way } = saved.form.edit;
    for (const input of $$("#ways input")) input.checked = input.value === way;
    for (const part of $$("#panel [data-way]")) part.hidden = part.dataset.way !== way;
    $("#way-hint").textContent = HINTS[way];
    $("#panel").dataset.way = way;
  };
  saved.on("change", show);
  show();
}

/** A slider with its value beside it. */
function slider(name, text, { min, max, step, show = String }) {
  const input = h("input", { type: "range", id: `edit-${name}`, name, min, max, step });
  const output = h("output", { htmlFor: input.id, className: "muted numbers" });
  input.addEventListener("input", () => saved.setEdit({ [name]: Number(input.value) }));
  const update = () => {
    const value = saved.form.edit[name];
    input.value = value;
    output.textContent = show(value);
    input.setAttribute("aria-valuetext", show(value));
  };
  saved.on("change", update);
  update();
  return h(
    "div",
    { className: "field" },
    h("div", { className: "split" }, h("label", { htmlFor: input.id }, text), output),
    input,
  );
}

const percent = (value) => `${Math.round(100 * value)} %`;

function check(name, text) {
  const input = h("input", { type: "checkbox", name, onchange: () => saved.setEdit({ [name]: input.checked }) });
  const update = () => (input.checked = saved.form.edit[name]);
  saved.on("change", update);
  update();
  return h("label", { className: "check" }, input, text);
}

function buildSource(source, tools) {
  const file = $("#source-file");
  file.addEventListener("change", () => {
    if (file.files[0]) tools.open(file.files[0]);
    file.value = "";
  });
  const choose = () => file.click();
  const show = () => {
    $("#source").replaceChildren(
      ...(source.blob
        ? [
            h("img", { src: source.address, alt: "" }),
            h(
              "span",
              { className: "source-name" },
              h("b", {}, source.name),
              h("small", { className: "muted" }, `${source.width} × ${source.height}`),
            ),
            h("button", { type: "button", className: "button", onclick: choose }, "Replace"),
            h(
              "button",
              {
                type: "button",
                className: "icon-button",
                "aria-label": "Close the image",
                title: "Close the image",
                onclick: () => tools.close(),
              },
              icon("close"),
            ),
          ]
        : [
            h("button", { type: "button", className: "button wide", onclick: choose }, icon("image"), "Open an image…"),
          ]),
    );
  };
  source.on("change", show);
  show();
}

function buildWords() {
  const by = (value, text) =>
    h(
      "label",
      {},
      h("input", { type: "radio", name: "by", value, onchange: () => saved.setEdit({ by: value }) }),
      h("span", {}, text),
    );
  const choice = h(
    "fieldset",
    { className: "segments" },
    h("legend", {}, "How much changes"),
    by("threshold", "By threshold"),
    by("share", "By share"),
  );
  const threshold = slider("threshold", "Threshold", { min: 0.02, max: 1, step: 0.01, show: percent });
  const share = slider("share", "Share of the tokens", { min: 0.01, max: 1, step: 0.01, show: percent });
  $("#words").append(choice, threshold, share);
  const show = () => {
    const wanted = saved.form.edit.by;
    for (const input of $$("input", choice)) input.checked = input.value === wanted;
    threshold.hidden = wanted !== "threshold";
    share.hidden = wanted !== "share";
  };
  saved.on("change", show);
  show();
}

function buildMask(tools) {
  const numbers = ["Left", "Top", "Width", "Height"].map((text) => [
    text,
    h("input", { type: "number", min: 0, step: 1, id: `rectangle-${text.toLowerCase()}`, inputmode: "numeric" }),
  ]);
  const fill = (erase) => () => {
    const [left, top, width, height] = numbers.map(([, input]) => Number(input.value) || 0);
    if (width > 0 && height > 0) tools.rectangle(left, top, width, height, erase);
  };
  const button = (text, run) => h("button", { type: "button", className: "button", onclick: run }, text);
  const file = h("input", {
    type: "file",
    accept: "image/png,image/jpeg,image/webp",
    className: "visually-hidden",
    tabIndex: -1,
    "aria-label": "Load a mask",
    id: "mask-file",
  });
  file.addEventListener("change", () => {
    if (file.files[0]) tools.load(file.files[0]);
    file.value = "";
  });
  const brush = slider("brush", "Brush size", { min: 1, max: LARGEST_BRUSH, step: 1, show: (value) => `${value} px` });
  $("#mask-panel").append(
    brush,
    h(
      "div",
      { className: "buttons" },
      button("Clear", () => tools.mask.clear()),
      button("Invert", () => tools.mask.invert()),
      button("Load…", () => file.click()),
      button("Save", tools.save),
    ),
    file,
    h(
      "details",
      { className: "more" },
      h("summary", {}, "Rectangle by numbers"),
      h(
        "div",
        { className: "numbers-grid" },
        numbers.map(([text, input]) =>
          h("div", { className: "field" }, h("label", { htmlFor: input.id }, text), input),
        ),
      ),
      h("div", { className: "buttons" }, button("Mark", fill(false)), button("Erase", fill(true))),
    ),
  );
}

function buildExtend() {
  const inputs = ["Left", "Top", "Right", "Bottom"].map((text, index) => {
    const input = h("input", { type: "number", min: 0, max: 4096, step: 1, id: `grow-${index}`, inputmode: "numeric" });
    if (index === 0) input.dataset.field = "grow";
    input.addEventListener("change", () => {
      const grow = [...saved.form.edit.grow];
      grow[index] = Math.max(0, Math.round(Number(input.value) || 0));
      saved.setEdit({ grow });
    });
    return [text, input];
  });
  const reset = h(
    "button",
    { type: "button", className: "button", onclick: () => saved.setEdit({ grow: [0, 0, 0, 0] }) },
    "Reset",
  );
  $("#extend-panel").append(
    h(
      "fieldset",
      { className: "numbers-grid" },
      h("legend", {}, "Pixels to add"),
      inputs.map(([text, input]) => h("div", { className: "field" }, h("label", { htmlFor: input.id }, text), input)),
    ),
    h("div", { className: "buttons" }, reset),
  );
  const show = () => inputs.forEach(([, input], index) => (input.value = saved.form.edit.grow[index]));
  saved.on("change", show);
  show();
}

function buildVary() {
  $("#vary-panel").append(slider("strength", "Strength", { min: 0.02, max: 1, step: 0.01, show: percent }));
  $("#edit-more").append(
    check("keep_pixels", "Take the pixels outside the region from the image"),
    check("blend", "Fade into the region's edge"),
  );
}
