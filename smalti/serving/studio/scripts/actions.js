// What the buttons of an image do, wherever they are.

import { h } from "./base/dom.js";
import { announce, notice, problem } from "./base/notices.js";
import { saved } from "./base/saved.js";
import { go } from "./base/views.js";
import { fromRequest } from "./panel/recipe.js";
import { imageAddress, imageBlob } from "./server/api.js";
import { jobs } from "./server/jobs.js";

/** Return act(name, result, job); `parts` are those of main.js, which are complete when a button is pressed. */
export function buildActions(parts) {
  const actions = {
    cancel: (_, job) => jobs.cancel(job.id),
    edit: (result) => edit(parts, result),
    vary: (result) => edit(parts, result, "vary"),
    reuse: (result, job) => reuse(parts, result, job),
    delete: (result) => remove(parts, result),
    compare: (result, job) => compare(parts, result, job),
    download,
  };
  return (name, result, job) => Promise.resolve(actions[name](result, job)).catch(problem);
}

/** Open an image in the editor, with its prompt as what it shows. */
async function edit(parts, result, way = null) {
  const blob = await imageBlob(result.url);
  await parts.edit.open(blob, fileName(result), { prompt: result.prompt });
  if (way) saved.setEdit({ way });
  go("edit");
}

/** Fill the form with what an image was made with. */
async function reuse(parts, result, job) {
  const found = job ?? (await jobs.find(result.job));
  const { request, prompt, negative_prompt } = found;
  // One image of several has a seed of its own, which draws it alone.
  const fields = fromRequest({ ...request, prompt, negative_prompt, n: 1 }, parts.info, result.seed);
  if (found.operation === "generation") {
    saved.set(fields);
    go("draw");
  } else {
    await parts.edit.reuse(found, fields);
    go("edit");
  }
  announce("The form has the settings of the image");
}

function remove(parts, result) {
  const { draw, gallery } = parts;
  const next = gallery.beside(result, 1) ?? gallery.beside(result, -1);
  const shown = draw.result?.id === result.id;
  gallery.delete(result);
  if (shown && next) parts.open(next);
  else if (shown) draw.show(null);
}

/** Compare an image with the one that it was made from, or with the one before it. */
async function compare({ draw, gallery }, result, job) {
  if (draw.comparing) {
    draw.compare(null);
    return;
  }
  if (job.source) {
    draw.compare({ address: await imageAddress(`/api/results/${job.source}/content`), name: "Before" });
    return;
  }
  const other = gallery.beside(result, 1) ?? gallery.beside(result, -1);
  if (!other) notice("There is no other image to compare with");
  else await compareWith(draw, other);
}

/** Compare the image on the stage with another one of the gallery. */
export async function compareWith(draw, other) {
  draw.compare({ address: await imageAddress(other.url), name: other.prompt });
}

async function download(result) {
  h("a", { href: await imageAddress(result.url), download: fileName(result) }).click();
}

/** Return a name that says what a file shows: "a-red-circle-42.png". */
export function fileName({ prompt, seed, format }) {
  const words = prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ["image"];
  return `${words.join("-").slice(0, 60)}-${seed}.${format === "jpeg" ? "jpg" : format}`;
}
