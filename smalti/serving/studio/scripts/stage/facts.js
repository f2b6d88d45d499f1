// What is known of an image: the list behind "Details", and the line below it.

import { h } from "../base/dom.js";
import { count, label, seconds, shown } from "../base/words.js";

const NAMES = { generation: "Drawn", edit: "Edited", variation: "Varied" };

/** Return the state of a job in a line. */
export function statusLine(job) {
  const { step, steps, images } = job.progress;
  if (job.live.broken) return "The connection broke. Trying again…";
  if (job.state === "queued")
    return job.position ? `Waiting: ${count(job.position, "job")} before this one` : "About to start";
  if (job.state === "running") {
    if (step === 0) return "Starting";
    const known = job.live.counts.reduce((sum, entry) => sum + entry.tokens - entry.unknown, 0);
    const tokens = job.live.counts.reduce((sum, entry) => sum + entry.tokens, 0);
    const filled = tokens ? ` · ${known} of ${tokens} tokens` : "";
    const done = job.n > 1 && images ? ` · ${images} of ${job.n} images` : "";
    return `Step ${step} of ${steps}${filled}${done}`;
  }
  if (job.state === "cancelled") return "Cancelled";
  if (job.state === "failed") return job.error?.message ?? "Failed";
  const took = job.ended && job.started ? ` in ${seconds(job.ended - job.started)}` : "";
  return `${NAMES[job.operation] ?? "Done"}${took}`;
}

/** Return the share of a job that is done, from 0 to 1. */
export const progress = (job) => (job.state === "completed" ? 1 : job.progress.step / Math.max(1, job.progress.steps));

/** Return a list of what made an image; `defaults` are the model's settings. */
export function factsOf(job, result, defaults) {
  const facts = [
    ["Prompt", result.prompt],
    ["Not to draw", job?.negative_prompt],
    ["It showed", job?.request.source_prompt],
    ["Seed", result.seed],
    ["Size", sizes(result)],
    ["Model", result.model],
    ["Steps", `${result.passes}${result.tokens_edited ? `, ${count(result.tokens_edited, "token")} revised` : ""}`],
    ["Preset", job?.request.preset],
    ["File", `${result.format.toUpperCase()}, ${Math.max(1, Math.round(result.bytes / 1024))} kB`],
  ];
  for (const [name, value] of Object.entries(job?.settings ?? {})) {
    if (["height", "width", "num_inference_steps"].includes(name)) continue;
    if (JSON.stringify(value) !== JSON.stringify(defaults?.[name])) facts.push([label(name), shown(value)]);
  }
  const rows = facts.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h(
    "dl",
    { className: "facts" },
    rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]),
  );
}

const sizes = ({ size, drawn_size }) =>
  size.replace("x", " × ") + (drawn_size && drawn_size !== size ? `, drawn at ${drawn_size.replace("x", " × ")}` : "");
