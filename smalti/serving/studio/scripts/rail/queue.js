// Jobs that wait or run. Each is cancelled by itself.

import { $, h, icon } from "../base/dom.js";
import { problem } from "../base/notices.js";
import { progress, statusLine } from "../stage/facts.js";
import { jobs } from "../server/jobs.js";

/** Show the queue; `open` shows a job on the stage. */
export function buildQueue(open) {
  const rows = new Map();
  const cancel = (id) => jobs.cancel(id).catch(problem);
  $("#cancel-all").addEventListener("click", () => Promise.all(jobs.unfinished.map((job) => cancel(job.id))));

  const show = () => {
    const waiting = jobs.unfinished;
    $("#queue-section").hidden = waiting.length === 0;
    document.body.toggleAttribute("data-queue", waiting.length > 0);
    $("#cancel-all").hidden = waiting.length < 2;
    for (const [id, row] of rows) {
      if (waiting.some((job) => job.id === id)) continue;
      row.element.remove();
      rows.delete(id);
    }
    for (const job of waiting) {
      if (!rows.has(job.id)) rows.set(job.id, makeRow(job, open, cancel));
      const row = rows.get(job.id);
      $("#queue").append(row.element);
      row.show(job);
    }
  };
  jobs.on("list", show);
  jobs.on("job", (job) => rows.get(job.id)?.show(job));
}

function makeRow(job, open, cancel) {
  const text = h("small");
  const bar = h("span");
  const element = h(
    "li",
    {},
    h(
      "button",
      { type: "button", className: "open", onclick: () => open(jobs.get(job.id)) },
      h("b", {}, job.prompt),
      text,
    ),
    h(
      "button",
      {
        type: "button",
        className: "icon-button",
        "aria-label": `Cancel: ${job.prompt}`,
        title: "Cancel",
        onclick: () => cancel(job.id),
      },
      icon("close"),
    ),
    h("div", { className: "progress", "aria-hidden": "true" }, bar),
  );
  return {
    element,
    show(now) {
      text.textContent = statusLine(now);
      bar.style.width = `${100 * progress(now)}%`;
    },
  };
}
