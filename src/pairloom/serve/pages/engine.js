/**
 * What translates, as the page sees it: the one module that knows of a server.
 *
 * Another engine (one that runs the model in the browser, say) has the same functions:
 *   models() -> {models, limits}: what the page must know of each model
 *   example(model, number) -> ImageBitmap: a source picture
 *   translate(model, imageData, {seed, samples, patches}, signal)
 *     -> {images: ImageBitmap[], mean, spread: ImageBitmap | null, mostSpread, patchMap, milliseconds}
 *   file(model, imageData, {seed}, signal) -> {blob, suffix}: the translation in the target's own depth
 *   onLoading(tell): tell is called with a sentence while a model loads, and with "" when it has
 * and takesFiles: can files that the page cannot show be sent to it?
 * What a model cannot do its description says: patches: null, noise: false. `model` is one of models(). It throws Dropped where a newer drawing has taken the place of this one, and
 * Refusal with a sentence for people.
 */

import { encodePng } from "./png.js";

const BASE = document.baseURI;
const TIMEOUT_MS = 120000;
export const takesFiles = true;

/** A newer drawing has taken the place of this one: nothing to say. */
export class Dropped extends Error {}

/** The translation is refused; the message is a sentence for people. */
export class Refusal extends Error {
  constructor(sentence, retrySeconds = null) {
    super(sentence);
    this.retrySeconds = retrySeconds;
  }
}

export async function models() {
  const found = await (await answered(new URL("api/models", BASE), {})).json();
  return found;
}

export async function example(model, number) {
  const url = new URL("api/example", BASE);
  url.search = new URLSearchParams({ model: model.name, number });
  return bitmap(await (await answered(url, {})).blob());
}

export async function translate(model, imageData, { seed = 0, samples = 1, patches = false }, signal) {
  const response = await send(model, imageData, { seed, samples, patches: patches ? 1 : 0 }, "application/json", signal);
  const found = await response.json();
  const decoded = (text) => (text === null ? null : bitmap(fromBase64(text)));
  const [images, mean, spread] = await Promise.all([
    Promise.all(found.images.map(decoded)),
    decoded(found.mean),
    decoded(found.spread),
  ]);
  return {
    images,
    mean,
    spread,
    mostSpread: found.most_spread,
    patchMap: found.patch_map && { ...found.patch_map, ...model.patches },
    milliseconds: found.milliseconds,
  };
}

export async function file(model, imageData, { seed = 0 }, signal) {
  const response = await send(model, imageData, { seed }, "image/png, image/tiff;q=0.9", signal);
  const kind = response.headers.get("content-type");
  return { blob: await response.blob(), suffix: kind === "image/png" ? ".png" : ".tif" };
}

/** The server has loaded its models before it answers at all. */
export function onLoading() {}

// -----------------------------------------------------------------------------------------------------------------
// Requests

const client = Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36)).join("");
const sent = new WeakMap();
let count = 0;

/** A drawing's number and its PNG: made once, however many models it is sent to. */
function prepared(imageData) {
  if (!sent.has(imageData)) sent.set(imageData, { number: ++count, png: encodePng(imageData) });
  return sent.get(imageData);
}

async function send(model, imageData, parameters, accept, signal) {
  const { number, png } = prepared(imageData);
  const url = new URL("api/translate", BASE);
  url.search = new URLSearchParams({ model: model.name, picture: 1, ...parameters });
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  return answered(url, {
    method: "POST",
    headers: {
      "Content-Type": "image/png",
      Accept: accept,
      "X-Drawing": `${client}-${hash(model.name)};${number}`,
    },
    body: await png,
    cache: "no-store",
    signal: signal ? AbortSignal.any([signal, limit]) : limit,
  });
}

async function answered(url, init) {
  let response;
  try {
    response = await fetch(url, init);
  } catch (error) {
    if (init.signal?.aborted && error.name === "AbortError") throw new Dropped();
    if (error.name === "TimeoutError") throw new Refusal("The server did not answer in time; it is tried again with the next change.", 5);
    throw new Refusal("The server cannot be reached. Is it still running?", 3);
  }
  if (response.status === 204) throw new Dropped();
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const retry = Number(response.headers.get("retry-after")) || null;
  throw new Refusal(said.error ?? `The server answered ${response.status}.`, retry);
}

/** Names may hold what a header may not. */
function hash(text) {
  let bits = 5381;
  for (const letter of text) bits = (bits * 33 + letter.codePointAt(0)) >>> 0;
  return bits.toString(36);
}

function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

const bitmap = (blob) => createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
