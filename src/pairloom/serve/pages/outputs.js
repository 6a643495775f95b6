/** What a model makes of the drawing: a panel for each model, with D's patch map, noise samples, and saving. */

import * as engine from "./engine.js";
import { Live } from "./live.js";
import { copyPicture, saveBlob, savePicture, sideBySide } from "./saving.js";

const GENERATED = [194, 97, 26];
const UNSURE = [246, 243, 236];
const REAL = [43, 104, 174];

const make = (name, fields = {}, ...children) => {
  const element = Object.assign(document.createElement(name), fields);
  element.append(...children);
  return element;
};

export class Panel {
  /**
   * @param {object} model
   * @param {{say: Function, fault: Function, translated: Function, again: Function}} page
   */
  constructor(model, page) {
    Object.assign(this, { model, page, latest: null, options: {} });
    this.canvas = make("canvas", { className: "result", width: 1, height: 1 });
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `${model.name}: not translated yet`);
    this.overlay = make("canvas", { className: "overlay", hidden: true });
    this.overlay.setAttribute("aria-hidden", "true");
    this.note = make("span", { className: "note" });
    this.grid = make("div", { className: "samples", hidden: true });
    this.save = make("button", { type: "button", textContent: "Save" });
    this.both = make("button", { type: "button", textContent: "Save both" });
    this.copy = make("button", { type: "button", textContent: "Copy" });
    for (const button of [this.save, this.both, this.copy]) {
      button.setAttribute("aria-label", `${button.textContent}: ${model.name}`);
      button.disabled = true;
    }
    this.save.title = model.is_picture ? "The translation as PNG" : `In full depth: ${model.target.words}`;
    this.both.title = "Drawing and translation side by side, as PNG";
    this.stage = make("div", { className: "stage" }, this.canvas, this.overlay);
    this.element = make(
      "figure",
      { className: "panel" },
      this.stage,
      make("figcaption", {}, make("strong", { textContent: model.name }), this.note,
        make("span", { className: "acts" }, this.save, this.both, this.copy)),
      this.grid,
    );
    this.element.dataset.model = model.name;
    this.element.classList.toggle("flat", model.target.spec.kind === "labels");
    this.live = new Live(
      ({ image, options }, signal) => engine.translate(model, image, options, signal),
      (result, job) => this.#show(result, job),
      (error) => this.#failed(error),
    );
    this.many = new Live(
      ({ image, options }, signal) => engine.translate(model, image, options, signal),
      (result) => this.#showSamples(result),
      (error) => this.#failed(error),
    );
    this.save.addEventListener("click", () => this.#guarded(() => this.#saveFile()));
    this.both.addEventListener("click", () =>
      this.#guarded(() => savePicture(sideBySide(this.latest.drawing, this.latest.picture), `${model.name}-both`)));
    this.copy.addEventListener("click", () =>
      this.#guarded(async () => {
        await copyPicture(this.latest.picture);
        this.page.say("Copied.");
      }));
  }

  /** Translate this drawing, or a newer one that comes before its turn. */
  ask(image, { seed, patches }) {
    this.element.classList.add("busy");
    this.live.push({ image, options: { seed, samples: 1, patches: patches && this.model.patches !== null } });
  }

  /** Several translations of it, each with other noise; or none any more. */
  askSamples(image, { seed, samples }) {
    if (samples > 1 && this.model.noise) {
      this.many.push({ image, options: { seed, samples, patches: false } });
    } else {
      this.many.stop();
      this.grid.hidden = true;
      this.grid.replaceChildren();
    }
  }

  remove() {
    this.live.stop();
    this.many.stop();
    this.element.remove();
  }

  #show({ images: [picture], patchMap, milliseconds, by }, { image, options }) {
    this.latest = { picture, drawing: image, seed: options.seed };
    paint(this.canvas, picture);
    this.element.classList.remove("busy", "failed");
    this.note.textContent = `${Math.round(milliseconds)} ms`;
    this.note.title = by ?? "";
    let words = `${this.model.name}: translation, ${picture.width} by ${picture.height} pixels`;
    this.overlay.hidden = !patchMap;
    if (patchMap) {
      const mean = patchMap.values.reduce((sum, value) => sum + value, 0) / patchMap.values.length;
      drawMap(this.overlay, patchMap, picture.width, picture.height);
      this.note.textContent += `, D: ${Math.round(100 * mean)} % real`;
      words += `; D takes it for real to ${Math.round(100 * mean)} percent`;
    } else if (options.patches) {
      this.note.textContent += ", too small for D";
    }
    this.canvas.setAttribute("aria-label", words);
    for (const button of [this.save, this.both, this.copy]) button.disabled = false;
    this.page.translated(this, milliseconds);
  }

  #showSamples({ images, mean, spread, mostSpread }) {
    const tiles = images.map((picture, i) => tile(picture, `Sample ${i + 1}`));
    tiles.push(tile(mean, "Mean"), tile(spread, `Spread, white: ${Number(mostSpread.toPrecision(2))}`));
    this.grid.replaceChildren(...tiles);
    this.grid.hidden = false;
    this.page.say(`${this.model.name}: ${images.length} samples, their mean and spread.`);
  }

  #failed(error) {
    this.element.classList.remove("busy");
    if (error instanceof engine.Dropped) return;
    this.element.classList.add("failed");
    this.page.fault(error instanceof engine.Refusal ? `${this.model.name}: ${error.message}` : `The page has a fault: ${error.message}`);
    if (error.retrySeconds) this.page.again(error.retrySeconds);
  }

  async #saveFile() {
    const { picture, drawing, seed } = this.latest;
    if (this.model.is_picture) {
      await savePicture(picture, this.model.name);
    } else {
      const { blob, suffix } = await engine.file(this.model, drawing, { seed });
      saveBlob(blob, `${this.model.name}${suffix}`);
    }
  }

  async #guarded(work) {
    try {
      await work();
    } catch (error) {
      this.page.fault(error instanceof engine.Refusal ? error.message : `This did not work: ${error.message}`);
    }
  }
}

function paint(canvas, picture) {
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    Object.assign(canvas, { width: picture.width, height: picture.height });
  }
  canvas.getContext("2d").drawImage(picture, 0, 0);
}

function tile(picture, words) {
  const canvas = make("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", words);
  paint(canvas, picture);
  return make("div", { className: "tile" }, canvas, make("span", { textContent: words }));
}

/** Every pixel in the colour of the patch whose centre is nearest: orange is generated, blue is real. */
function drawMap(canvas, { width, height, values, centre, jump }, pixelWidth, pixelHeight) {
  Object.assign(canvas, { width: pixelWidth, height: pixelHeight });
  const image = new ImageData(pixelWidth, pixelHeight);
  const nearest = (at, count) => Math.min(count - 1, Math.max(0, Math.round((at - centre) / jump)));
  for (let y = 0, to = 0; y < pixelHeight; y++) {
    const row = nearest(y, height) * width;
    for (let x = 0; x < pixelWidth; x++, to += 4) {
      const value = values[row + nearest(x, width)];
      const [from, towards, share] = value < 0.5 ? [GENERATED, UNSURE, 2 * value] : [UNSURE, REAL, 2 * value - 1];
      for (let c = 0; c < 3; c++) image.data[to + c] = from[c] + (towards[c] - from[c]) * share;
      image.data[to + 3] = 255;
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
