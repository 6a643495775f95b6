/**
 * One trial: images for an exact time, then hidden, then as long as it takes to answer.
 *
 * Time is counted in the screen's frames: an image is shown in one frame and hidden in the frame that is nearest
 * to its exposure later, and the time between the two, by the frames' own clock, is what is recorded.
 */

/** Milliseconds, of the original tool: blank, image, blank, image, blank, buttons. */
const BLANK = { before: 900, beforeFirst: 1200, between: 600, after: 100 };
/** How long the images of a practice trial are shown with their names. */
const FEEDBACK_MS = 2400;
const GAP_PX = 48;
const MARGIN_PX = 12;

const stage = document.getElementById("stage");
const question = document.getElementById("question");
const places = [...stage.querySelectorAll(".place")];
const frames = places.map((place) => place.querySelector(".frame"));
const captions = places.map((place) => place.querySelector("figcaption"));
const buttons = [...stage.querySelectorAll(".answers button")];
const asked = question.textContent;

const NAMES = {
  beside: ["Left image", "Right image"],
  one: ["First image", "Second image"],
  above: ["Upper image", "Lower image"],
  single: ["Real", "Fake"],
};
const KEYS = { 1: 0, ArrowLeft: 0, 2: 1, ArrowRight: 1 };

let interval = 1000 / 60;

/** The next frame of the screen; what is changed before the next await is seen in that frame. */
const frame = () => new Promise(requestAnimationFrame);

async function until(time) {
  for (;;) {
    const now = await frame();
    if (now >= time - interval / 2) return now;
  }
}

/** Find out how long a frame lasts on this screen. */
export async function measureFrames() {
  const steps = [];
  let last = await frame();
  while (steps.length < 15) {
    const now = await frame();
    steps.push(now - last);
    last = now;
  }
  const median = steps.sort((a, b) => a - b)[7];
  if (median > 2 && median < 50) interval = median;
}

/**
 * How the images fit into the window at their own pixels: "beside" each other, at "one" place in turn, one
 * "above" the other; null when they do not.
 */
export function arrangement(settings) {
  const { width, height, mode, layout } = settings;
  const wide = document.documentElement.clientWidth;
  const high = window.innerHeight;
  if (width > wide || height > high) return null;
  if (mode === "single") return "one";
  if (2 * width + GAP_PX + 2 * MARGIN_PX <= wide) return "beside";
  if (layout === "sequential") return "one";
  return 2 * height + 3 * MARGIN_PX <= high ? "above" : null;
}

/**
 * Show a trial and wait for the answer.
 * @param {object} trial as the server gave it
 * @param {HTMLImageElement[]} images decoded
 * @param {object} settings
 * @param {boolean} opening is it the first one after a page to read?
 * @param {(text: string) => void} speak to a screen reader
 * @returns {Promise<{answer: number, response_ms: number, measured_ms: number[], hidden: boolean}>}
 */
export async function run(trial, images, settings, opening, speak) {
  const how = arrangement(settings);
  const names = NAMES[settings.mode === "single" ? "single" : how];
  clear();
  stage.classList.add(how);
  stage.style.setProperty("--w", `${settings.width}px`);
  stage.style.setProperty("--h", `${settings.height}px`);
  places[1].hidden = images.length < 2;
  buttons.forEach((button, i) => (button.querySelector("span").textContent = names[i]));
  images.forEach((image, i) => frames[i].replaceChildren(image));
  await Promise.all(images.map((image) => image.decode().catch(() => {})));
  frames[0].scrollIntoView({ block: stage.scrollHeight > window.innerHeight ? "start" : "nearest" });

  let hidden = document.hidden;
  const watch = () => (hidden ||= document.hidden);
  document.addEventListener("visibilitychange", watch);
  try {
    const together = settings.layout === "side-by-side" && images.length > 1;
    const groups = together ? [[0, 1]] : images.map((_, i) => [i]);
    const measured = [];
    let now = await until((await frame()) + (opening ? BLANK.beforeFirst : BLANK.before));
    for (const [turn, group] of groups.entries()) {
      if (turn) now = await until(now + BLANK.between);
      const shown = now;
      group.forEach((i) => frames[i].classList.add("shown"));
      if (!together && images.length > 1) speak(names[turn]);
      now = await until(shown + trial.exposure_ms);
      group.forEach((i) => frames[i].classList.remove("shown"));
      group.forEach(() => measured.push(tenths(now - shown)));
    }
    now = await until(now + BLANK.after);
    const { answer, time } = await ask(names, speak);
    return { answer, response_ms: tenths(Math.max(0, time - now)), measured_ms: measured, hidden };
  } finally {
    document.removeEventListener("visibilitychange", watch);
  }
}

const tenths = (ms) => Math.round(ms * 10) / 10;

/** The buttons appear in this frame; the first press counts. */
function ask(names, speak) {
  stage.classList.add("asking");
  question.focus({ preventScroll: true });
  buttons.at(-1).scrollIntoView({ block: "nearest" });
  speak(`${asked} Press 1 for ${names[0]}, 2 for ${names[1]}.`);
  return new Promise((resolve) => {
    function answered(answer, time) {
      document.removeEventListener("keydown", onKey);
      buttons.forEach((button) => button.removeEventListener("click", onClick));
      stage.classList.remove("asking");
      resolve({ answer, time });
    }
    function onKey(event) {
      if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
      event.preventDefault();
      answered(KEYS[event.key], event.timeStamp);
    }
    function onClick(event) {
      answered(Number(event.currentTarget.dataset.answer), event.timeStamp);
    }
    document.addEventListener("keydown", onKey);
    buttons.forEach((button) => button.addEventListener("click", onClick));
  });
}

/** After a practice trial: the images again, with their names, and whether the answer was right. */
export async function tell(feedback, answer, settings, speak) {
  const single = settings.mode === "single";
  const narrow = stage.classList.contains("one");
  const words = NAMES[narrow ? "one" : stage.classList.contains("above") ? "above" : "beside"];
  if (narrow && !single) stage.classList.replace("one", "above");
  const shown = single ? [feedback.fake] : [0, 1].map((i) => Number(i === feedback.fake));
  shown.forEach((fake, i) => {
    frames[i].classList.add("shown");
    captions[i].textContent = fake ? "Fake" : "Real";
  });
  places[single ? 0 : answer].classList.add("chosen");
  places[single ? 0 : answer].classList.toggle("correct", feedback.right);
  const truth = single
    ? `this one was ${feedback.fake ? "fake" : "real"}`
    : `the ${words[feedback.fake].toLowerCase()} was fake`;
  question.textContent = `${feedback.right ? "✓ Correct" : "✗ Not this time"}: ${truth}.`;
  stage.classList.add("telling");
  frames[0].scrollIntoView({ block: "nearest" });
  speak(question.textContent);
  await new Promise((resolve) => setTimeout(resolve, FEEDBACK_MS));
  clear();
}

/** An empty stage. */
export function clear() {
  stage.classList.remove("asking", "telling", "beside", "one", "above");
  places.forEach((place) => place.classList.remove("chosen", "correct"));
  frames.forEach((place) => (place.classList.remove("shown"), place.replaceChildren()));
  captions.forEach((caption) => (caption.textContent = ""));
  question.textContent = asked;
}
