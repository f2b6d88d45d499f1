// The image that is edited: the file as it came, so that the server gets its tokens and its metadata too.

import { Emitter } from "../base/emitter.js";
import { forget, keep, recall } from "../base/kept.js";
import { readMaking } from "../base/metadata.js";

const KEY = "source";

/** Events: "change". */
export class Source extends Emitter {
  blob = null;
  bitmap = null;
  name = "";
  address = null;

  get width() {
    return this.bitmap?.width ?? 0;
  }

  get height() {
    return this.bitmap?.height ?? 0;
  }

  /** Take an image, and return what its file says of itself, or null. */
  async open(blob, name) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(blob);
    } catch {
      throw new Error(`${name || "The file"} cannot be read as an image`);
    }
    this.#set(blob, name, bitmap);
    keep(KEY, { blob, name });
    return readMaking(blob);
  }

  close() {
    this.#set(null, "", null);
    forget(KEY);
  }

  /** Take the image that was open before a reload. */
  async restore() {
    const kept = await recall(KEY);
    if (!kept) return;
    const bitmap = await createImageBitmap(kept.blob).catch(() => null);
    if (bitmap) this.#set(kept.blob, kept.name, bitmap);
  }

  #set(blob, name, bitmap) {
    if (this.address) URL.revokeObjectURL(this.address);
    Object.assign(this, { blob, name, bitmap, address: blob && URL.createObjectURL(blob) });
    this.emit("change");
  }
}
