// What the easel shows: the image with what is to change, or an edit with its tiles and its result.

import { saved } from "../base/saved.js";
import { count } from "../base/words.js";
import { imageAddress } from "../server/api.js";
import { regionBits, regionLayout } from "../stage/tiles.js";
import { paintWhole } from "./triptych.js";

export class Scene {
  #tiled = ""; // the image that the tiles show
  #preview = null; // the newest step that they show

  constructor(easel, source, mask, preview) {
    Object.assign(this, { easel, source, mask, preview });
  }

  /** Show the image before an edit; `place` is where its tokens lie. */
  showBefore({ layout, block }) {
    const { way, grow, grid } = saved.form.edit;
    const { bitmap, width, height } = this.source;
    const area = { left: 0, top: 0, right: width, bottom: height };
    const [left, top, right, bottom] = way === "extend" ? grow : [0, 0, 0, 0];
    const all = { left: -left, top: -top, right: width + right, bottom: height + bottom };
    const { region, loss } = this.preview;
    this.#tiled = "";
    this.easel.area = all;
    this.easel.set({
      image: { bitmap, area },
      mask: way === "mask" ? this.mask.canvas : null,
      region: region && { layout: regionLayout(region), bits: regionBits(region), area: all },
      loss,
      grid: way === "mask" && grid ? { layout, area, block, pixels: layout.dx * width } : null,
      tiles: null,
    });
  }

  /** Show an edit: its result with this number, the tiles until it is there, or the tokens it chose for null. */
  showRun(run, number) {
    const result = number === null ? null : run.result(number);
    const { width, height } = run.before;
    const drawing = number !== null && !result && run.region !== null;
    if (drawing) this.#showTiles(run, number);
    else this.#tiled = "";
    this.easel.area = run.area;
    this.easel.set({
      image: result
        ? { bitmap: result, area: run.area }
        : { bitmap: run.before, area: { left: 0, top: 0, right: width, bottom: height } },
      region: number === null ? run.region : null,
      tiles: drawing ? run.area : null,
      mask: null,
      loss: null,
      grid: null,
    });
  }

  #showTiles(run, number) {
    const name = `${run.id} ${number}`;
    const preview = run.job.live.previews.get(number);
    if (this.#tiled !== name) {
      this.#tiled = name;
      this.#preview = null;
      this.easel.tiles.begin(run.region.layout, run.region.bits);
    }
    if (preview && preview !== this.#preview) this.easel.tiles.show((this.#preview = preview));
  }

  /** Put the slider over the easel, with the image before and after an edit. */
  async compare(run, result, slider) {
    this.easel.element.append(slider.element);
    const after = await imageAddress(result.url);
    const before = run.job.source ? await imageAddress(`/api/results/${run.job.source}/content`) : this.source.address;
    const { left, top, right, bottom } = run.area;
    slider.show(
      { address: before, name: "Before" },
      { address: after, name: "After" },
      (right - left) / (bottom - top),
    );
  }
}

/** Return {text, bad}: how many tokens change, or why none do. */
export function regionText({ before, preview, mask, tokens }) {
  const { state, region, message } = preview;
  const { way, prompt, source_prompt } = saved.form.edit;
  const plain = (text) => ({ text, bad: false });
  if (!before) return plain(tokens ? `${tokens.chosen} of ${count(tokens.tokens, "token")} filled again` : "");
  if (state === "failed") return { text: message[0].toUpperCase() + message.slice(1), bad: true };
  if (region) return plain(`${region.chosen} of ${count(region.tokens, "token")} will be filled again`);
  if (state === "asking") return plain("Looking for the tokens…");
  if (way === "mask" && mask.full) return plain("The mask covers everything; leave some of the image");
  if (way !== "words") return plain("");
  const same = prompt.trim() !== "" && prompt.trim() === source_prompt.trim();
  return plain(same ? "Change the words: they are what the image shows" : "Say what the image should show");
}

/** Paint the image dimmed into a square, and the tokens that change as tiles. */
export function paintTokens(context, side, run) {
  context.globalAlpha = 0.35;
  const place = paintWhole(context, side, run.before);
  context.globalAlpha = 1;
  if (!run.region) return;
  const { layout, bits } = run.region;
  const [width, height] = [layout.dx * place.width, layout.dy * place.height];
  context.fillStyle = getComputedStyle(context.canvas).getPropertyValue("--gold");
  bits.forEach((bit, index) => {
    const column = index % layout.columns;
    const row = (index - column) / layout.columns;
    const [left, top] = [place.x + layout.x * place.width, place.y + layout.y * place.height];
    if (bit) context.fillRect(left + column * width, top + row * height, 0.9 * width, 0.9 * height);
  });
}
