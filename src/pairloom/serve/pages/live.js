/** Translations while one draws: paced, few on their way, and the newest drawing wins. */

const PACE_MS = 60;
const MOST_FLYING = 2;

export class Live {
  /**
   * @param {(job: object, signal: AbortSignal) => Promise<object>} work
   * @param {(result: object, job: object) => void} show called in the order of the jobs; what is late is left out
   * @param {(error: Error, job: object) => void} fail
   */
  constructor(work, show, fail) {
    Object.assign(this, { work, show, fail });
    this.flying = new Map();
    this.next = null;
    this.number = 0;
    this.shown = 0;
    this.last = 0;
    this.timer = 0;
  }

  /** A job that takes the place of every one that has not begun. */
  push(job) {
    this.next = { job, number: ++this.number };
    this.#go();
  }

  /** Nothing that is on its way matters any more. */
  stop() {
    this.next = null;
    this.shown = this.number;
    clearTimeout(this.timer);
    for (const abort of this.flying.values()) abort.abort();
  }

  #go() {
    clearTimeout(this.timer);
    if (!this.next || this.flying.size >= MOST_FLYING) return;
    const wait = this.last + PACE_MS - performance.now();
    if (wait > 0) {
      this.timer = setTimeout(() => this.#go(), wait);
      return;
    }
    this.last = performance.now();
    const flight = this.next;
    this.next = null;
    this.#fly(flight);
  }

  async #fly({ job, number }) {
    const abort = new AbortController();
    this.flying.set(number, abort);
    try {
      const result = await this.work(job, abort.signal);
      if (number > this.shown) {
        this.shown = number;
        this.show(result, job);
      }
    } catch (error) {
      if (number > this.shown) this.fail(error, job);
    } finally {
      this.flying.delete(number);
      this.#go();
    }
  }
}
