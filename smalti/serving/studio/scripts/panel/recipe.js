// From the form to a request, and from a request or a file back to the form.

import { saved } from "../base/saved.js";

const LARGEST = 2 ** 32;

/** Return the description of the chosen model. */
export function chosenModel(info) {
  return info.models.find((model) => model.id === saved.form.model) ?? info.models[0];
}

/** Return a new seed: 32 bits are enough to never meet the same one twice, and short enough to be read out. */
export const rollSeed = () => String(Math.floor(Math.random() * LARGEST));

/** Return the fields that every request has; the seed is rolled unless it is locked. */
export function commonFields(info) {
  const form = saved.form;
  if (!form.locked || form.seed === "") saved.set({ seed: rollSeed() }, "roll");
  const fields = {
    model: chosenModel(info).id,
    seed: form.seed,
    n: form.n > 1 ? form.n : null,
    negative_prompt: form.negative_prompt.trim(),
    preset: form.preset,
    output_format: form.output_format === "png" ? null : form.output_format,
  };
  return { ...fields, ...form.settings };
}

/** Return the fields of a drawing. */
export function drawingFields(info) {
  const { prompt, size } = saved.form;
  return { ...commonFields(info), prompt: prompt.trim(), size: size === "auto" ? null : size };
}

/** Return the form's fields for what a client asked for before: the fields of `job.request`. */
export function fromRequest(request, info, seed) {
  const settings = Object.fromEntries(Object.entries(request).filter(([name]) => info.settings.includes(name)));
  const { height, width, ...others } = settings;
  return {
    ...(known(info, request.model) ? { model: request.model } : {}),
    prompt: request.prompt ?? "",
    negative_prompt: request.negative_prompt ?? "",
    preset: request.preset ?? "",
    n: request.n ?? 1,
    size: height && width ? `${width}x${height}` : (request.size ?? "auto"),
    output_format: request.output_format ?? "png",
    seed: String(seed ?? request.seed ?? ""),
    locked: true,
    settings: others,
  };
}

/**
 * Return the form's fields for what a file says of itself: {prompt, seed, settings, …}.
 *
 * A file has every setting. The preset that explains most of them is taken, and the others are set beside it.
 */
export function fromMaking(making, info) {
  const model = known(info, making.model) ?? chosenModel(info);
  const { height, width, ...settings } = making.settings;
  const candidates = [["", model.settings], ...Object.entries(model.presets)];
  const [preset, others] = candidates
    .map(([name, values]) => [name, differing(settings, values, info)])
    .sort(([, a], [, b]) => Object.keys(a).length - Object.keys(b).length)[0];
  const own = width === model.size[0] && height === model.size[1];
  return {
    model: model.id,
    prompt: making.prompt,
    negative_prompt: making.negative_prompt,
    preset,
    n: 1,
    size: own || !width ? "auto" : `${width}x${height}`,
    ...(making.seed ? { seed: making.seed, locked: true } : {}),
    settings: others,
  };
}

const known = (info, id) => info.models.find((model) => model.id === id);

const differing = (settings, values, info) =>
  Object.fromEntries(
    Object.entries(settings).filter(
      ([name, value]) => info.settings.includes(name) && JSON.stringify(value) !== JSON.stringify(values[name]),
    ),
  );
