// Start: ask the server what it has, build the parts, and connect them.

import { askForKeys } from "./access.js";
import { buildActions } from "./actions.js";
import { $ } from "./base/dom.js";
import { announce, notice, problem } from "./base/notices.js";
import { saved } from "./base/saved.js";
import { buildTheme } from "./base/theme.js";
import { followAddress, go, view } from "./base/views.js";
import { buildDrop } from "./drop.js";
import { EditStage } from "./edit/stage.js";
import { buildKeys } from "./keys.js";
import { buildForm, clearErrors, showError } from "./panel/form.js";
import { drawingFields, fromMaking } from "./panel/recipe.js";
import { buildSettings } from "./panel/settings.js";
import { Gallery } from "./rail/gallery.js";
import { buildQueue } from "./rail/queue.js";
import { getJson } from "./server/api.js";
import { finished, jobs } from "./server/jobs.js";
import { shortcuts } from "./shortcuts.js";
import { DrawStage, knowModels } from "./stage/draw.js";

async function start() {
  buildTheme();
  followAddress();
  askForKeys();
  const info = await connect();
  knowModels(info.models);

  const parts = { info };
  const act = buildActions(parts);
  const open = (result) =>
    jobs
      .find(result.job)
      .then((job) => (parts.draw.show(job, result.image), go("draw")))
      .catch(problem);
  parts.draw = new DrawStage(info, act);
  parts.edit = new EditStage(info, act);
  parts.gallery = new Gallery(open, act);
  parts.open = open;
  parts.submit = () => submit(parts);
  parts.draw.onshow = () => parts.gallery.mark(parts.draw.result);

  buildForm(info, parts.submit);
  buildSettings(info);
  buildQueue((job) => (parts.draw.show(job), go("draw")));
  parts.offer = buildDrop(
    (making) => (saved.set(fromMaking(making, info)), go("draw"), announce("The form has the settings of the file")),
    (blob, name, making) =>
      parts.edit
        .open(blob, name, making)
        .then(() => go("edit"))
        .catch(problem),
  );
  parts.showKeys = buildKeys(shortcuts(parts));
  addEventListener("view", () => watchShown(parts));
  await restore(parts);
}

/** Return what the server says of itself; wait for it while it does not answer. */
async function connect() {
  let waiting = null;
  for (;;) {
    try {
      const info = await getJson("/api/info");
      waiting?.close();
      return info;
    } catch (error) {
      waiting ??= notice(error.message, { kind: "error", milliseconds: 1e9 });
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}

/** Draw or edit what the form says. */
async function submit(parts) {
  clearErrors();
  const button = $("#go");
  if (button.disabled) return;
  button.disabled = true;
  try {
    if (view() === "edit") await parts.edit.submit();
    else {
      const job = await jobs.submit(drawingFields(parts.info));
      // A job that is being watched is not taken from the stage by one that has to wait.
      if (!parts.draw.job || finished(parts.draw.job)) parts.draw.show(job);
      else announce("Queued");
    }
    if (matchMedia("(max-width: 760px)").matches) scrollTo({ top: 0, behavior: "smooth" });
  } catch (error) {
    showError(error);
  } finally {
    button.disabled = false;
  }
}

/** Follow the job that the present view shows, and no other. */
function watchShown(parts) {
  if (view() === "edit") parts.edit.watch();
  else if (view() === "draw") parts.draw.watch();
  else jobs.watch(null);
}

/** Put everything back as it was before a reload. */
async function restore(parts) {
  const { shown } = saved.form;
  await Promise.all([jobs.refresh(), parts.gallery.refresh()]).catch(problem);
  const running = jobs.unfinished[0];
  if (running && running.operation === "generation") parts.draw.show(running);
  else if (shown)
    await jobs.find(shown.job).then(
      (job) => parts.draw.show(job, shown.image),
      () => parts.draw.show(null),
    );
  await parts.edit.restore();
  watchShown(parts);
  followQueue(parts);
}

/** When the job on the stage is done and others wait, go on to the next one. */
function followQueue({ draw }) {
  let last = null;
  jobs.on("job", (job) => {
    if (job.id !== draw.job?.id || !finished(job) || job.id === last) return;
    last = job.id;
    setTimeout(() => {
      const next = jobs.unfinished.find(({ operation }) => operation === "generation");
      if (next && draw.job?.id === job.id && view() === "draw") draw.show(next);
    }, 900);
  });
}

start().catch(problem);
