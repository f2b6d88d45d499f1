// Where the tokens of an image lie, before the server has said it: the image as large as fits in the middle of the
// model's canvas, as the server puts it there. What the server says replaces this.

import { regionLayout } from "../stage/tiles.js";

/** Return the layout of an image of width × height pixels, in fractions of its sides. */
export function guessLayout(width, height, model) {
  const [across, down] = model.size;
  const scale = Math.min(across / width, down / height);
  const w = Math.min(across, Math.max(1, Math.round(width * scale)));
  const h = Math.min(down, Math.max(1, Math.round(height * scale)));
  return regionLayout({
    grid: [down / model.token_pixels, across / model.token_pixels],
    canvas: [down, across],
    place: [Math.floor((down - h) / 2), Math.floor((across - w) / 2), h, w],
  });
}

/** Return the block of tokens at a point of the image, as a rectangle in its pixels, and its row and column. */
export function blockAt(layout, block, size, x, y) {
  const width = layout.dx * block * size.width;
  const height = layout.dy * block * size.height;
  const column = Math.floor((x - layout.x * size.width) / width);
  const row = Math.floor((y - layout.y * size.height) / height);
  return blockOf(layout, block, size, row, column);
}

/** Return the rectangle of a block by its row and column. */
export function blockOf(layout, block, size, row, column) {
  const width = layout.dx * block * size.width;
  const height = layout.dy * block * size.height;
  return {
    row,
    column,
    left: layout.x * size.width + column * width,
    top: layout.y * size.height + row * height,
    width,
    height,
  };
}
