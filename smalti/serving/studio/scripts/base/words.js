// Words and numbers as people read them.

const SHORT_NAMES = { num_inference_steps: "Steps", guidance_scale: "Guidance", top_k: "Top-k", top_p: "Top-p" };

/** Return a field's name as a label: "temperature_schedule" is "Temperature schedule". */
export function label(name) {
  const words = name.replaceAll("_", " ");
  return SHORT_NAMES[name] ?? words[0].toUpperCase() + words.slice(1);
}

/** Return a help text without the command line's spelling of options. */
export const help = (text) => text.replace(/--([a-z-]+)/g, (_, option) => option.replaceAll("-", " "));

export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

export const seconds = (value) =>
  value < 10 ? `${value.toFixed(1)} s` : value < 90 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`;

/** Return a value of a setting as text. */
export const shown = (value) => (Array.isArray(value) ? value.join(" to ") : value === null ? "" : String(value));

/** Return when something happened, as a person would say it. */
export function ago(time) {
  const passed = Date.now() / 1000 - time;
  if (passed < 60) return "just now";
  if (passed < 3600) return `${Math.round(passed / 60)} min ago`;
  if (passed < 86_400) return `${Math.round(passed / 3600)} h ago`;
  return new Date(time * 1000).toLocaleDateString();
}
