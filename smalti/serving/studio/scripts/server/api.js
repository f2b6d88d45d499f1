// The server's endpoints. Every fault becomes an ApiError with the server's own words.

const KEY = "smalti.key";

export class ApiError extends Error {
  constructor(message, { param = null, code = null, status = 0, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { param, code, status, retryAfter });
  }
}

let askForKey = null;
let asking = null;

/** Say who asks the person for a key when the server wants one: a function that returns a promise of it. */
export const onKeyNeeded = (ask) => (askForKey = ask);

export const currentKey = () => sessionStorage.getItem(KEY);

/** Return the answer to a request; ask for a key where one is needed, and try again. */
export async function request(path, options = {}) {
  for (let attempt = 0; ; attempt++) {
    const key = currentKey();
    const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server does not answer. Is it still running?", { code: "unreachable" });
    }
    if (response.ok) return response;
    const problem = await readError(response);
    if (response.status !== 401 || askForKey === null || attempt > 4) throw problem;
    // Several requests fail at once; the person is asked once.
    if (key === currentKey()) {
      asking ??= askForKey(key ? problem.message : "").finally(() => (asking = null));
      sessionStorage.setItem(KEY, await asking);
    }
  }
}

async function readError(response) {
  const retryAfter = Number(response.headers.get("retry-after")) || null;
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // A proxy's answer, perhaps.
  }
  const message = error.message ?? `The server answered ${response.status} ${response.statusText}`;
  return new ApiError(message, { ...error, status: response.status, retryAfter });
}

/** Parse JSON, with seeds as text: JavaScript's numbers are exact only up to 2^53, seeds go up to 2^63. */
export function parse(text) {
  const quoted = text
    .replace(/("seed":\s*)(\d{16,})/g, '$1"$2"')
    .replace(/("seeds":\s*)\[([\d,\s]*)\]/g, (_, name, list) => `${name}[${list.replace(/\d{16,}/g, '"$&"')}]`);
  return JSON.parse(quoted);
}

export const getJson = async (path, options) => parse(await (await request(path, options)).text());

export const post = (path) => getJson(path, { method: "POST" });

export const remove = (path, options = {}) => request(path, { method: "DELETE", ...options });

/** Send fields, and files if there are any, as a form; lists are joined by commas. */
export function send(path, fields, files = {}, options = {}) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value === null || value === undefined || value === "") continue;
    form.append(name, Array.isArray(value) ? value.join(",") : String(value));
  }
  for (const [name, blob] of Object.entries(files)) {
    if (blob) form.append(name, blob, name);
  }
  return getJson(path, { method: "POST", body: form, ...options });
}

const addresses = new Map();
const MOST_IMAGES = 60; // whole ones that are kept in memory; thumbnails are small

/** Return an address for an image of the server that an <img> can show although it needs a key. */
export function imageAddress(path) {
  if (!addresses.has(path)) {
    const made = request(path)
      .then((response) => response.blob())
      .then((blob) => URL.createObjectURL(blob));
    made.catch(() => addresses.delete(path));
    addresses.set(path, made);
    const whole = [...addresses.keys()].filter((one) => one.endsWith("/content"));
    if (whole.length > MOST_IMAGES) dropImage(whole[0]);
  }
  return addresses.get(path);
}

export const imageBlob = async (path) => (await request(path)).blob();

/** Drop an image from memory. */
export function dropImage(path) {
  addresses.get(path)?.then(URL.revokeObjectURL, () => {});
  addresses.delete(path);
}
