// One edit that was sent: its job, the image it started from, and its results as bitmaps.

import { imageBlob } from "../server/api.js";
import { jobs } from "../server/jobs.js";
import { regionBits, regionLayout } from "../stage/tiles.js";

export class Run {
  before = null;
  #results = new Map();
  #asked = new Set();

  /** `changed` is called when a bitmap has come. */
  constructor(job, changed) {
    this.id = job.id;
    this.first = job;
    this.changed = changed;
    if (job.source) this.#load(`/api/results/${job.source}/content`, (bitmap) => (this.before = bitmap));
  }

  get job() {
    return jobs.get(this.id) ?? this.first;
  }

  /** Where the image lies: in pixels of the image before the edit, with what it grew by. */
  get area() {
    const [left, top, right, bottom] = this.grow;
    const { width, height } = this.before;
    return { left: -left, top: -top, right: width + right, bottom: height + bottom };
  }

  get grow() {
    return this.job.request.grow ?? [0, 0, 0, 0];
  }

  /** The tokens that change, ready to be painted, or null while they are not known. */
  get region() {
    const { region } = this.job;
    return region && this.before ? { layout: regionLayout(region), bits: regionBits(region), area: this.area } : null;
  }

  /** Return the bitmap of a result, or null while it is not there. */
  result(image) {
    const found = this.job.results[image];
    if (!found) return null;
    if (!this.#asked.has(found.id)) {
      this.#asked.add(found.id);
      this.#load(found.url, (bitmap) => this.#results.set(image, bitmap));
    }
    return this.#results.get(image) ?? null;
  }

  async #load(path, take) {
    try {
      take(await createImageBitmap(await imageBlob(path)));
      this.changed();
    } catch {
      // The server may have dropped an old image; the others are shown all the same.
    }
  }
}
