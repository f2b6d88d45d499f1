// The description in the Exif data of a JPEG or WebP file, where Smalti writes what made the image.
//
// Exif data are a small TIFF file: a byte order, and a directory of entries of twelve bytes: tag, type, count, value.

const DESCRIPTION = 0x010e;
const latin = new TextDecoder("latin1");
const utf8 = new TextDecoder();

/** Return the description of an image's Exif data, or null; throws a RangeError where they are damaged. */
export function readDescription(bytes) {
  const tiff = latin.decode(bytes.subarray(0, 4)) === "RIFF" ? inWebp(bytes) : inJpeg(bytes);
  if (!tiff) return null;
  const view = new DataView(tiff.buffer, tiff.byteOffset, tiff.byteLength);
  const little = view.getUint16(0) === 0x4949;
  const directory = view.getUint32(4, little);
  for (let entry = 0; entry < view.getUint16(directory, little); entry++) {
    const at = directory + 2 + 12 * entry;
    if (view.getUint16(at, little) !== DESCRIPTION) continue;
    const length = view.getUint32(at + 4, little);
    const start = length > 4 ? view.getUint32(at + 8, little) : at + 8; // short values lie in the entry itself
    return utf8.decode(tiff.subarray(start, start + length)).replace(/\0+$/, "");
  }
  return null;
}

/** Segments of a JPEG: a marker, a length that counts itself, content. */
function inJpeg(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 4 || view.getUint16(0) !== 0xffd8) return null;
  for (let at = 2; at + 10 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda;) {
    const length = view.getUint16(at + 2);
    const content = bytes.subarray(at + 4, at + 2 + length);
    if (bytes[at + 1] === 0xe1 && latin.decode(content.subarray(0, 6)) === "Exif\0\0") return content.subarray(6);
    at += 2 + length;
  }
  return null;
}

/** Chunks of a WebP: a name, a length, content, padded to an even length. */
function inWebp(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 12; at + 8 <= bytes.length;) {
    const length = view.getUint32(at + 4, true);
    const content = bytes.subarray(at + 8, at + 8 + length);
    const head = latin.decode(content.subarray(0, 6)) === "Exif\0\0" ? 6 : 0;
    if (latin.decode(bytes.subarray(at, at + 4)) === "EXIF") return content.subarray(head);
    at += 8 + length + (length % 2);
  }
  return null;
}
