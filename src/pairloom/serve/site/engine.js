/**
 * What translates, as the page sees it, without a server: the model runs in this browser. It takes the place of the
 * engine that asks a server, and has its functions; what they promise is written there.
 */

const BASE = document.baseURI;
export const takesFiles = false;

/** A newer drawing has taken the place of this one: nothing to say. */
export class Dropped extends Error {}

/** The translation is refused; the message is a sentence for people. */
export class Refusal extends Error {
  retrySeconds = null;
}

export async function models() {
  const found = await (await answered("models.json")).json();
  const backend = new URL(BASE).searchParams.get("backend");
  worker.postMessage({ act: "begin", webgpu: found.webgpu, backend });
  return found;
}

export async function example(model, number) {
  const blob = await (await answered(model.site.examples[number])).blob();
  return createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}

export async function translate(model, image, { seed = 0, samples = 1 }, signal) {
  const { width, height } = image;
  const [images, outputs] = [[], []];
  let milliseconds = 0;
  let by = "";
  for (let sample = 0; sample < samples; sample++) {
    const made = await ask({ act: "translate", model, seed, sample, picture: plain(image) }, image, { many: samples > 1, signal });
    images.push(made.image);
    outputs.push(made.y);
    milliseconds += made.milliseconds;
    by = made.by;
  }
  const none = { mean: null, spread: null, mostSpread: null };
  const gathered = samples > 1 ? await ask({ act: "gather", model, outputs, width, height }, image, { many: true, signal }) : none;
  return { images, ...gathered, patchMap: null, milliseconds, by };
}

export async function file(model, image, { seed = 0 }) {
  const { bytes } = await ask({ act: "file", model, seed, picture: plain(image) }, image, { kept: true });
  return { blob: new Blob([bytes], { type: "application/octet-stream" }), suffix: ".npy" };
}

let tell = () => {};
/** Called with a sentence while a model loads, and with "" when it has. */
export function onLoading(said) {
  tell = said;
}

async function answered(address) {
  let response;
  try {
    response = await fetch(new URL(address, BASE));
  } catch {
    throw new Refusal(`The page's own ${address} cannot be loaded. Is the network there?`);
  }
  if (!response.ok) throw new Refusal(`The page's own ${address} is missing: the folder was not copied whole.`);
  return response;
}

const plain = ({ width, height, data }) => ({ width, height, data });

// -----------------------------------------------------------------------------------------------------------------
// The worker: one thing at a time, the newest drawing first

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const newest = new Map();
const numbers = new WeakMap();
let count = 0;
let waiting = [];
let doing = null;

worker.addEventListener("message", ({ data }) => {
  if (data.loading) {
    const { name, done, of, ready } = data.loading;
    tell(ready ? "" : `${name}: loading the model, ${(done / 1e6).toFixed(1)} of ${(of / 1e6).toFixed(1)} MB.`);
    return;
  }
  if (!doing) return;
  if (data.failed === undefined) doing.resolve(data.found);
  else doing.reject(new Refusal(`This browser cannot run the model: ${data.failed}. A smaller canvas may work, or another browser.`));
  doing = null;
  next();
});
worker.addEventListener("error", () => {
  const sentence = "The page's worker.js cannot be run: the folder was not copied whole, or the browser is too old.";
  for (const job of [doing, ...waiting]) job?.reject(new Refusal(sentence));
  [doing, waiting] = [null, []];
});

/**
 * @param {object} message
 * @param {ImageData} image a newer one of the same model takes the place of those that wait
 * @param {{many?: boolean, kept?: boolean, signal?: AbortSignal}} how many: after single ones; kept: whatever comes
 */
function ask(message, image, { many = false, kept = false, signal = null } = {}) {
  if (!numbers.has(image)) numbers.set(image, ++count);
  const { name } = message.model;
  const number = numbers.get(image);
  if (!kept) newestOf(name)[many ? "many" : "one"] = number;
  return new Promise((resolve, reject) => {
    waiting.push({ message, name, number, many, kept, signal, resolve, reject });
    next();
  });
}

function newestOf(name) {
  if (!newest.has(name)) newest.set(name, { one: 0, many: 0 });
  return newest.get(name);
}

/** Samples of an older drawing give way to any newer one, a single translation to a newer single one. */
function late({ name, number, many, kept, signal }) {
  const { one, many: samples } = newestOf(name);
  return signal?.aborted || (!kept && (number < one || (many && number < samples)));
}

function next() {
  for (const job of waiting.filter(late)) job.reject(new Dropped());
  waiting = waiting.filter((job) => !late(job));
  if (doing || !waiting.length) return;
  doing = waiting.find(({ many }) => !many) ?? waiting[0];
  waiting = waiting.filter((job) => job !== doing);
  worker.postMessage(doing.message);
}
