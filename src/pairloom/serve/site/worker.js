/** Runs the models, off the page's own thread: WebGPU where the browser has it, else WebAssembly, with threads where it may. */

import * as noise from "./noise.js";
import * as values from "./values.js";

const RUNTIME = new URL("runtime/", import.meta.url).href;
const MOST_THREADS = 8;
const sessions = new Map();
let settings = {};
let backend = null;

// -----------------------------------------------------------------------------------------------------------------
// onnxruntime

async function usable(wanted) {
  if (!settings.webgpu || wanted === "wasm" || !navigator.gpu) return false;
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  // One that the processor plays is slower than WebAssembly.
  return Boolean(adapter) && (wanted === "webgpu" || !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter));
}

async function begin(wanted) {
  const other = (await usable(wanted)) ? await import(`${RUNTIME}ort.webgpu.min.mjs`).catch(() => null) : null;
  const webgpu = other !== null;
  const ort = other ?? (await import(`${RUNTIME}ort.wasm.min.mjs`));
  const threads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = RUNTIME;
  ort.env.wasm.numThreads = threads;
  const words = webgpu ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
  return { ort, webgpu, words };
}

async function load(model) {
  const response = await fetch(new URL(model.site.file, import.meta.url));
  if (!response.ok) throw new Error(`the model's file was answered ${response.status}`);
  const bytes = new Uint8Array(model.site.bytes);
  let at = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (at + value.length > bytes.length) throw new Error("the model's file is not the one that was written with this page");
    bytes.set(value, at);
    at += value.length;
    postMessage({ loading: { name: model.name, done: at, of: bytes.length } });
  }
  if (at < bytes.length) throw new Error("the model's file is cut off");
  return bytes;
}

async function session(model) {
  if (!sessions.has(model.name)) {
    const bytes = await load(model);
    const made = await backend.ort.InferenceSession.create(bytes, { executionProviders: [backend.webgpu ? "webgpu" : "wasm"] });
    postMessage({ loading: { name: model.name, done: 1, of: 1, ready: true } });
    sessions.set(model.name, made);
  }
  return sessions.get(model.name);
}

async function run(model, feeds) {
  backend ??= await begin(settings.backend);
  const once = async () => {
    const made = await session(model);
    const began = performance.now();
    const tensors = Object.fromEntries(
      Object.entries(feeds).map(([name, { data, dims }]) => [name, new backend.ort.Tensor("float32", data, dims)]),
    );
    const { y_hat: found } = await made.run(tensors);
    const y = Float32Array.from(await found.getData());
    found.dispose();
    return { y, milliseconds: performance.now() - began };
  };
  try {
    return await once();
  } catch (error) {
    if (!backend.webgpu) throw error;
    // A graphics driver may fail where WebAssembly does not.
    sessions.clear();
    backend = await begin("wasm");
    return once();
  }
}

// -----------------------------------------------------------------------------------------------------------------
// Translating

let drawn = { what: "", noise: {} };
function noiseFor({ name, site }, seed, sample, height, width) {
  const what = [name, seed, sample, height, width].join();
  if (drawn.what !== what) {
    const key = noise.key(seed, sample);
    const inputs = site.noise.map((entry) => [
      entry.name,
      { data: noise.values(entry, key, height, width), dims: [1, entry.channels, height / entry.stride, width / entry.stride] },
    ]);
    drawn = { what, noise: Object.fromEntries(inputs) };
  }
  return drawn.noise;
}

async function output(model, picture, seed, sample) {
  const { width, height } = picture;
  const { stride, least_side: least } = model.site;
  const up = (side) => Math.ceil(side / stride) * stride;
  const [h, w] = [up(height), up(width)];
  const [fullHeight, fullWidth] = [Math.max(h, least), Math.max(w, least)];
  const x = values.toTensor(picture, model);
  const padded = values.reflected(values.reflected(x, height, width, h, w), h, w, fullHeight, fullWidth);
  const dims = [1, padded.length / (fullHeight * fullWidth), fullHeight, fullWidth];
  const feeds = { x: { data: padded, dims }, ...noiseFor(model, seed, sample, fullHeight, fullWidth) };
  const { y, milliseconds } = await run(model, feeds);
  if (!y.every(Number.isFinite)) throw new Error("the model's output is no number");
  const own = values.cropped(y, fullHeight, fullWidth, height, width);
  return { y: values.recombined(own, x, width * height, model.target.spec), milliseconds };
}

const bitmap = (data, width, height) =>
  createImageBitmap(new ImageData(data, width, height), { colorSpaceConversion: "none", premultiplyAlpha: "none" });

const acts = {
  async translate({ model, picture, seed, sample }) {
    const { width, height } = picture;
    const { y, milliseconds } = await output(model, picture, seed, sample);
    const spec = values.outputSpec(model.target.spec);
    const image = await bitmap(values.picture(y, width * height, spec, model.site.shown), width, height);
    return { y, image, milliseconds, by: backend.words };
  },

  async gather({ model, outputs, width, height }) {
    const spec = values.outputSpec(model.target.spec);
    const n = width * height;
    const { data, most } = values.spread(outputs, n, spec);
    return {
      mean: await bitmap(values.picture(values.mean(outputs), n, spec, model.site.shown), width, height),
      spread: await bitmap(data, width, height),
      mostSpread: most,
    };
  },

  async file({ model, picture, seed }) {
    const { y } = await output(model, picture, seed, 0);
    return { bytes: values.npy(y, picture.height, picture.width, values.outputSpec(model.target.spec)) };
  },
};

addEventListener("message", async ({ data: { act, ...given } }) => {
  if (act === "begin") {
    settings = given;
    return;
  }
  try {
    postMessage({ found: await acts[act](given) });
  } catch (error) {
    // Memory that runs out is a bare number here.
    postMessage({ failed: error instanceof Error ? error.message.split("\n")[0] : "its memory was not enough" });
  }
});
