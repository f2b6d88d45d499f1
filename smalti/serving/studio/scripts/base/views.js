// The three views. Each has an address of its own, so that back, reload and bookmarks work.

import { $, $$ } from "./dom.js";

const VIEWS = ["draw", "edit", "gallery"];

export const view = () => document.body.dataset.view;

/** Return the view that the address names; the page follows it a moment later. */
function named() {
  const wanted = location.hash.slice(1);
  return VIEWS.includes(wanted) ? wanted : "draw";
}

/** Go to a view. */
export function go(name) {
  if (named() !== name) location.hash = name;
}

/** Follow the address, and tell the others with an event "view" of the window. */
export function followAddress() {
  let browsed = 0; // where the gallery was left
  const show = () => {
    const name = named();
    if (view() === "gallery") browsed = scrollY;
    document.body.dataset.view = name;
    // On a phone the page itself scrolls: every view begins with its image, and the gallery goes on where it was.
    scrollTo(0, name === "gallery" ? browsed : 0);
    for (const tab of $$(".tabs a")) {
      if (tab.dataset.view === name) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    document.title = `${name[0].toUpperCase()}${name.slice(1)} · Smalti studio`;
    $(".skip").href = name === "gallery" ? "#images" : "#prompt";
    dispatchEvent(new Event("view"));
  };
  addEventListener("hashchange", show);
  // The skip link's target is no view.
  $(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    (view() === "gallery" ? ($("#images .thumb") ?? $("#rail")) : $("#prompt")).focus();
  });
  show();
}
