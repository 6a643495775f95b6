/** To the server and back: every message is sent until it is acknowledged; images are loaded and decoded. */

/** Where the study lives, whatever stands before it in the address. */
export const ROOT = new URL("..", import.meta.url);

const TIMEOUT_MS = 15000;
const WAITS_MS = [400, 1000, 2000, 4000, 8000];
const AT_ONCE = 4;

/** The server understood, and says no; its sentence is the message. */
export class Refusal extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

function wait(ms) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    function done() {
      clearTimeout(timer);
      window.removeEventListener("online", done);
      resolve();
    }
    window.addEventListener("online", done);
  });
}

/**
 * Send until there is an answer: a lost connection or a failing server only makes it wait.
 * @param {string} path below the study's root
 * @param {object} body
 * @param {(waiting: boolean) => void} onWaiting called with true when it has to be sent again, false when it was
 * @returns {Promise<object>}
 * @throws {Refusal}
 */
export async function post(path, body, onWaiting) {
  const text = JSON.stringify(body);
  for (let tries = 0; ; tries++) {
    const answer = await once(path, text);
    if (answer) {
      if (tries) onWaiting(false);
      if (answer.ok) return answer.value;
      throw new Refusal(answer.status, answer.value.error ?? `The server answered ${answer.status}.`);
    }
    onWaiting(true);
    await wait(WAITS_MS[Math.min(tries, WAITS_MS.length - 1)]);
  }
}

async function once(path, text) {
  try {
    const response = await fetch(new URL(path, ROOT), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: text,
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (response.status >= 500 || response.status === 408 || response.status === 429) return null;
    return { ok: response.ok, status: response.status, value: await response.json() };
  } catch {
    return null;
  }
}

/**
 * Load and decode images, a few at once, each until it is there.
 * @param {string[]} urls
 * @param {(done: number, of: number) => void} onProgress
 * @param {(waiting: boolean) => void} onWaiting
 * @returns {Promise<Map<string, HTMLImageElement>>}
 */
export async function loadImages(urls, onProgress, onWaiting) {
  const found = new Map();
  const queue = [...urls];
  onProgress(0, urls.length);
  async function worker() {
    for (let url = queue.shift(); url !== undefined; url = queue.shift()) {
      found.set(url, await loadImage(url, onWaiting));
      onProgress(found.size, urls.length);
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return found;
}

export async function loadImage(url, onWaiting) {
  for (let tries = 0; ; tries++) {
    const image = new Image();
    image.decoding = "sync";
    image.alt = "";
    image.draggable = false;
    image.src = new URL(url.replace(/^\//, ""), ROOT);
    try {
      await image.decode();
      if (tries) onWaiting(false);
      return image;
    } catch {
      onWaiting(true);
      await wait(WAITS_MS[Math.min(tries, WAITS_MS.length - 1)]);
    }
  }
}
