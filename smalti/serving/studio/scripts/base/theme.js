// Light, dark, or as the system has it.

import { $, icon } from "./dom.js";
import { saved } from "./saved.js";

const THEMES = ["auto", "light", "dark"];
const NAMES = { auto: "as the system", light: "light", dark: "dark" };

export function buildTheme() {
  const button = $("#theme");
  const show = () => {
    const { theme } = saved.form;
    document.documentElement.dataset.theme = theme;
    button.replaceChildren(icon(theme));
    button.setAttribute("aria-label", `Theme: ${NAMES[theme]}`);
    button.title = `Theme: ${NAMES[theme]}`;
  };
  button.addEventListener("click", () => {
    saved.set({ theme: THEMES[(THEMES.indexOf(saved.form.theme) + 1) % THEMES.length] }, "form");
    show();
  });
  show();
}
