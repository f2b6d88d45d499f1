// From the editor's form to the fields and files of a request.

import { saved } from "../base/saved.js";
import { ApiError } from "../server/api.js";
import { chosenModel, commonFields } from "../panel/recipe.js";

/** Return {fields, files} of an edit; throws an ApiError with the field that is missing. */
export async function editRequest(info, source, mask) {
  const edit = saved.form.edit;
  if (!source.blob) throw new ApiError("Open an image first: a file, or one of the gallery");
  if (edit.way === "mask" && mask.empty) throw new ApiError("The mask is empty: paint what is to change");
  if (edit.way === "extend" && !edit.grow.some(Boolean))
    throw new ApiError("Drag a side of the image outwards first", { param: "grow" });
  const fields = {
    ...commonFields(info),
    operation: edit.way === "vary" ? "variation" : "edit",
    prompt: edit.prompt.trim(),
    ...wayFields(edit),
    keep_pixels: edit.keep_pixels ? null : false,
    blend: edit.blend ? null : false,
  };
  return { fields, files: { image: source.blob, mask: edit.way === "mask" ? await mask.toBlob() : null } };
}

function wayFields(edit) {
  if (edit.way === "vary") return { strength: edit.strength };
  if (edit.way === "extend") return { grow: edit.grow };
  if (edit.way === "mask") return { mask_mode: "white" };
  return { source_prompt: edit.source_prompt.trim(), [edit.by]: edit[edit.by] };
}

/** Return the way in which a job chose its tokens. */
export function wayOf({ operation, request, mask }) {
  if (operation === "variation" || request.strength) return "vary";
  if (request.grow) return "extend";
  return mask || request.mask_mode ? "mask" : "words";
}

/** Return what a preview of the region asks for, as preview.js wants it, or null if there is nothing to show yet. */
export function previewRequest(info, source, mask, version) {
  const edit = saved.form.edit;
  if (!source.blob) return null;
  const { preset, settings } = saved.form;
  const prompt = edit.prompt.trim();
  const shared = { model: chosenModel(info).id, preset };
  const image = async () => ({ image: source.blob });
  const key = (...values) => JSON.stringify([version.source, edit.way, shared, ...values]);
  if (edit.way === "words") {
    const before = edit.source_prompt.trim();
    if (!prompt || prompt === before) return null;
    const fields = { ...shared, ...settings, prompt, source_prompt: before };
    return {
      key: key(prompt, before, settings),
      fields,
      files: image,
      refine: { name: edit.by, value: edit[edit.by] },
    };
  }
  // The region of a mask and of added sides does not depend on words, which the server wants all the same.
  const words = { ...shared, prompt: prompt || "image" };
  if (edit.way === "mask" && !mask.empty && !mask.full) {
    const files = async () => ({ image: source.blob, mask: await mask.toBlob() });
    return { key: key(version.mask), fields: { ...words, mask_mode: "white" }, files, keeps: true };
  }
  if (edit.way === "extend" && edit.grow.some(Boolean)) {
    return { key: key(edit.grow), fields: { ...words, grow: edit.grow }, files: image };
  }
  return null;
}
