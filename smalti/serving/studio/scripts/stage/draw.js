// The stage of the view "draw": the images of one job, from the first masked token to what can be done with them.

import { $, h } from "../base/dom.js";
import { saved } from "../base/saved.js";
import { view } from "../base/views.js";
import { imageAddress } from "../server/api.js";
import { jobs } from "../server/jobs.js";
import { blank } from "./blank.js";
import { Compare } from "./compare.js";
import { Foot } from "./foot.js";
import { Frame } from "./frame.js";
import { regionBits, regionLayout } from "./tiles.js";

export class DrawStage {
  #job = null;
  #image = null; // one of several that is looked at closely
  #frames = [];
  #other = null; // {address, name} of the image that this one is compared with
  #box = h("div", { className: "frames" });
  #compare = new Compare();
  #blank = blank(
    "An image begins as a grid of masked tokens",
    "Say what to draw. The model fills the grid in a few steps, and you watch it happen.",
  );

  /** info: of the server; act(name, result, job) does what a button says. */
  constructor(info, act) {
    this.foot = new Foot(info, act);
    $("#stage-draw").append(this.#blank.element, this.#box, this.foot.element);
    new ResizeObserver(() => this.#job && this.#updateFrames(this.#job)).observe(this.#box);
    jobs.on("job", (job) => job.id === this.#job?.id && this.#sync());
    jobs.on("list", () => this.#job && this.#sync());
    this.#update();
  }

  get job() {
    return this.#job;
  }

  /** The image that buttons and keys refer to, or null. */
  get result() {
    if (!this.#job) return null;
    return this.#job.results[this.#job.n === 1 ? 0 : (this.#image ?? -1)] ?? null;
  }

  get comparing() {
    return this.#other !== null;
  }

  /** Show a job, or one image of it; null shows the empty stage. */
  show(job, image = null) {
    const same = this.#job?.id === job?.id;
    this.#image = job && job.n > 1 ? image : null;
    this.#other = null;
    this.#job = job;
    if (!same) this.#begin();
    saved.set({ shown: job ? { job: job.id, image: this.#image } : null }, "stage");
    this.#update();
    this.watch();
    this.onshow?.();
  }

  /** Compare the image with another one, {address, name}; null ends the comparison. */
  compare(other) {
    this.#other = other;
    this.#update();
    if (other) this.#compare.focus();
  }

  /** Follow the events of the job that is shown. */
  watch() {
    if (this.#job && view() === "draw") jobs.watch(this.#job.id);
  }

  #sync() {
    const before = this.result;
    this.#job = jobs.get(this.#job.id) ?? this.#job;
    this.watch();
    this.#update();
    if (this.result !== before) this.onshow?.();
  }

  /** Put up a frame for each image of a job. */
  #begin() {
    for (const frame of this.#frames) frame.remove();
    const job = this.#job;
    this.#frames = Array.from({ length: job?.n ?? 0 }, (_, image) => {
      const frame = new Frame(() => job.n > 1 && this.show(this.#job, this.#image === null ? image : null));
      this.#box.append(frame.element);
      return frame;
    });
  }

  #update() {
    const job = this.#job;
    this.#blank.show(!job);
    this.#box.hidden = !job;
    if (job) this.#updateFrames(job);
    const all = job && this.#image !== null && { name: "back", text: `All ${job.n}`, run: () => this.show(job) };
    this.foot.show(job, this.result, { before: all ? [all] : [], comparing: this.comparing });
    const choose = job && job.n > 1 && this.#image === null && job.results.some(Boolean);
    if (choose && !job.warnings.length) this.foot.warn("Click an image to edit, vary or download it");
  }

  #updateFrames(job) {
    const alone = this.#image !== null;
    const [width, height] = pixels(job);
    const columns = alone ? 1 : arrangement(job.n, this.#box, width / height);
    this.#box.dataset.count = String(alone ? 1 : job.n);
    this.#box.style.setProperty("--columns", columns);
    this.#box.style.setProperty("--lines", alone ? 1 : Math.ceil(job.n / columns));
    const compared = this.comparing && this.result;
    if (compared) this.#showCompare(width / height);
    else this.#compare.element.remove();
    this.#frames.forEach((frame, image) => {
      frame.element.hidden = Boolean(compared) || (alone && image !== this.#image);
      const which = job.n > 1 ? `Image ${image + 1} of ${job.n}: ` : "";
      frame.shape(width, height, `${which}${job.prompt}`);
      showImage(frame, job, image);
    });
  }

  async #showCompare(ratio) {
    this.#box.append(this.#compare.element);
    const other = this.#other;
    const address = await imageAddress(this.result.url);
    if (other === this.#other) this.#compare.show(other, { address, name: "This image" }, ratio);
  }
}

/** Show one image of a job in its frame, as far as it is. */
function showImage(frame, job, image) {
  const result = job.results[image];
  frame.element.classList.toggle("stopped", !result && ["failed", "cancelled"].includes(job.state));
  if (!frame.begun && !result && (job.operation === "generation" || job.region)) beginFrame(frame, job);
  const preview = job.live.previews.get(image);
  if (frame.begun && preview && preview !== frame.shown && !result) frame.preview((frame.shown = preview));
  if (result)
    imageAddress(result.url).then(
      (address) => frame.finish(address, job.prompt),
      () => {},
    );
}

function beginFrame(frame, job) {
  if (!job.region) {
    const [preview] = job.live.previews.values();
    frame.begin(preview?.grid ?? gridOf(job));
    return;
  }
  frame.begin(job.region.grid, { layout: regionLayout(job.region), within: regionBits(job.region) });
  if (job.source)
    imageAddress(`/api/results/${job.source}/content`).then(
      (address) => frame.base(address, inset(job)),
      () => {},
    );
}

/** Return the place of the source image on the edited one, which may have grown. */
export function inset(job) {
  const [left, top, right, bottom] = job.request.grow ?? [0, 0, 0, 0];
  const [height, width] = job.region.size;
  return {
    left: left / width,
    top: top / height,
    width: (width - left - right) / width,
    height: (height - top - bottom) / height,
  };
}

let tokenPixels = new Map();
/** Say how many pixels a token of each model has, so that a grid can be shown before the first step. */
export const knowModels = (models) => (tokenPixels = new Map(models.map((model) => [model.id, model.token_pixels])));

function gridOf(job) {
  const side = tokenPixels.get(job.model) ?? 16;
  const [width, height] = job.drawn_size.split("x").map((pixels) => Math.max(1, Math.round(pixels / side)));
  return [height, width];
}

/** Return the size of a job's images in pixels. */
function pixels(job) {
  const size = job.results.find(Boolean)?.size ?? (/^\d+x\d+$/.test(job.request.size ?? "") ? job.request.size : null);
  if (size) return size.split("x").map(Number);
  if (job.region) return [job.region.size[1], job.region.size[0]];
  return job.drawn_size.split("x").map(Number);
}

/** Return the number of columns that shows so many images largest. */
function arrangement(number, box, ratio) {
  const [width, height] = [box.clientWidth || 1, box.clientHeight || 1];
  let best = 1;
  let largest = 0;
  for (let columns = 1; columns <= number; columns++) {
    const size = Math.min(width / columns, (height / Math.ceil(number / columns)) * ratio);
    if (size > largest + 1) [best, largest] = [columns, size];
  }
  return best;
}
