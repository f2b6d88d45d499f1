// What a file says of itself: the texts of a PNG, read from its raw bytes in the browser; exif.js reads other formats.
//
// A PNG is a signature and chunks: length, type, content, checksum. Texts are in tEXt (Latin-1), zTXt (the same,
// compressed) and iTXt (UTF-8) chunks.

import { readDescription } from "./exif.js";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const LONGEST_TEXT = 1 << 22; // a compressed text may claim to be much larger than its chunk
const latin = new TextDecoder("latin1");
const utf8 = new TextDecoder();

/** Return the texts of a file by key; {} for one without texts and for a damaged one. */
export async function readTexts(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  if (SIGNATURE.every((value, index) => bytes[index] === value)) return readPng(bytes);
  try {
    const found = JSON.parse(readDescription(bytes) ?? "{}");
    return found && typeof found === "object" ? found : {};
  } catch {
    return {}; // a description in plain words, or a damaged one
  }
}

async function readPng(bytes) {
  const view = new DataView(bytes.buffer);
  const texts = {};
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at);
    const type = latin.decode(bytes.subarray(at + 4, at + 8));
    const content = bytes.subarray(at + 8, at + 8 + length);
    try {
      const found = await readChunk(type, content);
      if (found) texts[found[0]] = found[1];
    } catch {
      // One damaged text says nothing of the others.
    }
    if (type === "IEND") break;
    at += 12 + length;
  }
  return texts;
}

async function readChunk(type, content) {
  if (!["tEXt", "zTXt", "iTXt"].includes(type)) return null;
  const [key, rest] = split(content);
  if (type === "tEXt") return [latin.decode(key), latin.decode(rest)];
  if (type === "zTXt") return [latin.decode(key), latin.decode(await inflate(rest.subarray(1)))];
  const packed = rest[0] === 1;
  const [, afterLanguage] = split(rest.subarray(2));
  const [, text] = split(afterLanguage);
  return [latin.decode(key), utf8.decode(packed ? await inflate(text) : text)];
}

/** Return what is before the first zero byte and what is after it. */
function split(bytes) {
  const at = bytes.indexOf(0);
  return at < 0 ? [bytes, bytes.subarray(bytes.length)] : [bytes.subarray(0, at), bytes.subarray(at + 1)];
}

async function inflate(bytes) {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  const parts = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.length;
    if (length > LONGEST_TEXT) {
      await reader.cancel();
      throw new Error("the text is too long");
    }
    parts.push(value);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Return what Smalti wrote into a file as {prompt, negative_prompt, source_prompt, seed, settings, model}, or null. */
export async function readMaking(blob) {
  const texts = await readTexts(blob);
  if (!("prompt" in texts) && !("settings" in texts)) return null;
  let settings = {};
  try {
    settings = JSON.parse(texts.settings ?? "{}");
  } catch {
    // Another program's text; the prompt is still of use.
  }
  return {
    prompt: texts.prompt ?? "",
    negative_prompt: texts["negative prompt"] ?? "",
    source_prompt: texts["source prompt"] ?? "",
    seed: /^\d+$/.test(texts.seed ?? "") ? texts.seed : "",
    settings: settings && typeof settings === "object" ? settings : {},
    model: texts.model ?? "",
  };
}
