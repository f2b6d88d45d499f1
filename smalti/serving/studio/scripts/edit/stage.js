// The stage of the view "edit": the image, what is to change of it, and what became of it.

import { $, h, icon, say } from "../base/dom.js";
import { notice, problem } from "../base/notices.js";
import { saved } from "../base/saved.js";
import { view } from "../base/views.js";
import { chosenModel } from "../panel/recipe.js";
import { imageBlob } from "../server/api.js";
import { finished, jobs } from "../server/jobs.js";
import { blank } from "../stage/blank.js";
import { Compare } from "../stage/compare.js";
import { Foot } from "../stage/foot.js";
import { regionLayout } from "../stage/tiles.js";
import { Brush } from "./brush.js";
import { Easel } from "./easel.js";
import { editKeys } from "./keys.js";
import { makeHandles } from "./extend.js";
import { guessLayout } from "./layout.js";
import { Mask } from "./mask.js";
import { buildPanels } from "./panels.js";
import { Preview } from "./preview.js";
import { editRequest, previewRequest, wayOf } from "./request.js";
import { Run } from "./run.js";
import { Scene, paintTokens, regionText } from "./scene.js";
import { Source } from "./source.js";
import { makeMaskTools, makeZoom } from "./toolbar.js";
import { Triptych, paintWhole } from "./triptych.js";

export class EditStage {
  #source = new Source();
  #mask = new Mask();
  #easel = new Easel();
  #preview = new Preview();
  #compare = new Compare();
  #pill = h("p", { className: "pill", role: "status", hidden: true });
  #run = null;
  #shown = "before"; // or "tokens", "compare", or the number of a result
  #scene = new Scene(this.#easel, this.#source, this.#mask, this.#preview);
  #version = { source: 0, mask: 0 }; // tells one image or mask from the next

  /** info: of the server; act(name, result, job) does what a button of any image does. */
  constructor(info, act) {
    this.info = info;
    this.act = act;
    const place = () => this.#place();
    this.brush = new Brush(this.#easel, this.#mask, place, () => this.#paintable);
    this.handles = makeHandles(this.#easel, this.#source, () => this.#unit());
    this.tools = makeMaskTools(this.#mask);
    this.triptych = new Triptych((name) => this.show(name));
    this.foot = new Foot(info, (...values) => this.#act(...values));
    this.blank = blank(
      "Open an image to edit it",
      "Drop a file, paste one, or take one of the gallery. Tokens that you choose are filled again; the others stay.",
      h(
        "button",
        { type: "button", className: "button", onclick: () => $("#source-file").click() },
        icon("image"),
        "Open an image…",
      ),
    );
    this.#build();
    this.#listen();
    this.#update();
  }

  get job() {
    return this.#run?.job ?? null;
  }

  /** The result that is shown, or null. */
  get result() {
    return this.job?.results[this.#number] ?? null;
  }

  get comparing() {
    return this.#shown === "compare";
  }

  get #number() {
    return Number.isInteger(this.#shown) ? this.#shown : 0;
  }

  get #paintable() {
    return saved.form.edit.way === "mask" && this.#shown === "before" && this.#source.blob !== null;
  }

  /** Take an image; `making` is what made it, if it is known better than from the file. */
  async open(blob, name, making = null) {
    const found = (await this.#source.open(blob, name)) ?? {};
    const prompt = making?.prompt ?? found.prompt ?? "";
    this.#run = null;
    this.#shown = "before";
    saved.setEdit({ prompt, source_prompt: prompt, grow: [0, 0, 0, 0], job: null });
    this.#easel.fit();
  }

  close() {
    this.#source.close();
    this.#run = null;
    this.#shown = "before";
    saved.setEdit({ job: null });
  }

  /** Send the edit that the form describes. */
  async submit() {
    const { fields, files } = await editRequest(this.info, this.#source, this.#mask);
    const job = await jobs.submit(fields, files);
    this.#run = new Run(job, () => this.#update());
    this.#run.before = this.#source.bitmap;
    saved.setEdit({ job: job.id });
    this.show(0);
    this.watch();
  }

  /** Show "before", "tokens", "compare", or a result by its number. */
  show(name) {
    this.#shown = name;
    this.#update();
    if (name === "compare") this.#compare.focus();
  }

  watch() {
    if (this.#run && view() === "edit") jobs.watch(this.#run.id);
    this.#want();
  }

  /** Put back the image, its mask and its job as they were before a reload. */
  async restore() {
    await this.#source.restore();
    await this.#mask.restore();
    const { job } = saved.form.edit;
    if (!this.#source.blob || !job) return;
    const found = await jobs.find(job).catch(() => null);
    if (!found) return;
    this.#run = new Run(found, () => this.#update());
    this.show(0);
  }

  /** Fill the form with what an edit was made with, and open the image that it started from. */
  async reuse(job, fields) {
    const { request } = job;
    if (job.source) {
      const blob = await imageBlob(`/api/results/${job.source}/content`);
      await this.open(blob, "the image before the edit", { prompt: request.source_prompt ?? "" });
    }
    const known = ["source_prompt", "threshold", "share", "strength", "grow", "keep_pixels", "blend"].filter(
      (name) => name in request,
    );
    const { prompt, size: _, ...common } = fields;
    saved.set(common);
    saved.setEdit({
      way: wayOf(job),
      prompt,
      by: "share" in request ? "share" : "threshold",
      ...Object.fromEntries(known.map((name) => [name, request[name]])),
    });
    if (wayOf(job) === "mask") await this.#recallMask(job);
  }

  /** Put back the mask of a job, or clear the mask and say that the server no longer has it. */
  async #recallMask(job) {
    const blob = await (job.mask ? imageBlob(`/api/results/${job.mask}/content`) : null)?.catch(() => null);
    if (blob) await this.#mask.load(blob);
    else {
      this.#mask.clear();
      notice("The server no longer has the mask of this edit: paint it again");
    }
  }

  shortcuts() {
    return editKeys(this, this.#mask, this.#easel);
  }

  #build() {
    const { element, canvas } = this.#easel;
    element.append(this.handles.element, this.tools.element, makeZoom(this.#easel), this.#pill);
    canvas.setAttribute("role", "application");
    $("#stage-edit").append(this.blank.element, element, this.triptych.element, this.foot.element);
    const fits = (file) =>
      this.#mask
        .load(file)
        .then(({ resized }) => resized && notice("The mask had another size and was fitted to the image"));
    buildPanels(this.#source, {
      open: (file) => this.open(file, file.name).catch(problem),
      close: () => this.close(),
      mask: this.#mask,
      rectangle: (...values) => this.brush.rectangle(...values),
      load: (file) => fits(file).catch(() => problem(new Error("The mask cannot be read as an image"))),
      save: async () => h("a", { href: URL.createObjectURL(await this.#mask.toBlob()), download: "mask.png" }).click(),
    });
  }

  #listen() {
    this.#source.on("change", () => {
      this.#version.source++;
      if (this.#source.blob) this.#mask.fit(this.#source.width, this.#source.height);
      this.#update();
    });
    this.#mask.on("paint", () => this.#easel.paint());
    this.#mask.on("change", () => {
      this.#version.mask++;
      this.#update();
    });
    saved.on("change", () => this.#update());
    // A mask and sides are drawn on the image itself, not on what became of it.
    $("#ways").addEventListener("change", ({ target }) => {
      if (["mask", "extend"].includes(target.value) && this.job && finished(this.job)) this.show("before");
    });
    addEventListener("view", () => this.#update());
    jobs.on("job", (job) => job.id === this.#run?.id && this.#update());
    jobs.on("list", () => this.#run && this.#update());
    this.#preview.on("change", () => this.#update());
    this.#easel.onpaint = () => this.handles.place();
  }

  /** Where tokens lie on the image: as the server says, or as it will most likely say. */
  #place() {
    const { width, height } = this.#source;
    const model = chosenModel(this.info);
    const region = saved.form.edit.way === "mask" ? this.#preview.region : null;
    return {
      layout: region ? regionLayout(region) : guessLayout(width, height, model),
      block: model.block_tokens,
      size: { width, height },
    };
  }

  /** Pixels of the image in a block of tokens. */
  #unit() {
    const { layout, block, size } = this.#place();
    return Math.max(1, Math.round(layout.dx * block * size.width));
  }

  #want() {
    if (view() === "edit") this.#preview.want(previewRequest(this.info, this.#source, this.#mask, this.#version));
  }

  #update() {
    const shown = this.#source.blob !== null;
    this.blank.show(!shown);
    this.#easel.element.hidden = !shown;
    if (this.#run && this.#shown === "compare" && !this.result) this.#shown = "before";
    const go = saved.form.edit.way === "vary" ? "Vary" : "Edit";
    say($("#go-text"), view() === "edit" ? go : "Draw");
    this.#want();
    this.#showTriptych();
    this.foot.show(this.job, this.#shown === "before" || this.#shown === "tokens" ? null : this.result, {
      comparing: this.comparing,
      texts: { edit: "Keep editing", vary: "" },
    });
    if (shown) this.#showScene();
  }

  #showScene() {
    const before = this.#shown === "before" || !this.#run?.before;
    const { way } = saved.form.edit;
    this.tools.element.hidden = !this.#paintable;
    this.handles.element.hidden = !(before && way === "extend");
    const sides = before && way === "extend" ? 44 : 20;
    this.#easel.margin = { left: sides, right: sides, top: this.#paintable ? 66 : sides + 4, bottom: 62 };
    const compare = this.#shown === "compare" && this.result;
    if (compare) this.#scene.compare(this.#run, this.result, this.#compare);
    else this.#compare.element.remove();
    this.#easel.element.classList.toggle("compares", Boolean(compare));
    this.#easel.canvas.classList.toggle("scrolls", !this.#paintable && this.#easel.viewport.fitted);
    this.#easel.canvas.dataset.tool = this.#paintable ? saved.form.edit.tool : "hand";
    this.#easel.canvas.setAttribute(
      "aria-label",
      this.#paintable ? "Mask: arrow keys go from block to block, Space marks" : "The image; arrow keys move it",
    );
    if (before) this.#scene.showBefore(this.#place());
    else this.#scene.showRun(this.#run, this.#shown === "tokens" ? null : this.#number);
    const { text, bad } = regionText({
      before,
      preview: this.#preview,
      mask: this.#mask,
      tokens: this.#shown === "tokens" ? this.job?.region : null,
    });
    this.#pill.hidden = text === "";
    this.#pill.classList.toggle("bad", bad);
    say(this.#pill, text);
  }

  #showTriptych() {
    const run = this.#run;
    const views = [];
    if (run?.before && this.#source.blob) {
      const paint = (bitmap) => (context, side) => paintWhole(context, side, bitmap);
      views.push({ name: "before", text: "Before", paint: paint(this.#source.bitmap) });
      views.push({ name: "tokens", text: "Tokens", paint: (context, side) => paintTokens(context, side, run) });
      for (let image = 0; image < run.job.n; image++) {
        views.push({
          name: image,
          text: run.job.n > 1 ? `After ${image + 1}` : "After",
          paint: paint(run.result(image)),
        });
      }
    }
    this.triptych.show(views, this.#shown);
  }

  /** Compare before and after, or stop to. */
  toggleCompare() {
    this.show(this.comparing ? this.#number : "compare");
  }

  #act(name, result, job) {
    if (name === "compare") this.toggleCompare();
    else this.act(name, result, job);
  }
}
