// Server-sent events over fetch, because EventSource cannot send a key. A broken stream goes on where it stopped.

import { parse, request } from "./api.js";

const FIRST_WAIT = 500;
const LONGEST_WAIT = 8000;

/**
 * Follow the events of a job until it ends, or until `signal` is aborted.
 *
 * Calls `handle(name, data)` for each event. Throws an ApiError where the server says that there is no such job.
 */
export async function follow(job, handle, signal) {
  let last = null;
  let wait = FIRST_WAIT;
  while (!signal.aborted) {
    try {
      const headers = last === null ? {} : { "last-event-id": last };
      const response = await request(`/api/jobs/${job}/events`, { headers, signal });
      if (response.status === 204) return;
      for await (const event of readEvents(response.body)) {
        wait = FIRST_WAIT;
        last = event.id ?? last;
        handle(event.name, parse(event.data));
      }
      return; // the server closes a stream at the end of its job only
    } catch (error) {
      if (signal.aborted) return;
      if (error.status >= 400 && error.status < 500) throw error;
      handle("broken", { wait });
      await new Promise((resolve) => setTimeout(resolve, wait));
      wait = Math.min(wait * 2, LONGEST_WAIT);
    }
  }
}

/** Yield {name, data, id} of each event of a stream. */
export async function* readEvents(stream) {
  let event = { name: "message", data: [], id: null };
  for await (const line of readLines(stream)) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (line === "") {
      if (event.data.length) yield { ...event, data: event.data.join("\n") };
      event = { name: "message", data: [], id: null };
    } else if (field === "event") event.name = value;
    else if (field === "data") event.data.push(value);
    else if (field === "id") event.id = value;
  }
}

async function* readLines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      yield* lines;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
