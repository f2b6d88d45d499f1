// The table of keys.

import { $ } from "./base/dom.js";
import { problem } from "./base/notices.js";
import { go, view } from "./base/views.js";
import { finished, jobs } from "./server/jobs.js";

/** Return the groups of keys that keys.js connects and lists. */
export function shortcuts(parts) {
  const { draw, edit, gallery } = parts;
  const current = () => (view() === "edit" ? edit.result : draw.result);
  const button = (name) => () => {
    const stage = view() === "edit" ? "#stage-edit" : "#stage-draw";
    const found = $(`${stage} [data-act="${name}"]`);
    if (!found || view() === "gallery") return false;
    found.click();
  };
  const beside = (step) => () => {
    const next = gallery.beside(draw.result, step);
    if (next) parts.open(next);
  };
  return [
    [
      "Everywhere",
      [
        [["Ctrl+Enter"], "Draw or edit", () => (view() === "gallery" ? false : parts.submit())],
        [["Shift+x", "Escape"], "Cancel the job that is shown", () => cancel(view() === "edit" ? edit.job : draw.job)],
        [["1"], "Draw", () => go("draw")],
        [["2"], "Edit", () => go("edit")],
        [["3"], "Gallery", () => go("gallery")],
        [["p"], "Write the prompt", () => (view() === "gallery" ? false : $("#prompt").focus())],
        [["s"], "Roll the seed", () => $("#roll").click()],
        [["l"], "Lock the seed", () => $("#lock").click()],
        [["?"], "This list", () => parts.showKeys()],
      ],
    ],
    [
      "Image",
      [
        [["ArrowLeft"], "Newer image", beside(-1)],
        [["ArrowRight"], "Older image", beside(1)],
        [["x"], "Edit", button("edit")],
        [["v"], "Vary", button("vary")],
        [["c"], "Compare", button("compare")],
        [["u"], "Use settings", button("reuse")],
        [["d"], "Download", button("download")],
        [["i"], "Details", button("info")],
        [["Delete"], "Delete", () => (current() ? button("delete")() : false)],
      ],
      "draw",
    ],
    ["Edit", edit.shortcuts(), "edit"],
  ];
}

function cancel(job) {
  if (!job || finished(job)) return false;
  jobs.cancel(job.id).catch(problem);
}
