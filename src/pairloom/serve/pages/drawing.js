/** A drawing: its pixels, what can be done to them, and back again. No pixel is ever mixed of two colours. */

const MOST_KEPT_BYTES = 96 * 2 ** 20;

export const pack = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
export const unpack = (word) => [word & 255, (word >> 8) & 255, (word >> 16) & 255];

export class Drawing extends EventTarget {
  /** Every change is an event "change"; of another size, "resize" before it. */
  constructor(width, height, rgb) {
    super();
    this.past = [];
    this.future = [];
    this.touched = false;
    this.#take(new ImageData(width, height));
    this.words.fill(pack(rgb));
  }

  get width() {
    return this.image.width;
  }

  get height() {
    return this.image.height;
  }

  #take(image) {
    const resized = !this.image || image.width !== this.width || image.height !== this.height;
    this.image = image;
    this.words = new Uint32Array(image.data.buffer);
    this.kept = null;
    if (resized) this.dispatchEvent(new Event("resize"));
  }

  #changed() {
    this.kept = null;
    this.touched = true;
    this.dispatchEvent(new Event("change"));
  }

  /** The pixels as they are now; the same object until they change. */
  snapshot() {
    this.kept ??= copy(this.image);
    return this.kept;
  }

  colourAt(x, y) {
    return unpack(this.words[y * this.width + x]);
  }

  has(x, y) {
    return x >= 0 && y >= 0 && x < this.width && y < this.height;
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Undo: whole pictures are kept, as many as fit

  /** What follows can be undone as one. */
  begin() {
    this.past.push(this.snapshot());
    this.future.length = 0;
    let bytes = this.past.reduce((sum, image) => sum + image.data.length, 0);
    while (bytes > MOST_KEPT_BYTES && this.past.length > 1) bytes -= this.past.shift().data.length;
  }

  /** Back to the last `begin`, as if nothing had been. */
  cancel() {
    const before = this.past.pop();
    if (!before) return;
    this.#take(copy(before));
    this.#changed();
  }

  /** The last `begin` stands, but its pixels come back: for shapes that are drawn again and again. */
  rewind() {
    this.words.set(new Uint32Array(this.past.at(-1).data.buffer));
  }

  undo() {
    return this.#move(this.past, this.future);
  }

  redo() {
    return this.#move(this.future, this.past);
  }

  #move(from, to) {
    const image = from.pop();
    if (!image) return false;
    to.push(this.snapshot());
    this.#take(copy(image));
    this.#changed();
    return true;
  }

  // ---------------------------------------------------------------------------------------------------------------
  // Marks

  /** A line of a round brush, `size` pixels across. */
  stroke(x0, y0, x1, y1, size, rgb) {
    const spans = disc(size);
    const word = pack(rgb);
    const steps = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0), 1);
    for (let i = 0; i <= steps; i++) {
      this.#stamp(Math.round(x0 + ((x1 - x0) * i) / steps), Math.round(y0 + ((y1 - y0) * i) / steps), spans, word);
    }
    this.#changed();
  }

  #stamp(x, y, spans, word) {
    for (const [dy, left, right] of spans) {
      const row = y + dy;
      if (row < 0 || row >= this.height) continue;
      const from = Math.max(0, x + left);
      const to = Math.min(this.width - 1, x + right);
      if (from <= to) this.words.fill(word, row * this.width + from, row * this.width + to + 1);
    }
  }

  rectangle(x0, y0, x1, y1, rgb) {
    const [left, right] = [Math.max(0, Math.min(x0, x1)), Math.min(this.width - 1, Math.max(x0, x1))];
    const [top, bottom] = [Math.max(0, Math.min(y0, y1)), Math.min(this.height - 1, Math.max(y0, y1))];
    for (let y = top; y <= bottom; y++) this.words.fill(pack(rgb), y * this.width + left, y * this.width + right + 1);
    this.#changed();
  }

  /**
   * All pixels of one colour that hang together with this one, row by row.
   * @param {number} tolerance of each channel: what counts as the same colour
   */
  fill(x, y, rgb, tolerance = 0) {
    const { width, height, words } = this;
    const old = this.colourAt(x, y);
    const seen = new Uint8Array(words.length);
    const same = (i) => !seen[i] && unpack(words[i]).every((value, c) => Math.abs(value - old[c]) <= tolerance);
    const waiting = [[x, y]];
    while (waiting.length) {
      const [at, row] = waiting.pop();
      const start = row * width;
      if (!same(start + at)) continue;
      let left = at;
      let right = at;
      while (left > 0 && same(start + left - 1)) left--;
      while (right < width - 1 && same(start + right + 1)) right++;
      seen.fill(1, start + left, start + right + 1);
      for (const next of [row - 1, row + 1]) {
        if (next < 0 || next >= height) continue;
        let inside = false;
        for (let i = left; i <= right; i++) {
          const more = same(next * width + i);
          if (more && !inside) waiting.push([i, next]);
          inside = more;
        }
      }
    }
    const word = pack(rgb);
    for (let i = 0; i < words.length; i++) if (seen[i]) words[i] = word;
    this.#changed();
  }

  clear(rgb) {
    this.words.fill(pack(rgb));
    this.#changed();
  }

  /** Another picture, of any size. */
  replace(image) {
    this.#take(copy(image));
    this.#changed();
  }
}

function copy(image) {
  return new ImageData(new Uint8ClampedArray(image.data), image.width, image.height);
}

/** Rows of a disc: [dy, left, right]. */
function disc(size) {
  const spans = [];
  const low = -Math.floor((size - 1) / 2);
  const middle = low + (size - 1) / 2;
  for (let dy = low; dy < low + size; dy++) {
    const half = Math.sqrt(Math.max(0, (size / 2) ** 2 - (dy - middle) ** 2));
    const left = Math.ceil(middle - half);
    const right = Math.floor(middle + half);
    if (left <= right) spans.push([dy, left, right]);
  }
  return spans;
}
