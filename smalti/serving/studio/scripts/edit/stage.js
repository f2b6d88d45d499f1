// The stage of the view "edit": the image, what is to change of it, and what became of it.

import { $, h, icon, say } from "../base/dom.js";
import { notice, problem } from "../base/notices.js";
import { saved } from "../base/saved.js";
import { count } from "../base/words.js";
import { view } from "../base/views.js";
import { chosenModel } from "../panel/recipe.js";
import { imageAddress, imageBlob } from "../server/api.js";
import { jobs } from "../server/jobs.js";
import { blank } from "../stage/blank.js";
import { Compare } from "../stage/compare.js";
import { Foot } from "../stage/foot.js";
import { regionBits, regionLayout } from "../stage/tiles.js";
import { Brush } from "./brush.js";
import { Easel } from "./easel.js";
import { makeHandles } from "./extend.js";
import { guessLayout } from "./layout.js";
import { Mask } from "./mask.js";
import { buildPanels } from "./panels.js";
import { Preview } from "./preview.js";
import { editRequest, previewRequest } from "./request.js";
import { Run } from "./run.js";
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
  #tiled = ""; // what the tiles show
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
      h("button", { type: "button", className: "button", onclick: () => $("#source-file").click() }, icon("image"), "Open an image…"),
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
    const way = job.operation === "variation" ? "vary" : request.grow ? "extend" : request.strength ? "vary" : request.mask_mode ? "mask" : "words";
    const known = ["source_prompt", "threshold", "share", "strength", "grow", "keep_pixels", "blend"].filter((name) => name in request);
    const { prompt, size: _, ...common } = fields;
    saved.set(common);
    saved.setEdit({ way, prompt, by: "share" in request ? "share" : "threshold", ...Object.fromEntries(known.map((name) => [name, request[name]])) });
  }

  shortcuts() {
    const edit = (changes) => () => saved.setEdit(changes());
    const tool = (name) => edit(() => ({ tool: name }));
    const size = (factor) => edit(() => ({ brush: Math.min(400, Math.max(1, Math.round(saved.form.edit.brush * factor + (factor > 1 ? 1 : -1)))) }));
    const zoom = (factor) => () => (this.#easel.viewport.zoom(factor), this.#easel.paint());
    return [
      [["b"], "Brush", tool("brush")],
      [["e"], "Eraser", tool("eraser")],
      [["r"], "Rectangle", tool("rectangle")],
      [["h"], "Move the image", tool("hand")],
      [["["], "Smaller brush", size(1 / 1.2)],
      [["]"], "Larger brush", size(1.2)],
      [["n"], "Snap to tokens", edit(() => ({ snap: !saved.form.edit.snap }))],
      [["g"], "Grid of tokens", edit(() => ({ grid: !saved.form.edit.grid }))],
      [["Ctrl+z"], "Undo the mask", () => this.#mask.undo()],
      [["Ctrl+Shift+z", "Ctrl+y"], "Redo the mask", () => this.#mask.redo()],
      [["+", "="], "Zoom in", zoom(1.4)],
      [["-"], "Zoom out", zoom(1 / 1.4)],
      [["0"], "Fit", () => this.#easel.fit()],
      [["q"], "Before", () => this.show("before")],
      [["w"], "Chosen tokens", () => this.job && this.show("tokens")],
      [["a"], "After", () => this.job && this.show(0)],
      [["c"], "Compare", () => this.result && this.show(this.#shown === "compare" ? this.#number : "compare")],
      [["Arrow keys"], "On the image: go from block to block", null],
      [["Space"], "On the image: mark the block or erase it", null],
      [["Shift+Arrow keys"], "On the image: paint on the way", null],
    ];
  }

  #build() {
    const { element, canvas } = this.#easel;
    element.append(this.handles.element, this.tools.element, makeZoom(this.#easel), this.#pill);
    canvas.setAttribute("role", "application");
    $("#stage-edit").append(this.blank.element, element, this.triptych.element, this.foot.element);
    const fits = (file) => this.#mask.load(file).then(({ resized }) => resized && notice("The mask had another size and was fitted to the image"));
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
    addEventListener("view", () => this.#update());
    jobs.on("job", (job) => job.id === this.#run?.id && this.#update());
    jobs.on("list", () => this.#run && this.#update());
    jobs.on("lost", ({ job, error }) => job?.id === this.#run?.id && this.foot.warn(error.message, true));
    this.#preview.on("change", () => this.#update());
    this.#easel.onpaint = () => this.handles.place();
  }

  /** Where tokens lie on the image: as the server says, or as it will most likely say. */
  #place() {
    const { width, height } = this.#source;
    const model = chosenModel(this.info);
    const region = saved.form.edit.way === "mask" ? this.#preview.region : null;
    return { layout: region ? regionLayout(region) : guessLayout(width, height, model), block: model.block_tokens, size: { width, height } };
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
      comparing: this.#shown === "compare",
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
    if (compare) this.#showCompare();
    else this.#compare.element.remove();
    this.#easel.element.classList.toggle("compares", Boolean(compare));
    this.#easel.canvas.classList.toggle("scrolls", !this.#paintable && this.#easel.viewport.fitted);
    this.#easel.canvas.dataset.tool = this.#paintable ? saved.form.edit.tool : "hand";
    this.#easel.canvas.setAttribute("aria-label", this.#paintable ? "Mask: arrow keys go from block to block, Space marks" : "The image; arrow keys move it");
    if (before) this.#showBefore();
    else this.#showRun();
    this.#showPill(before);
  }

  #showBefore() {
    const { way, grow, grid } = saved.form.edit;
    const { bitmap, width, height } = this.#source;
    const area = { left: 0, top: 0, right: width, bottom: height };
    const [left, top, right, bottom] = way === "extend" ? grow : [0, 0, 0, 0];
    const all = { left: -left, top: -top, right: width + right, bottom: height + bottom };
    const { region, loss } = this.#preview;
    const { layout, block } = this.#place();
    this.#tiled = "";
    this.#easel.area = all;
    this.#easel.set({
      image: { bitmap, area },
      mask: way === "mask" ? this.#mask.canvas : null,
      region: region && { layout: regionLayout(region), bits: regionBits(region), area: all },
      loss,
      grid: way === "mask" && grid ? { layout, area, block, pixels: layout.dx * width } : null,
      tiles: null,
    });
  }

  #showRun() {
    const run = this.#run;
    const number = this.#number;
    const result = this.#shown === "tokens" ? null : run.result(number);
    const { width, height } = run.before;
    const source = { bitmap: run.before, area: { left: 0, top: 0, right: width, bottom: height } };
    const drawing = this.#shown !== "tokens" && !result && run.region !== null;
    if (drawing) this.#showTiles(run, number);
    else this.#tiled = "";
    this.#easel.area = run.area;
    this.#easel.set({
      image: result ? { bitmap: result, area: run.area } : source,
      region: this.#shown === "tokens" ? run.region : null,
      tiles: drawing ? run.area : null,
      mask: null,
      loss: null,
      grid: null,
    });
  }

  /** Show the tiles of an image that is being drawn. */
  #showTiles(run, number) {
    const name = `${run.id} ${number}`;
    const preview = run.job.live.previews.get(number);
    if (this.#tiled !== name) {
      this.#tiled = name;
      this.#easel.tiles.begin(run.region.layout, run.region.bits);
      this.tiledPreview = null;
    }
    if (preview && preview !== this.tiledPreview) this.#easel.tiles.show((this.tiledPreview = preview));
  }

  async #showCompare() {
    const run = this.#run;
    this.#easel.element.append(this.#compare.element);
    const after = await imageAddress(this.result.url);
    const before = run.job.source ? await imageAddress(`/api/results/${run.job.source}/content`) : this.#source.address;
    const { left, top, right, bottom } = run.area;
    this.#compare.show({ address: before, name: "Before" }, { address: after, name: "After" }, (right - left) / (bottom - top));
  }

  #showTriptych() {
    const run = this.#run;
    const views = [];
    if (run?.before && this.#source.blob) {
      const paint = (bitmap) => (context, side) => paintWhole(context, side, bitmap);
      views.push({ name: "before", text: "Before", paint: paint(this.#source.bitmap) });
      views.push({ name: "tokens", text: "Tokens", paint: (context, side) => paintTokens(context, side, run) });
      for (let image = 0; image < run.job.n; image++) {
        views.push({ name: image, text: run.job.n > 1 ? `After ${image + 1}` : "After", paint: paint(run.result(image)) });
      }
    }
    this.triptych.show(views, this.#shown);
  }

  /** Say how many tokens change, or why none do. */
  #showPill(before) {
    const { state, region, message } = this.#preview;
    const { way, prompt, source_prompt } = saved.form.edit;
    let text = "";
    if (before && state === "asking") text = "Looking for the tokens…";
    else if (before && state === "failed") text = message;
    else if (before && region) text = `${region.chosen} of ${count(region.tokens, "token")} will be filled again`;
    else if (before && way === "words") text = prompt.trim() && prompt.trim() === source_prompt.trim() ? "Change the words: they are what the image shows" : "Say what the image should show";
    else if (before && way === "mask" && this.#mask.full) text = "The mask covers everything; leave some of the image";
    else if (this.#shown === "tokens" && this.job?.region) text = `${this.job.region.chosen} of ${count(this.job.region.tokens, "token")} filled again`;
    this.#pill.hidden = text === "";
    this.#pill.classList.toggle("bad", before && state === "failed");
    say(this.#pill, text && text[0].toUpperCase() + text.slice(1));
  }

  #act(name, result, job) {
    if (name === "compare") this.show(this.#shown === "compare" ? this.#number : "compare");
    else this.act(name, result, job);
  }
}

/** Paint the image dimmed, and the tokens that change as tiles. */
function paintTokens(context, side, run) {
  context.globalAlpha = 0.35;
  const place = paintWhole(context, side, run.before);
  context.globalAlpha = 1;
  if (!run.region) return;
  const { layout, bits } = run.region;
  context.fillStyle = getComputedStyle(context.canvas).getPropertyValue("--gold");
  const [w, h_] = [layout.dx * place.width, layout.dy * place.height];
  bits.forEach((bit, index) => {
    const column = index % layout.columns;
    const row = (index - column) / layout.columns;
    if (bit) context.fillRect(place.x + layout.x * place.width + column * w, place.y + layout.y * place.height + row * h_, w * 0.9, h_ * 0.9);
  });
}
