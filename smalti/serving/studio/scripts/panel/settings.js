// The settings of a model, built from what the server says of them: a new setting needs no change here.

import { $, h } from "../base/dom.js";
import { saved } from "../base/saved.js";
import { help, label } from "../base/words.js";
import { chosenModel } from "./recipe.js";

const ELSEWHERE = ["height", "width"]; // the field "Size" stands for both

/** Build the fields of every setting into the panel. */
export function buildSettings(info) {
  const names = info.settings.filter((name) => !ELSEWHERE.includes(name));
  const fields = names.map((name) => [name, makeField(name, info.fields[name])]);
  $("#settings").replaceChildren(...fields.map(([, field]) => field.element));
  $("#reset-settings").addEventListener("click", () => saved.set({ settings: {} }));
  const mark = () => {
    const { settings } = saved.form;
    for (const [name, { element }] of fields) element.classList.toggle("changed", name in settings);
    const changed = Object.keys(settings).length;
    $("#changed").hidden = changed === 0;
    $("#changed").textContent = `${changed} changed`;
    $("#reset-settings").disabled = changed === 0;
  };
  const show = () => {
    const { settings, preset } = saved.form;
    const model = chosenModel(info);
    const defaults = model.presets[preset] ?? model.settings;
    for (const [name, field] of fields) {
      // A number that is half typed must not be written over.
      if (!field.element.contains(document.activeElement)) field.show(settings[name], defaults[name]);
    }
    mark();
  };
  saved.on("change", ({ source }) => source !== "setting" && show());
  show();
  for (const [name, field] of fields) {
    field.element.addEventListener("input", () => {
      const { [name]: _, ...others } = saved.form.settings;
      const value = field.read();
      saved.set({ settings: value === undefined ? others : { ...others, [name]: value } }, "setting");
      mark();
    });
  }
}

/** Return {element, show(value, default), read()}; read gives undefined where the default holds. */
function makeField(name, { help: text, schema }) {
  const id = `setting-${name}`;
  const hint = `${id}-help`;
  const made = schema.enum
    ? choice(schema.enum)
    : schema.type === "array"
      ? pair(id, name, schema)
      : single(id, schema);
  const control = made.element;
  const target = control.matches("input, select") ? control : control.querySelector("input");
  target.id = id;
  for (const input of control.matches("input, select") ? [control] : control.querySelectorAll("input")) {
    input.dataset.field = name;
    input.setAttribute("aria-describedby", hint);
  }
  const element = h(
    "div",
    { className: "field" },
    h("label", { htmlFor: id }, label(name)),
    control,
    made.list,
    h("small", { id: hint }, help(text)),
  );
  return { element, read: made.read, show: made.show };
}

function choice(values) {
  const select = h(
    "select",
    {},
    h("option", { value: "" }),
    values.map((value) => h("option", { value }, value)),
  );
  return {
    element: select,
    read: () => select.value || undefined,
    show(value, standard) {
      select.options[0].textContent = `Default (${standard})`;
      select.value = value ?? "";
    },
  };
}

/** A number, or a rule's text with a list of known names. */
function single(id, schema) {
  const numeric = [schema.type].flat().some((type) => type === "number" || type === "integer");
  const whole = [schema.type].flat().includes("integer");
  const list = schema.examples
    ? h(
        "datalist",
        { id: `${id}-list` },
        schema.examples.map((value) => h("option", { value })),
      )
    : null;
  const input = h("input", {
    type: numeric ? "number" : "text",
    step: numeric ? (whole ? "1" : "any") : null,
    min: schema.minimum,
    max: schema.maximum,
    autocomplete: "off",
    spellcheck: false,
    list: list?.id,
  });
  return {
    element: input,
    list,
    read: () => (input.value === "" ? undefined : numeric ? Number(input.value) : input.value.trim()),
    show(value, standard) {
      input.placeholder = String(standard ?? "");
      input.value = value ?? "";
    },
  };
}

function pair(id, name, schema) {
  const inputs = ["from", "to"].map((end) =>
    h("input", {
      type: "number",
      step: "any",
      min: schema.items.minimum,
      max: schema.items.maximum,
      "aria-label": `${label(name)}, ${end}`,
    }),
  );
  return {
    element: h("div", { className: "pair" }, inputs[0], "to", inputs[1]),
    read() {
      if (inputs.every((input) => input.value === "")) return undefined;
      return inputs.map((input) => Number(input.value || input.placeholder));
    },
    show(value, standard) {
      inputs.forEach((input, index) => {
        input.placeholder = String(standard[index]);
        input.value = value?.[index] ?? "";
      });
    },
  };
}
