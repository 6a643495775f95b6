/** Pictures out of the page: to a file, to the clipboard. */

import { encodePng } from "./png.js";

/** @param {ImageData | ImageBitmap | OffscreenCanvas} picture */
export function pixels(picture) {
  if (picture instanceof ImageData) return picture;
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(picture, 0, 0);
  return pen.getImageData(0, 0, picture.width, picture.height);
}

export function saveBlob(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

export async function savePicture(picture, name) {
  saveBlob(await encodePng(pixels(picture)), `${name}.png`);
}

export async function copyPicture(picture) {
  if (!window.ClipboardItem || !navigator.clipboard?.write) {
    throw new Error("the browser gives the clipboard only to pages from this machine or with HTTPS; save it instead");
  }
  await navigator.clipboard.write([new ClipboardItem({ "image/png": encodePng(pixels(picture)) })]);
}

/** Two pictures beside each other, without a gap, as pairs are kept. */
export function sideBySide(left, right) {
  const [a, b] = [pixels(left), pixels(right)];
  const canvas = new OffscreenCanvas(a.width + b.width, Math.max(a.height, b.height));
  const pen = canvas.getContext("2d");
  pen.putImageData(a, 0, 0);
  pen.putImageData(b, a.width, 0);
  return canvas;
}
