/** A session from the first page to the last: consent, instructions, practice, trials, thanks. */

import { arrangement, clear, measureFrames, run, tell } from "./trial.js";
import { Refusal, ROOT, loadImage, loadImages, post } from "./wire.js";

const TOLERANCE_MS = 50;
const byId = (id) => document.getElementById(id);
const sections = [...document.querySelectorAll("main > section")];

let session = "";
let settings = {};
let images = new Map();
let saidInexact = false;

// ---------------------------------------------------------------------------------------------------------------
// What is remembered by this browser: the session, and an answer that is not acknowledged yet

const token = location.pathname.match(/\/s\/([A-Za-z0-9_-]+)\/?$/)?.[1] ?? null;
const drawer = `pairloom ${ROOT.pathname} ${token ?? "open"}`;

function recall() {
  try {
    return JSON.parse(localStorage.getItem(drawer)) ?? {};
  } catch {
    return {};
  }
}

function remember(pending) {
  try {
    localStorage.setItem(drawer, JSON.stringify({ session, pending }));
  } catch {
    // A browser that keeps nothing: the session lasts as long as the page, and a link finds it again.
  }
}

// ---------------------------------------------------------------------------------------------------------------
// What is said

const speak = (text) => (byId("spoken").textContent = text);
const notice = (text) => (byId("notice").textContent = text);

let lost = false;
function onWaiting(waiting) {
  if (waiting !== lost) notice(waiting ? "There is no connection. Nothing is lost: it is tried again by itself." : "");
  lost = waiting;
}

const send = (path, body) => post(path, { session, ...body }, onWaiting);

function open(id) {
  for (const section of sections) section.hidden = section.id !== id;
  const heading = byId(id).querySelector('h1[tabindex="-1"]') ?? byId(id);
  if (id !== "stage") {
    heading.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
}

const pressed = (id) => new Promise((resolve) => {
  const button = byId(id);
  button.addEventListener("click", function onClick() {
    if (button.getAttribute("aria-disabled") === "true") return;
    button.removeEventListener("click", onClick);
    resolve();
  });
});

// ---------------------------------------------------------------------------------------------------------------
// The session

async function main() {
  const known = recall();
  const slow = setTimeout(() => open("wait"), 400);
  try {
    if (known.session && known.pending) await deliverAgain(known);
    const begun = await post(
      "api/begin",
      {
        token,
        session: known.session ?? null,
        device_pixel_ratio: window.devicePixelRatio,
        viewport: `${window.innerWidth}x${window.innerHeight}`,
      },
      onWaiting,
    );
    ({ session, settings } = begun);
    remember(undefined);
    clearTimeout(slow);
    await go(begun.state);
  } finally {
    clearTimeout(slow);
  }
}

/** What was not acknowledged when the page was left. Of a study that is no more, a new session begins. */
async function deliverAgain(known) {
  session = known.session;
  await deliver(known.pending).catch((error) => {
    if (!(error instanceof Refusal)) throw error;
  });
}

async function go(state) {
  if (state === "consent") {
    open("consent");
    await pressed("agree");
    await ready("instructions", "begin");
  } else if (state === "trial") {
    byId("pause-title").textContent = "Welcome back";
    byId("pause-text").textContent = "Your answers so far are stored. It goes on where you left off.";
    await ready("pause", "continue");
  }
  if (state !== "finished") await trials();
  await thank();
}

/** Open a page to read while the images are loaded; its button works when all are there. */
async function ready(section, button) {
  const consented = await send("api/consent", {});
  const label = byId(section).querySelector(".loading");
  byId(button).setAttribute("aria-disabled", "true");
  open(section);
  images = await loadImages(
    consented.images,
    (done, of) => (label.textContent = `Loading images: ${done} of ${of}`),
    onWaiting,
  );
  await measureFrames();
  label.textContent = "";
  byId(button).removeAttribute("aria-disabled");
  speak("All images are loaded.");
  await pressed(button);
}

async function trials() {
  let opening = true;
  for (;;) {
    await room();
    const trial = await send("api/trial", {});
    if (trial.state === "finished") return;
    count(trial);
    open("stage");
    const answer = await run(trial, await decoded(trial.images), settings, opening, speak);
    opening = false;
    comment(answer, trial);
    const pending = { number: trial.number, ...answer };
    remember(pending);
    const feedback = await deliver(pending);
    if (feedback) await tell(feedback, answer.answer, settings, speak);
    clear();
    if (trial.practice && trial.number === settings.practice - 1) {
      await pause();
      opening = true;
    }
  }
}

/** An answer to the server; one that another window of this session has given first stands. */
async function deliver(pending) {
  try {
    const { feedback } = await send("api/answer", pending);
    return feedback;
  } catch (error) {
    if (!(error instanceof Refusal) || error.status !== 409) throw error;
    notice("This round was answered in another window; it goes on with the next.");
    return null;
  } finally {
    remember(undefined);
  }
}

async function decoded(urls) {
  for (const url of urls) {
    if (!images.has(url)) images.set(url, await loadImage(url, onWaiting));
  }
  return urls.map((url) => images.get(url));
}

function count(trial) {
  const main = trial.of - settings.practice;
  const [number, of] = trial.practice
    ? [trial.number + 1, settings.practice]
    : [trial.number - settings.practice + 1, main];
  const text = `${trial.practice ? "Practice" : "Round"} ${number} of ${of}`;
  byId("count").textContent = text;
  byId("done").style.width = `${(100 * (number - 1)) / of}%`;
  speak(text);
}

/** Say when something disturbed a trial; it is recorded in any case. */
function comment(answer, trial) {
  const off = answer.measured_ms.find((ms) => Math.abs(ms - trial.exposure_ms) > TOLERANCE_MS);
  if (answer.hidden) {
    notice("This page was out of view during that round, which is recorded. Please keep it in view.");
  } else if (off !== undefined && !saidInexact) {
    saidInexact = true;
    notice(
      `Your browser showed an image for ${Math.round(off)} instead of ${trial.exposure_ms} thousandths of a ` +
        "second, which is recorded. It may help to close other programs; please go on.",
    );
  } else {
    notice("");
  }
}

async function pause() {
  byId("pause-title").textContent = "That was the practice";
  const without = settings.mode === "prefer" ? "" : " From now on you are not told the answer.";
  const rounds = settings.trials === 1 ? "One round follows." : `${settings.trials} rounds follow.`;
  byId("pause-text").textContent = `${rounds}${without} Take a breath, and go on when you are ready.`;
  notice("");
  open("pause");
  await pressed("continue");
}

/** Wait until the window has room for the images. */
async function room() {
  while (arrangement(settings) === null) {
    byId("small-text").textContent =
      `The images are ${settings.width} × ${settings.height} pixels and are not scaled, or the comparison would ` +
      "not be fair. Please make the window larger, or turn your device; it then goes on by itself.";
    open("small");
    await new Promise((resolve) => window.addEventListener("resize", resolve, { once: true }));
  }
}

async function thank() {
  clear();
  const { right } = await send("api/finish", { comments: "" });
  byId("score").textContent =
    right === null
      ? "All your answers are stored."
      : `You were right in ${Math.round(100 * right)} % of the rounds. All your answers are stored.`;
  open("finish");
  byId("comment-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    await guarded(async () => {
      await send("api/finish", { comments: byId("comments").value });
      byId("comment-form").hidden = true;
      byId("sent").hidden = false;
      byId("sent").focus();
    });
  });
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    byId("fault-text").textContent = error instanceof Refusal ? error.message : `The page has a fault: ${error.message}`;
    notice("");
    open("fault");
  }
}

byId("again").addEventListener("click", () => location.reload());
guarded(main);
