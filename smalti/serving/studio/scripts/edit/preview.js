// The tokens that an edit would change, before anything is drawn.
//
// The server computes the losses of an automatic selection once. Moving a slider after that asks for another threshold
// only, which it answers at once.

import { Emitter } from "../base/emitter.js";
import { debounce } from "../base/dom.js";
import { getJson, send } from "../server/api.js";

const QUIET_MILLISECONDS = 350;

/** Events: "change". `state` is "idle", "asking", "shown" or "failed". */
export class Preview extends Emitter {
  state = "idle";
  region = null;
  loss = null;
  message = "";
  #wanted = null;
  #found = null; // {key, id} of the selection that a slider refines
  #stop = new AbortController();
  #later = debounce(() => this.#ask(), QUIET_MILLISECONDS);

  /**
   * Say what is to be shown: null for nothing, or {key, fields, files, refine}.
   *
   * `key` tells requests apart; `refine` {name, value} is a slider's value, which does not need the losses again; `files`
   * returns a promise of the files.
   */
  want(wanted) {
    const same =
      JSON.stringify([wanted?.key, wanted?.refine]) === JSON.stringify([this.#wanted?.key, this.#wanted?.refine]);
    if (same) return;
    const anew = wanted?.key !== this.#wanted?.key;
    this.#wanted = wanted;
    this.#stop.abort();
    this.#later.cancel();
    if (!wanted) this.#set("idle", null, null, "");
    else if (!anew && this.#found?.key === wanted.key) this.#refine();
    else {
      this.#set("asking", anew && !wanted.keeps ? null : this.region, null, "");
      this.#later();
    }
  }

  /** Ask again although nothing changed, such as after the server came back. */
  forget() {
    this.#wanted = this.#found = null;
    this.#stop.abort();
    this.#later.cancel();
    this.#set("idle", null, null, "");
  }

  async #ask() {
    const { key, fields, files, refine } = this.#wanted;
    await this.#run(async (signal) => {
      const sent = { ...fields, ...(refine ? { [refine.name]: refine.value } : {}) };
      const found = await send("/api/selections", sent, await files(), { signal });
      this.#found = { key, id: found.id };
      return found;
    });
  }

  async #refine() {
    const { name, value } = this.#wanted.refine;
    await this.#run((signal) => getJson(`/api/selections/${this.#found.id}?${name}=${value}`, { signal }));
  }

  async #run(request) {
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    try {
      const { region, loss } = await request(signal);
      if (!signal.aborted) this.#set("shown", region, loss?.flat() ?? null, "");
    } catch (error) {
      if (signal.aborted) return;
      // The server keeps a limited number of selections.
      if (error.status === 404 && this.#found) {
        this.#found = null;
        await this.#ask();
      } else this.#set("failed", null, null, error.message);
    }
  }

  #set(state, region, loss, message) {
    Object.assign(this, { state, region, loss, message });
    this.emit("change");
  }
}
