// Below an image: how far it is, what there is to say of it, and what can be done with it.

import { h, icon, say } from "../base/dom.js";
import { announce } from "../base/notices.js";
import { finished } from "../server/jobs.js";
import { factsOf, progress, statusLine } from "./facts.js";

const TEXTS = {
  edit: "Edit",
  vary: "Vary",
  compare: "Compare",
  reuse: "Use settings",
  download: "Download",
  info: "Details",
  delete: "Delete",
};

const QUIET = ["download", "info", "delete"]; // these are known by their icons

export class Foot {
  #told = "";
  #job = null;
  #result = null;
  #details = false;

  /** act(name, result, job) does what a button says. */
  constructor(info, act) {
    this.info = info;
    this.act = act;
    this.bar = h("span");
    this.progress = h(
      "div",
      {
        className: "progress",
        role: "progressbar",
        "aria-label": "Progress",
        "aria-valuemin": 0,
        "aria-valuemax": 100,
      },
      this.bar,
    );
    this.text = h("span");
    this.cancel = h(
      "button",
      { type: "button", className: "button", onclick: () => this.act("cancel", null, this.#job) },
      "Cancel",
    );
    this.note = h("p", { className: "note", hidden: true });
    this.actions = h("div", { className: "actions", role: "group", "aria-label": "What to do with the image" });
    this.details = h("div", {
      className: "details",
      hidden: true,
      tabIndex: 0,
      role: "region",
      "aria-label": "Details",
    });
    const status = h("div", { className: "status" }, this.text, this.cancel);
    this.element = h("div", { className: "foot" }, this.progress, status, this.note, this.actions, this.details);
  }

  /**
   * Show a job and one of its images, which may be null.
   *
   * `before` are buttons of the view's own, `comparing` whether two images are compared, `texts` other words for buttons.
   */
  show(job, result, { before = [], comparing = false, texts = {} } = {}) {
    if (job !== this.#job && job?.id !== this.#job?.id) this.#told = "";
    this.#job = job;
    this.element.hidden = !job;
    if (!job) return;
    const done = finished(job);
    say(this.text, statusLine(job));
    this.progress.hidden = this.cancel.hidden = done;
    this.progress.setAttribute("aria-valuenow", String(Math.round(100 * progress(job))));
    this.bar.style.width = `${100 * progress(job)}%`;
    this.warn(job.warnings[0] ?? "");
    this.#tell(job);
    this.#show(result, before, comparing, { ...TEXTS, ...texts });
  }

  toggleDetails() {
    this.#details = !this.#details;
    this.#showDetails();
  }

  /** Show a note below the status. */
  warn(text, bad = false) {
    this.note.hidden = text === "";
    this.note.classList.toggle("bad", bad);
    say(this.note, text && text[0].toUpperCase() + text.slice(1));
  }

  #show(result, before, comparing, texts) {
    const key = JSON.stringify([result?.id, before.map(({ text }) => text), comparing, texts]);
    if (this.actions.dataset.key === key) return;
    this.actions.dataset.key = key;
    this.#result = result;
    const focused = document.activeElement?.dataset?.act;
    const names = result ? Object.keys(texts).filter((name) => texts[name]) : [];
    this.actions.replaceChildren(
      ...before.map(({ name, text, run }) =>
        h("button", { type: "button", className: "button", "data-act": name, onclick: run }, icon(name), text),
      ),
      ...names.map((name) => this.#button(name, texts[name], comparing)),
    );
    if (focused) this.actions.querySelector(`[data-act="${focused}"]`)?.focus();
    this.#showDetails();
  }

  #button(name, text, comparing) {
    const run = () => (name === "info" ? this.toggleDetails() : this.act(name, this.#result, this.#job));
    const quiet = QUIET.includes(name);
    const names = quiet ? { className: "icon-button", "aria-label": text, title: text } : { className: "button" };
    const button = h(
      "button",
      { type: "button", "data-act": name, onclick: run, ...names },
      icon(name),
      !quiet && text,
    );
    if (name === "compare") button.setAttribute("aria-pressed", String(comparing));
    return button;
  }

  #showDetails() {
    const open = this.#details && this.#result !== null;
    this.details.hidden = !open;
    this.actions.querySelector('[data-act="info"]')?.setAttribute("aria-expanded", String(open));
    const model = this.info.models.find(({ id }) => id === this.#result?.model);
    if (open) this.details.replaceChildren(factsOf(this.#job, this.#result, model?.settings));
  }

  /** Tell screen readers at the start, at each quarter and at the end. */
  #tell(job) {
    const quarter = job.state === "running" ? Math.floor(4 * progress(job)) : "";
    const told = `${job.state} ${quarter} ${job.position ?? ""}`;
    if (told === this.#told) return;
    const first = this.#told === "";
    this.#told = told;
    if (!(first && finished(job))) announce(`${statusLine(job)}.`);
  }
}
