// The form: fields to what is saved, and back. Both views share it; the prompt alone is each view's own.

import { $, $$, h } from "../base/dom.js";
import { saved } from "../base/saved.js";
import { chosenModel, rollSeed } from "./recipe.js";

const SHAPES = [
  ["Square", 1, 1],
  ["Portrait", 3, 4],
  ["Landscape", 4, 3],
  ["Wide", 16, 9],
];

const editing = () => document.body.dataset.view === "edit";

export const currentPrompt = () => (editing() ? saved.form.edit.prompt : saved.form.prompt);

/** Connect the panel's fields; `submit` draws or edits. */
export function buildForm(info, submit) {
  fill(info);
  bind();
  $("#panel").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  $("#go").querySelector("kbd").textContent = navigator.platform.startsWith("Mac") ? "⌘ ↵" : "Ctrl ↵";
  saved.on("change", ({ source }) => source !== "form" && show(info));
  addEventListener("view", () => show(info));
  show(info);
}

/** Choices that depend on the server. */
function fill(info) {
  $("#model").replaceChildren(...info.models.map(({ id }) => h("option", { value: id }, id)));
  $("#model-field").hidden = info.models.length < 2;
  $("#model-row").classList.toggle("draw-only", info.models.length < 2);
  $("#output_format").replaceChildren(...info.formats.map((name) => h("option", { value: name }, name.toUpperCase())));
  $("#n").max = info.limits.images;
  for (const name of ["#prompt", "#source_prompt", "#negative_prompt"]) $(name).maxLength = info.limits.prompt_letters;
}

function bind() {
  const form = { n: (text) => Math.max(1, Math.round(Number(text)) || 1), seed: (text) => text.trim() };
  for (const name of ["model", "n", "seed", "negative_prompt", "output_format"]) {
    $(`#${name}`).addEventListener("input", ({ target }) => {
      const changes = { [name]: (form[name] ?? String)(target.value) };
      // A seed that somebody typed is meant to stay.
      if (name === "seed") changes.locked = changes.seed !== "";
      saved.set(changes, name === "model" ? null : "form");
      if (name === "seed") showLock();
    });
  }
  $("#prompt").addEventListener("input", ({ target }) => {
    if (editing()) saved.setEdit({ prompt: target.value }, "form");
    else saved.set({ prompt: target.value }, "form");
    clearErrors();
  });
  $("#source_prompt").addEventListener("input", ({ target }) => saved.setEdit({ source_prompt: target.value }, "form"));
  $("#roll").addEventListener("click", () => saved.set({ seed: rollSeed() }));
  $("#lock").addEventListener("click", () =>
    saved.set({ locked: !saved.form.locked, seed: saved.form.seed || rollSeed() }),
  );
  $("#presets").addEventListener("change", ({ target }) => saved.set({ preset: target.value }));
  $("#more").addEventListener("toggle", () => saved.set({ more: $("#more").open }, "form"));
  $("#size").addEventListener("change", ({ target }) => {
    const own = target.value === "own";
    $("#own-size").hidden = !own;
    if (own) $("#own-width").focus();
    else saved.set({ size: target.value });
  });
  for (const name of ["#own-width", "#own-height"]) {
    $(name).addEventListener("change", () => {
      const [width, height] = [$("#own-width").value, $("#own-height").value];
      if (width && height) saved.set({ size: `${width}x${height}` });
    });
  }
}

/** Show what is saved. */
function show(info) {
  const form = saved.form;
  const model = chosenModel(info);
  put("#prompt", currentPrompt());
  put("#source_prompt", form.edit.source_prompt);
  for (const name of ["n", "seed", "negative_prompt", "output_format"]) put(`#${name}`, String(form[name]));
  put("#model", model.id);
  $("#more").open = form.more;
  $("#prompt-label").textContent = editing() ? "What it should show" : "What to draw";
  showLock();
  showPresets(model);
  showSizes(model);
  showExamples(model);
}

function put(selector, value) {
  const field = $(selector);
  if (field.value !== value) field.value = value;
}

function showLock() {
  const { locked } = saved.form;
  const button = $("#lock");
  button.setAttribute("aria-pressed", String(locked));
  button.querySelector("use").setAttribute("href", `#icon-${locked ? "locked" : "unlocked"}`);
  button.title = locked ? "The seed stays (L)" : "The seed is rolled for each drawing (L)";
}

/** Presets by name, with their number of steps; the model's own settings are one of them, or another choice. */
function showPresets(model) {
  const same = (settings) => JSON.stringify(settings) === JSON.stringify(model.settings);
  const names = Object.keys(model.presets);
  const standard = names.find((name) => same(model.presets[name]));
  const choices = names.map((name) => [name === standard ? "" : name, name, model.presets[name]]);
  if (standard === undefined) choices.unshift(["", "default", model.settings]);
  const wanted = saved.form.preset === standard ? "" : saved.form.preset;
  const key = JSON.stringify([model.id, choices.map(([value]) => value)]);
  const box = $("#presets");
  if (box.dataset.key !== key) {
    box.dataset.key = key;
    const labels = choices.map(([value, name, settings]) =>
      h(
        "label",
        {},
        h("input", { type: "radio", name: "preset", value }),
        h(
          "span",
          {},
          name[0].toUpperCase() + name.slice(1),
          " ",
          h("small", {}, `${settings.num_inference_steps} steps`),
        ),
      ),
    );
    box.replaceChildren(box.querySelector("legend"), ...labels);
  }
  for (const input of $$("input", box)) input.checked = input.value === wanted;
}

/** Shapes with about as many pixels as the model was trained on, in whole units of its grid. */
function showSizes(model) {
  const [width, height] = model.size;
  const whole = (value) => Math.max(1, Math.round(value / model.unit)) * model.unit;
  const options = [["auto", `${width} × ${height}`]];
  for (const [name, across, down] of SHAPES) {
    const side = Math.sqrt((width * height) / (across * down));
    const [w, d] = [whole(across * side), whole(down * side)];
    if (w !== width || d !== height) options.push([`${w}x${d}`, `${name} ${w} × ${d}`]);
  }
  options.push(["own", "Another size…"]);
  const known = options.some(([value]) => value === saved.form.size);
  const select = $("#size");
  select.replaceChildren(...options.map(([value, text]) => h("option", { value }, text)));
  select.value = known ? saved.form.size : "own";
  $("#own-size").hidden = known;
  if (!known) [$("#own-width").value, $("#own-height").value] = saved.form.size.split("x");
}

function showExamples(model) {
  const box = $("#examples");
  box.hidden = currentPrompt() !== "" || model.examples.length === 0;
  box.replaceChildren(
    ...model.examples.map((text) =>
      h("button", { type: "button", onclick: () => (saved.set({ prompt: text }), $("#prompt").focus()) }, text),
    ),
  );
}

/** Say at the field what the server found wrong with it. */
export function showError(error) {
  clearErrors();
  const box = $("#form-error");
  box.textContent = error.retryAfter ? `${error.message} (try again in ${error.retryAfter} s)` : error.message;
  box.hidden = false;
  const field = error.param && ($(`#panel [name="${error.param}"]`) ?? $(`#panel [data-field="${error.param}"]`));
  // The message stands where the eye is: at the field, or else at the button.
  (field?.closest(".field") ?? $(".go")).append(box);
  if (!field) return;
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-errormessage", "form-error");
  field.closest("details")?.setAttribute("open", "");
  field.focus();
}

export function clearErrors() {
  $("#form-error").hidden = true;
  for (const field of $$("#panel [aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-errormessage");
  }
}
