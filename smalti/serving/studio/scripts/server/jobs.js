// The jobs of the server, as far as this page knows them.
//
// The job on the stage is followed by its events, with previews. The others are asked for now and then: a browser
// opens six connections to a server, and six streams would leave none for anything else.

import { Emitter } from "../base/emitter.js";
import { getJson, post, remove, send } from "./api.js";
import { follow } from "./events.js";

const BUSY_MILLISECONDS = 1500;
const LIMIT = 50;

export const finished = (job) => !["queued", "running"].includes(job.state);

/** Events: "list" (jobs came, went or changed state), "job" (one changed), "result" (an image is done). */
class Jobs extends Emitter {
  #jobs = new Map();
  #watched = null;
  #timer = 0;
  #others = "BroadcastChannel" in window ? new BroadcastChannel("smalti.jobs") : null;

  constructor() {
    super();
    this.#others?.addEventListener("message", () => this.refresh().catch(() => {}));
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh().catch(() => {}));
  }

  /** The jobs that are known, the newest first. */
  get all() {
    return [...this.#jobs.values()].sort((a, b) => b.created - a.created);
  }

  get unfinished() {
    return this.all.filter((job) => !finished(job)).reverse();
  }

  get(id) {
    return this.#jobs.get(id) ?? null;
  }

  /** Return a job, asking the server if this page does not know it. */
  async find(id) {
    return this.get(id) ?? this.#take(await getJson(`/api/jobs/${id}`));
  }

  async refresh() {
    const { data } = await getJson(`/api/jobs?limit=${LIMIT}`);
    for (const job of data) this.#take(job);
    const listed = new Set(data.map(({ id }) => id));
    const missing = this.unfinished.filter((job) => !listed.has(job.id));
    await Promise.all(missing.map((job) => this.#ask(job)));
    this.emit("list");
    this.#later();
  }

  async submit(fields, files) {
    const job = this.#take(await send("/api/jobs", fields, files));
    this.#changed();
    return job;
  }

  async cancel(id) {
    this.#take(await post(`/api/jobs/${id}/cancel`));
    this.#changed();
  }

  async remove(id) {
    await remove(`/api/jobs/${id}`);
    this.#jobs.delete(id);
    this.#changed();
  }

  /** Forget a result that was deleted. */
  forgetResult(id) {
    for (const job of this.#jobs.values()) job.results = job.results.filter((result) => result?.id !== id);
  }

  /** Follow one job with previews, and no other. */
  watch(id) {
    if (this.#watched?.id === id) return;
    this.#watched?.stop.abort();
    this.#watched = null;
    const job = this.get(id);
    if (job && !finished(job)) this.#follow(id);
    this.#later(); // a job that is no longer followed goes on
  }

  #follow(id) {
    const stop = new AbortController();
    this.#watched = { id, stop };
    follow(id, (name, data) => this.#event(id, name, data), stop.signal)
      .catch((error) => this.#lose(id, error))
      .finally(() => {
        if (this.#watched?.stop === stop) this.#watched = null;
      });
  }

  #event(id, name, data) {
    const job = this.#jobs.get(id);
    if (!job) return;
    const live = job.live;
    live.broken = name === "broken";
    if (name === "job") {
      this.#take(data);
      this.#changed();
      return;
    }
    if (name === "queued") job.position = data.position;
    if (name === "running") Object.assign(job, { state: "running", started: data.started, position: null });
    if (name === "selected") job.region = data.region;
    if (name === "step") {
      Object.assign(job, { state: "running", position: null });
      Object.assign(job.progress, { step: data.step, steps: data.steps });
      live.counts = data.images;
      for (const preview of data.previews ?? []) live.previews.set(preview.image, unpack(preview));
    }
    if (name === "image") {
      job.results[data.image] = data.result;
      job.progress.images = job.results.filter(Boolean).length;
      this.emit("result", data.result);
    }
    this.emit("job", job);
    if (name === "running") this.emit("list");
  }

  async #ask(job) {
    try {
      this.#take(await getJson(`/api/jobs/${job.id}`));
    } catch (error) {
      if (error.status >= 400) this.#lose(job.id, error);
    }
  }

  /** End a job that the server knows no more, such as after a restart. */
  #lose(id, error) {
    const job = this.get(id);
    if (!job || finished(job)) return;
    Object.assign(job, { state: "failed", error: { message: error.message }, position: null });
    this.emit("job", job);
    this.#changed();
  }

  /** Keep a job as the server describes it, with what only this page knows of it. */
  #take(job) {
    const old = this.#jobs.get(job.id);
    job.live = old?.live ?? { previews: new Map(), counts: [], broken: false };
    const before = new Set((old?.results ?? []).map((result) => result?.id));
    const results = [];
    for (const result of job.results) results[result.image] = result;
    job.results = results;
    // The list may be older than what the events have said since.
    if (old && !finished(job) && old.progress.step > job.progress.step) job.progress = old.progress;
    if (old && finished(old) && !finished(job)) return old;
    this.#jobs.set(job.id, job);
    if (old) {
      for (const result of results) if (result && !before.has(result.id)) this.emit("result", result);
      this.emit("job", job);
    }
    return job;
  }

  #changed() {
    this.emit("list");
    this.#others?.postMessage("changed");
    this.#later();
  }

  #later() {
    clearTimeout(this.#timer);
    const others = this.unfinished.filter((job) => job.id !== this.#watched?.id);
    if (others.length) this.#timer = setTimeout(() => this.refresh().catch(() => this.#later()), BUSY_MILLISECONDS);
  }
}

/** Return a preview with its colours and bits as arrays. */
function unpack({ grid, colors, known, edited }) {
  const count = grid[0] * grid[1];
  return { grid, colors: bytes(colors), known: bits(known, count), edited: bits(edited, count) };
}

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

function bits(text, count) {
  const packed = bytes(text);
  return Uint8Array.from({ length: count }, (_, index) => (packed[index >> 3] >> (7 - (index & 7))) & 1);
}

export const jobs = new Jobs();
