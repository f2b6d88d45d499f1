// What was drawn, the newest first. Arrow keys walk through it; a deletion can be undone for a few seconds.

import { $, $$, h, icon } from "../base/dom.js";
import { Emitter } from "../base/emitter.js";
import { notice, problem } from "../base/notices.js";
import { count } from "../base/words.js";
import { dropImage, getJson, imageAddress, remove } from "../server/api.js";
import { jobs } from "../server/jobs.js";

const PAGE = 40;
const UNDO_MILLISECONDS = 5000;

/** Events: "change" (images came or went). */
export class Gallery extends Emitter {
  #results = [];
  #items = new Map();
  #leaving = new Map(); // deleted on this page, not yet on the server
  #current = null;
  #more = false;
  #looking = new IntersectionObserver((entries) => this.#load(entries), { rootMargin: "400px" });

  /** open(result) shows an image; act(name, result) does what a button says. */
  constructor(open, act) {
    super();
    this.open = open;
    this.act = act;
    jobs.on("result", (result) => this.#add([result]));
    $("#older").addEventListener("click", () => this.older().catch(problem));
    $("#images").addEventListener("keydown", (event) => this.#key(event));
    addEventListener("pagehide", () => this.#deleteAll());
  }

  get results() {
    return this.#results;
  }

  async refresh() {
    const { data } = await getJson(`/api/results?limit=${PAGE}`);
    this.#more = data.length === PAGE;
    this.#add(data);
  }

  async older() {
    const { data } = await getJson(`/api/results?limit=${PAGE}&before=${this.#results.at(-1).created}`);
    this.#more = data.length === PAGE;
    this.#add(data);
  }

  /** Mark the image that is on the stage. */
  mark(result) {
    this.#current = result?.id ?? null;
    for (const [id, item] of this.#items) {
      const here = id === this.#current;
      if (here) item.thumb.setAttribute("aria-current", "true");
      else item.thumb.removeAttribute("aria-current");
    }
    this.#roving();
  }

  /** Return the image after (1) or before (-1) another one in the list. */
  beside(result, step) {
    const at = this.#results.findIndex(({ id }) => id === result?.id);
    return at < 0 ? (this.#results[0] ?? null) : (this.#results[at + step] ?? null);
  }

  /** Delete an image, unless the person changes their mind. */
  delete(result) {
    const at = this.#results.findIndex(({ id }) => id === result.id);
    if (at < 0) return;
    const hadFocus = this.#items.get(result.id)?.element.contains(document.activeElement);
    this.#results.splice(at, 1);
    const timer = setTimeout(() => this.#deleteNow(result), UNDO_MILLISECONDS);
    this.#leaving.set(result.id, { result, timer });
    this.#show();
    if (hadFocus) (this.#items.get((this.#results[at] ?? this.#results[at - 1])?.id)?.thumb ?? $("#rail")).focus();
    notice("Image deleted", {
      milliseconds: UNDO_MILLISECONDS,
      action: { label: "Undo", run: () => this.#undo(result) },
    });
  }

  #undo(result) {
    const leaving = this.#leaving.get(result.id);
    if (!leaving) return;
    clearTimeout(leaving.timer);
    this.#leaving.delete(result.id);
    this.#add([result]);
    this.open(result);
  }

  async #deleteNow(result, options = {}) {
    this.#leaving.delete(result.id);
    try {
      await remove(`/api/results/${result.id}`, options);
    } catch (error) {
      if (error.status !== 404 && error.status !== 410) {
        problem(error);
        this.#add([result]);
        return;
      }
    }
    dropImage(result.url);
    dropImage(result.thumbnail);
    jobs.forgetResult(result.id);
  }

  /** Delete at once what still waits: the page is being closed. */
  #deleteAll() {
    for (const { result, timer } of this.#leaving.values()) {
      clearTimeout(timer);
      this.#deleteNow(result, { keepalive: true });
    }
  }

  #add(results) {
    for (const result of results) {
      if (this.#leaving.has(result.id) || this.#results.some(({ id }) => id === result.id)) continue;
      this.#results.push(result);
    }
    this.#results.sort((a, b) => b.created - a.created || b.image - a.image);
    this.#show();
  }

  #show() {
    const list = $("#images");
    const wanted = new Set(this.#results.map(({ id }) => id));
    for (const [id, item] of this.#items) {
      if (wanted.has(id)) continue;
      this.#looking.unobserve(item.thumb);
      item.element.remove();
      this.#items.delete(id);
    }
    this.#results.forEach((result, index) => {
      if (!this.#items.has(result.id)) this.#items.set(result.id, this.#make(result));
      const { element } = this.#items.get(result.id);
      if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
    });
    $("#gallery-empty").hidden = this.#results.length > 0;
    $("#gallery-count").textContent = this.#results.length
      ? count(this.#results.length, "image") + (this.#more ? " and older" : "")
      : "";
    $("#older").hidden = !this.#more;
    this.#roving();
    this.emit("change");
  }

  #make(result) {
    const image = h("img", { alt: "" });
    const thumb = h(
      "button",
      {
        type: "button",
        className: "thumb",
        "aria-label": result.prompt || "Image",
        title: result.prompt,
        onclick: () => this.open(result),
      },
      image,
    );
    const actions = [
      ["edit", "Edit"],
      ["vary", "Vary"],
      ["reuse", "Use settings"],
      ["delete", "Delete"],
    ].map(([name, text]) =>
      h(
        "button",
        {
          type: "button",
          className: "icon-button",
          title: text,
          "aria-label": `${text}: ${result.prompt}`,
          onclick: () => this.act(name, result),
        },
        icon(name),
      ),
    );
    const element = h(
      "li",
      {},
      thumb,
      h("p", { className: "thumb-name" }, result.prompt),
      h("div", { className: "thumb-actions" }, actions),
    );
    thumb.result = result;
    this.#looking.observe(thumb);
    return { element, thumb };
  }

  /** Load the thumbnails that are about to be seen. */
  #load(entries) {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      this.#looking.unobserve(target);
      const image = target.querySelector("img");
      imageAddress(target.result.thumbnail)
        .then((address) => ((image.src = address), image.decode()))
        .then(
          () => image.classList.add("in"),
          () => {},
        );
    }
  }

  /** One image of the list takes the focus by Tab; arrows do the rest. */
  #roving() {
    const thumbs = $$(".thumb", $("#images"));
    const chosen = thumbs.find((thumb) => thumb.result.id === this.#current) ?? thumbs[0];
    for (const thumb of thumbs) thumb.tabIndex = thumb === chosen ? 0 : -1;
  }

  #key(event) {
    const thumb = event.target.closest(".thumb");
    if (!thumb || event.ctrlKey || event.metaKey || event.altKey) return;
    const thumbs = $$(".thumb", $("#images"));
    const at = thumbs.indexOf(thumb);
    const columns =
      thumbs.filter(
        (other) =>
          other.offsetTop === thumbs[0].offsetTop &&
          other.closest("li").offsetTop === thumbs[0].closest("li").offsetTop,
      ).length || 1;
    const steps = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -columns,
      ArrowDown: columns,
      Home: -at,
      End: thumbs.length - 1 - at,
    };
    if (event.key in steps) {
      event.preventDefault();
      event.stopPropagation();
      const next = thumbs[at + steps[event.key]];
      if (!next) return;
      thumb.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    } else if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      event.stopPropagation();
      this.delete(thumb.result);
    }
  }
}
