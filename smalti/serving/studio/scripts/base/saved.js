// What the form holds. It is kept in localStorage, so that a reload or a closed tab loses nothing.

import { Emitter } from "./emitter.js";

const KEY = "smalti.studio";

const EMPTY = {
  model: "",
  prompt: "",
  negative_prompt: "",
  preset: "",
  n: 1,
  size: "auto",
  output_format: "png",
  seed: "",
  locked: false,
  settings: {},
  more: false,
  theme: "auto",
  shown: null, // {job, image} on the stage of the view "draw"
  edit: {
    way: "words",
    prompt: "",
    source_prompt: "",
    by: "threshold",
    threshold: 0.3,
    share: 0.2,
    strength: 0.5,
    grow: [0, 0, 0, 0],
    keep_pixels: true,
    blend: true,
    job: null,
    tool: "brush",
    brush: 32,
    snap: true,
    grid: true,
  },
};

function load() {
  let found = {};
  try {
    found = JSON.parse(localStorage.getItem(KEY) ?? "{}");
  } catch {
    // A damaged entry is as good as none.
  }
  return { ...structuredClone(EMPTY), ...found, edit: { ...EMPTY.edit, ...found.edit } };
}

class Saved extends Emitter {
  form = load();

  /** Change fields of the form and tell whoever listens; `source` says who changed it. */
  set(changes, source = null) {
    Object.assign(this.form, changes);
    this.#changed(changes, source);
  }

  /** Change fields of the view "edit". */
  setEdit(changes, source = null) {
    Object.assign(this.form.edit, changes);
    this.#changed({ edit: changes }, source);
  }

  #changed(changes, source) {
    try {
      localStorage.setItem(KEY, JSON.stringify(this.form));
    } catch {
      // Full or forbidden storage must not stop anyone from drawing.
    }
    this.emit("change", { changes, source });
  }
}

export const saved = new Saved();
