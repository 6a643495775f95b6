/** The page: what is chosen, and who tells whom. */

import { choice, radio } from "./choice.js";
import { Drawing } from "./drawing.js";
import * as engine from "./engine.js";
import { listenForKeys } from "./keys.js";
import { Panel } from "./outputs.js";
import { savePicture } from "./saving.js";
import { camera, placed, receive, snap } from "./sources.js";
import { theme } from "./theme.js";
import { TOOLS, listen } from "./tools.js";

const REST_MS = 400;
/** Of the fill, in 8-bit values: what was painted, resized or compressed has no exact colours. */
const TOLERANCE = { paint: 40, photo: 40 };
const byId = (id) => document.getElementById(id);

const words = {
  labels: "label map: each colour is a class",
  paint: "painted in these colours",
  pen: "dark lines on white",
  photo: "photo",
  none: "cannot be drawn",
};
const html = (text) => Object.assign(document.createElement("span"), { textContent: text });

let known = [];
let limits = {};
let shown = new Map();
let drawing = null;
let lead = null;
let colours = [];
const chosen = { tool: "brush", rgb: [0, 0, 0], background: [255, 255, 255], size: 8, tolerance: 0 };

// ---------------------------------------------------------------------------------------------------------------
// What is said

let sayTimer = 0;
function say(text) {
  clearTimeout(sayTimer);
  byId("spoken").textContent = "";
  sayTimer = setTimeout(() => (byId("spoken").textContent = text), 50);
}
const fault = (text) => (byId("status").textContent = text);

const nameOf = (rgb) =>
  colours.find((colour) => String(colour.rgb) === String(rgb))?.name ?? `red ${rgb[0]}, green ${rgb[1]}, blue ${rgb[2]}`;

const page = {
  say,
  fault,
  translated(panel, milliseconds) {
    fault("");
    clearTimeout(page.saying);
    page.saying = setTimeout(() => say(`${panel.model.name} has translated it, in ${Math.round(milliseconds)} milliseconds.`), 900);
  },
  again(seconds) {
    clearTimeout(page.waiting);
    page.waiting = setTimeout(translate, 1000 * seconds);
  },
};

// ---------------------------------------------------------------------------------------------------------------
// Translating

const options = () => ({
  seed: Number(byId("seed").value) || 0,
  samples: Number(byId("samples").value),
  patches: byId("patches").checked,
});

let rest = 0;
function translate() {
  const image = drawing.snapshot();
  for (const panel of shown.values()) panel.ask(image, options());
  clearTimeout(rest);
  rest = setTimeout(() => {
    for (const panel of shown.values()) panel.askSamples(drawing.snapshot(), options());
  }, REST_MS);
}

function paint() {
  const canvas = byId("canvas");
  if (canvas.width !== drawing.width || canvas.height !== drawing.height) {
    Object.assign(canvas, { width: drawing.width, height: drawing.height });
    byId("main").style.setProperty("--shape", `${drawing.width} / ${drawing.height}`);
    byId("main").style.setProperty("--ratio", drawing.width / drawing.height);
    canvas.setAttribute("aria-label", `Drawing, ${drawing.width} by ${drawing.height} pixels`);
  }
  canvas.getContext("2d").putImageData(drawing.image, 0, 0);
  byId("undo").disabled = !drawing.past.length;
  byId("redo").disabled = !drawing.future.length;
}

let painting = false;
function changed() {
  if (painting) return;
  painting = true;
  requestAnimationFrame(() => {
    painting = false;
    paint();
    translate();
  });
}

// ---------------------------------------------------------------------------------------------------------------
// Models

function showModels(names) {
  for (const [name, panel] of shown) if (!names.includes(name)) panel.remove();
  shown = new Map(names.map((name) => [name, shown.get(name) ?? new Panel(known.find((m) => m.name === name), page)]));
  byId("outputs").replaceChildren(...[...shown.values()].map((panel) => panel.element));
  byId("main").dataset.count = shown.size;
  for (const button of byId("models").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", names.includes(button.dataset.value));
  }
  const all = [...shown.values()].map((panel) => panel.model);
  byId("patches-part").hidden = !all.some((model) => model.patches);
  byId("noise-part").hidden = !all.some((model) => model.noise);
  showOverlay();
  return all[0];
}

function offerModels() {
  for (const model of known) {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "chip", textContent: model.name });
    button.dataset.value = model.name;
    button.title = `${model.source.words} \u2192 ${model.target.words}`;
    button.disabled = model.manner === "none";
    if (button.disabled) button.title += "; its sources cannot be drawn, send files to the API";
    button.addEventListener("click", async () => {
      const names = new Set(shown.keys());
      if (names.has(model.name) && names.size > 1) names.delete(model.name);
      else names.add(model.name);
      await follow(showModels(known.map(({ name }) => name).filter((name) => names.has(name))));
    });
    byId("models").append(button);
  }
  byId("models").hidden = known.length < 2;
}

/** Draw as the first of the models that are shown wants it. */
async function follow(model) {
  const same = lead && lead.manner === model.manner && String(colours.map((c) => c.rgb)) === String(model.palette.map((c) => c.rgb));
  lead = model;
  byId("kind").title = model.source.words;
  byId("kind").textContent = words[model.manner];
  byId("example").hidden = !model.examples;
  byId("fit").value = model.manner === "photo" ? byId("fit").value : "crop";
  if (!same) {
    colours = model.palette;
    chosen.background = model.background;
    chosen.tolerance = TOLERANCE[model.manner] ?? 0;
    setSize(Math.max(1, Math.round((model.manner === "pen" ? 0.012 : 0.06) * model.trained.width)));
    offerColours();
  }
  if (!drawing) begin(model);
  if (!drawing.touched || !same) {
    const fresh = !drawing.touched;
    offerSizes();
    if (fresh) await startWith(model);
  }
  translate();
}

function begin({ trained, background }) {
  drawing = new Drawing(trained.width, trained.height, background);
  drawing.addEventListener("change", changed);
  drawing.addEventListener("resize", () => offerSizes());
  listen({ canvas: byId("canvas"), cursor: byId("cursor"), drawing, chosen: () => chosen, picked, say, nameOf });
  paint();
}

async function startWith(model) {
  if (model.examples) await nextExample(0);
  else drawing.replace(blank(model.trained.width, model.trained.height));
  drawing.touched = false;
  drawing.past.length = 0;
  paint();
}

function blank(width, height) {
  const fresh = new Drawing(width, height, chosen.background);
  return fresh.image;
}

let exampleNumber = 0;
async function nextExample(number = exampleNumber) {
  const model = lead;
  exampleNumber = (number + 1) % model.examples;
  const picture = await engine.example(model, number);
  put(picture, [picture.width, picture.height], "own");
}

// ---------------------------------------------------------------------------------------------------------------
// Colours and tools

function offerTools() {
  byId("tool-set").replaceChildren(
    ...TOOLS.map(({ id, key, name }) => {
      const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      icon.setAttribute("aria-hidden", "true");
      const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
      use.setAttribute("href", `icons.svg#${id}`);
      icon.append(use);
      const button = radio(id, { label: name, title: `${name} (${key.toUpperCase()})`, keys: key.toUpperCase() }, icon);
      button.className = "icon";
      return button;
    }),
  );
}
const chooseTool = choice(byId("tool-set"), (tool) => (chosen.tool = tool));

function offerColours() {
  const exact = lead.manner === "labels";
  const buttons = colours.map(({ name, rgb }, i) => {
    const key = i < 9 ? String(i + 1) : i === 9 ? "0" : "";
    const swatch = Object.assign(document.createElement("i"), { className: "swatch" });
    swatch.style.background = `rgb(${rgb.join(" ")})`;
    const button = radio(rgb.join(","), { title: `rgb ${rgb.join(", ")}${key ? ` (${key})` : ""}`, keys: key }, swatch, html(name));
    button.className = "colour";
    return button;
  });
  byId("palette").replaceChildren(...buttons);
  if (!exact) {
    const own = Object.assign(document.createElement("input"), { type: "color", id: "own-colour" });
    own.addEventListener("input", () => {
      const rgb = [1, 3, 5].map((at) => parseInt(own.value.slice(at, at + 2), 16));
      chooseColour(rgb.join(","));
    });
    const label = Object.assign(document.createElement("label"), { className: "colour" });
    label.append(own, html("other"));
    byId("palette").append(label);
  }
  const first = colours.find(({ rgb }) => String(rgb) !== String(chosen.background)) ?? colours[0];
  if (first) chooseColour(first.rgb.join(","));
}
const chooseColour = choice(byId("palette"), (value) => {
  chosen.rgb = value.split(",").map(Number);
  const own = byId("own-colour");
  if (own) own.value = `#${chosen.rgb.map((v) => v.toString(16).padStart(2, "0")).join("")}`;
  if (chosen.tool === "eraser" || chosen.tool === "pick") chooseTool("brush");
});

function picked(rgb) {
  chooseColour(rgb.join(","));
  say(`Picked ${nameOf(rgb)}.`);
}

function setSize(size) {
  chosen.size = Math.min(48, Math.max(1, size));
  byId("size").value = chosen.size;
  byId("size-shown").textContent = chosen.size;
}

// ---------------------------------------------------------------------------------------------------------------
// Canvas size, and images from outside

function offerSizes() {
  const { width, height } = lead.trained;
  const fits = (w, h) => w * h <= limits.max_side ** 2 && Math.max(w, h) <= 2048;
  const sizes = [0.5, 1, 1.5, 2, 3, 4, 6, 8]
    .map((times) => [Math.round(width * times), Math.round(height * times), times])
    .filter(([w, h]) => fits(w, h) && Math.min(w, h) >= 16);
  const select = byId("canvas-size");
  select.replaceChildren(
    ...sizes.map(([w, h, times]) => new Option(`${w} \u00d7 ${h}${times === 1 ? ", as trained" : ""}`, `${w},${h}`)),
  );
  const now = `${drawing.width},${drawing.height}`;
  if (![...select.options].some((option) => option.value === now)) {
    select.append(new Option(`${drawing.width} \u00d7 ${drawing.height}`, now));
  }
  select.append(new Option("other \u2026", "own"));
  select.value = now;
  byId("own-size").hidden = true;
  byId("own-width").value = drawing.width;
  byId("own-height").value = drawing.height;
}

function resize(width, height) {
  if (![width, height].every((side) => Number.isInteger(side) && side >= 1) || width * height > limits.max_side ** 2) {
    fault(`A canvas has whole sides, and at most ${limits.max_side} \u00d7 ${limits.max_side} pixels.`);
    return;
  }
  const picture = new OffscreenCanvas(drawing.width, drawing.height);
  picture.getContext("2d").putImageData(drawing.image, 0, 0);
  drawing.begin();
  putOn(picture, [drawing.width, drawing.height], width, height, "stretch");
}

const isFlat = () => lead.manner === "labels" || lead.manner === "paint";

function putOn(picture, size, width, height, fit) {
  const image = placed(picture, size, { width, height, fit, smooth: !isFlat(), background: chosen.background });
  if (lead.manner === "labels") snap(image, colours.map(({ rgb }) => rgb));
  drawing.replace(image);
}

/** A picture onto the canvas; at its own size, as far as that may be, the canvas follows it. */
function put(picture, [width, height], fit = byId("fit").value) {
  drawing.begin();
  putFrame(picture, [width, height], fit);
}

function putFrame(picture, [width, height], fit = byId("fit").value) {
  if (fit !== "own") return putOn(picture, [width, height], drawing.width, drawing.height, fit);
  const most = Math.sqrt(limits.max_side ** 2 / (width * height));
  const scale = Math.min(1, most);
  putOn(picture, [width, height], Math.max(1, Math.floor(width * scale)), Math.max(1, Math.floor(height * scale)), "stretch");
}

// ---------------------------------------------------------------------------------------------------------------
// What keys do, besides those of the canvas

const acts = {
  keys: [
    ...TOOLS.map(({ key, name, id }) => ({ key, name, does: () => chooseTool(id) })),
    { key: "[", name: "Smaller brush", does: () => setSize(chosen.size - 1) },
    { key: "]", name: "Larger brush", does: () => setSize(chosen.size + 1) },
    { key: "p", name: "D's patch map", does: () => byId("patches").click() },
    { key: "n", name: "New noise", does: () => byId("new-seed").click() },
    { key: "?", name: "This table", does: () => byId("help").showModal() },
  ],
  undo: () => say(drawing.undo() ? "Undone." : "Nothing to undo."),
  redo: () => say(drawing.redo() ? "Done again." : "Nothing to do again."),
  digit(number) {
    const colour = colours[number];
    if (colour) chooseColour(colour.rgb.join(","));
    return colour?.name;
  },
};

function showOverlay() {
  const on = byId("patches").checked && !byId("patches-part").hidden;
  byId("map-part").hidden = !on;
  byId("outputs").style.setProperty("--opacity", byId("opacity").value / 100);
}

// ---------------------------------------------------------------------------------------------------------------

function connect() {
  byId("undo").addEventListener("click", acts.undo);
  byId("redo").addEventListener("click", acts.redo);
  byId("clear").addEventListener("click", () => {
    drawing.begin();
    drawing.clear(chosen.background);
    say("Cleared.");
  });
  byId("size").addEventListener("input", (event) => setSize(Number(event.target.value)));
  byId("example").addEventListener("click", () => nextExample().catch((error) => fault(error.message)));
  byId("save-drawing").addEventListener("click", () => savePicture(drawing.snapshot(), "drawing"));
  byId("canvas-size").addEventListener("change", ({ target }) => {
    byId("own-size").hidden = target.value !== "own";
    if (target.value === "own") byId("own-width").focus();
    else resize(...target.value.split(",").map(Number));
  });
  byId("own-set").addEventListener("click", () => resize(Number(byId("own-width").value), Number(byId("own-height").value)));
  byId("patches").addEventListener("change", () => {
    showOverlay();
    translate();
  });
  byId("opacity").addEventListener("input", showOverlay);
  byId("samples").addEventListener("change", translate);
  byId("seed").addEventListener("input", () => byId("seed").checkValidity() && translate());
  byId("new-seed").addEventListener("click", () => {
    byId("seed").value = Math.floor(Math.random() * 10000);
    translate();
  });
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  byId("help-close").addEventListener("click", () => byId("help").close());
  listenForKeys(acts, { table: byId("keys"), single: byId("single-keys"), near: byId("drawing"), say });
  receive({
    page: document, frame: byId("frame"), file: byId("file"), choose: byId("choose"),
    got: (picture) => {
      put(picture, [picture.width, picture.height]);
      say("The image is on the canvas.");
    },
    failed: fault,
    elsewhere: engine.takesFiles ? " TIFF and NPY can be sent to the API instead." : "",
  });
  camera({
    open: byId("camera"), dialog: byId("camera-dialog"), video: byId("video"), still: byId("still"), live: byId("live"),
    close: byId("camera-close"), began: () => drawing.begin(), frame: putFrame, failed: fault,
  });
}

async function main() {
  theme(byId("theme"));
  engine.onLoading(fault);
  try {
    ({ models: known, limits } = await engine.models());
  } catch (error) {
    fault(error.message);
    return;
  }
  offerModels();
  offerTools();
  chooseTool("brush");
  const drawable = known.filter(({ manner }) => manner !== "none");
  if (!drawable.length) {
    fault("None of these models can be drawn for: their sources have other than 1 or 3 channels. Send files to the API.");
    return;
  }
  byId("main").hidden = false;
  const alike = drawable.filter(({ manner }) => manner === drawable[0].manner).slice(0, 2);
  const first = showModels(alike.map(({ name }) => name));
  connect();
  await follow(first).catch((error) => fault(error.message));
  document.documentElement.dataset.ready = "yes";
}

main();
