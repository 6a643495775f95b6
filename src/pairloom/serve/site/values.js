/**
 * What pixels mean: pictures as the network's numbers in [-1, 1], and back. The rules are those of pairloom's
 * `colours.to_source`, `images.py` and `pictures.py`; planes lie one behind the other, row by row.
 */

const f = Math.fround;
const WHITE = { uint8: 255, uint16: 65535 };
const LUMINANCE = [0.299, 0.587, 0.114];
const LAB_LIMITS = { L: [0, 100], a: [-110, 110], b: [-110, 110] };
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** To the nearest whole number, halves to the even one, as NumPy and torch round. */
export function rint(value) {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}

/** The index of the nearest colour to each pixel; of two equally near, the first. */
export function classes({ data }, colours) {
  const known = new Map();
  const found = new Uint16Array(data.length / 4);
  for (let i = 0, from = 0; i < found.length; i++, from += 4) {
    const word = (data[from] << 16) | (data[from + 1] << 8) | data[from + 2];
    if (!known.has(word)) known.set(word, nearest([data[from], data[from + 1], data[from + 2]], colours));
    found[i] = known.get(word);
  }
  return found;
}

function nearest(values, colours) {
  let [best, least] = [0, Infinity];
  colours.forEach((colour, k) => {
    const distance = colour.reduce((sum, value, c) => sum + (value - values[c]) ** 2, 0);
    if (distance < least) [best, least] = [k, distance];
  });
  return best;
}

/**
 * A picture as the network takes it.
 * @param {{width: number, height: number, data: Uint8ClampedArray}} picture RGBA, opaque
 * @param {object} model
 * @returns {Float32Array} tensor channels x height x width
 */
export function toTensor(picture, { source: { spec }, palette }) {
  const n = picture.width * picture.height;
  if (spec.kind === "labels") {
    const index = classes(picture, palette.map(({ rgb }) => rgb));
    if (spec.one_hot) {
      const x = new Float32Array(n * spec.palette.length).fill(-1);
      index.forEach((k, i) => (x[k * n + i] = 1));
      return x;
    }
    return planes(spec.channels, n, (c, i) => scaled(spec.palette[index[i]][c], spec, c));
  }
  const eightBit = (c, i) => picture.data[4 * i + c];
  const grey = (_, i) => rint(LUMINANCE.reduce((sum, share, c) => sum + share * eightBit(c, i), 0));
  const value = spec.channels === 1 ? grey : eightBit;
  if (spec.kind === "intensity") return planes(spec.channels, n, (c, i) => scaled(deep(value(c, i), spec, c), spec, c));
  const photo = (c, i) => f(2 * f(value(c, i) / 255) - 1);
  if (spec.kind === "luminance") return planes(1, n, photo);
  const x = new Float32Array(n * spec.names.length);
  for (let i = 0; i < n; i++) {
    const lab = labOf([0, 1, 2].map((c) => (photo(spec.channels === 1 ? 0 : c, i) + 1) / 2));
    spec.names.forEach((name, c) => (x[c * n + i] = scaled(lab["Lab".indexOf(name)], spec, c)));
  }
  return x;
}

function planes(channels, n, value) {
  const x = new Float32Array(channels * n);
  for (let c = 0, to = 0; c < channels; c++) for (let i = 0; i < n; i++) x[to++] = value(c, i);
  return x;
}

/** 8 bits as the file's own depth: 0 to 255 are the channel's low to high. */
function deep(value, { dtype, low, high }, c) {
  if (dtype === "uint8") return value;
  const amount = low[c] + (value / 255) * (high[c] - low[c]);
  return dtype === "float32" ? f(amount) : clamp(rint(amount), 0, WHITE[dtype]);
}

/** Integers in float32, floats in float64, as `images.py` has it: low may be large beside the span. */
const rounding = ({ dtype }) => (dtype === "float32" ? (value) => value : f);

/** File value -> [-1, 1]; 0 where low and high are the same. */
function scaled(value, spec, c) {
  const r = rounding(spec);
  const half = r((spec.high[c] - spec.low[c]) / 2);
  return half > 0 ? clamp(r(r(r(value - r(spec.low[c])) / half) - 1), -1, 1) : 0;
}

/** [-1, 1] -> file value. */
function unscaled(value, spec, c) {
  const r = rounding(spec);
  const found = r(r(r(clamp(value, -1, 1) + 1) * r((spec.high[c] - spec.low[c]) / 2)) + r(spec.low[c]));
  return spec.dtype === "float32" ? found : clamp(rint(found), 0, WHITE[spec.dtype]);
}

// -----------------------------------------------------------------------------------------------------------------
// Sizes

/** Continued to the right and downwards by reflection, as often repeated as it takes. */
export function reflected(x, height, width, toHeight, toWidth) {
  if (toHeight <= height && toWidth <= width) return x;
  const [rows, columns] = [wave(height, toHeight), wave(width, toWidth)];
  const channels = x.length / (height * width);
  const wide = new Float32Array(channels * rows.length * columns.length);
  for (let c = 0, to = 0; c < channels; c++) {
    for (const row of rows) {
      const from = (c * height + row) * width;
      for (const column of columns) wide[to++] = x[from + column];
    }
  }
  return wide;
}

/** 0 1 2 1 0 1 2 ...: which row stands where. */
export function wave(size, wanted) {
  const period = Math.max(2 * (size - 1), 1);
  return Array.from({ length: Math.max(size, wanted) }, (_, i) => (size > 1 ? Math.min(i % period, period - (i % period)) : 0));
}

export function cropped(y, fromHeight, fromWidth, height, width) {
  if (height === fromHeight && width === fromWidth) return y;
  const channels = y.length / (fromHeight * fromWidth);
  const small = new Float32Array(channels * height * width);
  for (let c = 0, to = 0; c < channels; c++) {
    for (let row = 0; row < height; row++, to += width) {
      const from = (c * fromHeight + row) * fromWidth;
      small.set(y.subarray(from, from + width), to);
    }
  }
  return small;
}

// -----------------------------------------------------------------------------------------------------------------
// Lab. Source: scikit-image's rgb2lab and lab2rgb: sRGB, D65 white, 2 degree observer.

const TO_XYZ = [[0.412453, 0.35758, 0.180423], [0.212671, 0.71516, 0.072169], [0.019334, 0.119193, 0.950227]];
const WHITE_XYZ = [0.95047, 1, 1.08883];
const TO_RGB = inverse(TO_XYZ);
const dot = (row, v) => row[0] * v[0] + row[1] * v[1] + row[2] * v[2];

function inverse(m) {
  const cofactor = (i, j) => m[(i + 1) % 3][(j + 1) % 3] * m[(i + 2) % 3][(j + 2) % 3] - m[(i + 1) % 3][(j + 2) % 3] * m[(i + 2) % 3][(j + 1) % 3];
  const determinant = [0, 1, 2].reduce((sum, j) => sum + m[0][j] * cofactor(0, j), 0);
  return [0, 1, 2].map((i) => [0, 1, 2].map((j) => cofactor(j, i) / determinant));
}

/** @param {number[]} rgb in [0, 1] */
export function labOf(rgb) {
  const linear = rgb.map((v) => (v > 0.04045 ? ((v + 0.055) / 1.055) ** 2.4 : v / 12.92));
  const [x, y, z] = TO_XYZ.map((row, i) => dot(row, linear) / WHITE_XYZ[i]).map((v) => (v > 0.008856 ? Math.cbrt(v) : 7.787 * v + 16 / 116));
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

/** @returns {number[]} rgb in [0, 1]; what lies outside sRGB is clipped */
export function rgbOf([L, a, b]) {
  const y = (L + 16) / 116;
  const xyz = [a / 500 + y, y, Math.max(0, y - b / 200)].map((v, i) => (v > 0.2068966 ? v ** 3 : (v - 16 / 116) / 7.787) * WHITE_XYZ[i]);
  return TO_RGB.map((row) => dot(row, xyz)).map((v) => clamp(v > 0.0031308 ? 1.055 * v ** (1 / 2.4) - 0.055 : v * 12.92, 0, 1));
}

/** The spec of what is shown and kept: of Lab, the 8-bit grey or RGB that it becomes with the source's light. */
export function outputSpec(spec) {
  if (spec.kind !== "lab") return spec;
  const limits = (value) => Array(spec.channels).fill(value);
  return { ...spec, kind: "intensity", names: [], low: limits(0), high: limits(255) };
}

/** ab with the source's L becomes RGB; what is no Lab comes back as it is. */
export function recombined(y, x, n, spec) {
  if (spec.kind !== "lab") return y;
  const whole = new Float32Array(n * spec.channels);
  for (let i = 0; i < n; i++) {
    const given = { L: x[i], a: 0, b: 0 };
    spec.names.forEach((name, c) => (given[name] = y[c * n + i]));
    const lab = Object.entries(LAB_LIMITS).map(([name, [low, high]]) => low + ((clamp(given[name], -1, 1) + 1) * (high - low)) / 2);
    const rgb = rgbOf(lab);
    for (let c = 0; c < spec.channels; c++) whole[c * n + i] = rgb[c] * 2 - 1;
  }
  return whole;
}

// -----------------------------------------------------------------------------------------------------------------
// Outputs

function argmax(y, n, i) {
  let best = 0;
  for (let c = 1; c * n < y.length; c++) if (y[c * n + i] > y[best * n + i]) best = c;
  return best;
}

/** The class of a pixel of an output of labels. */
function classOf(y, n, i, spec) {
  if (spec.one_hot) return argmax(y, n, i);
  return nearest(spec.low.map((_, c) => unscaled(y[c * n + i], spec, c)), spec.palette);
}

/**
 * An output for the eye.
 * @param {number[][]} shown colours of the classes, of a label map
 * @returns {Uint8ClampedArray} RGBA
 */
export function picture(y, n, spec, shown) {
  const data = new Uint8ClampedArray(4 * n).fill(255);
  const channels = y.length / n;
  for (let i = 0; i < n; i++) {
    const rgb = spec.kind === "labels" ? shown[classOf(y, n, i, spec)] : null;
    for (let c = 0; c < 3; c++) {
      const from = channels >= 3 ? c : 0;
      data[4 * i + c] = rgb ? rgb[c] : rint(f(f(clamp(y[from * n + i], -1, 1) + 1) * 127.5));
    }
  }
  return data;
}

/** Standard deviation over the samples in the target's units, for the eye: the largest is white. */
export function spread(outputs, n, spec) {
  const channels = outputs[0].length / n;
  const deviation = new Float64Array(n);
  for (let c = 0; c < channels; c++) {
    const scale = spec.one_hot ? 1 : (spec.high[c] - spec.low[c]) / 2;
    for (let i = 0; i < n; i++) {
      const mean = outputs.reduce((sum, y) => sum + y[c * n + i], 0) / outputs.length;
      const variance = outputs.reduce((sum, y) => sum + (y[c * n + i] - mean) ** 2, 0) / outputs.length;
      deviation[i] += (Math.sqrt(variance) * scale) / channels;
    }
  }
  const most = deviation.reduce((a, b) => Math.max(a, b), 0);
  const data = new Uint8ClampedArray(4 * n).fill(255);
  for (let i = 0; i < n; i++) data.fill(rint((deviation[i] / (most || 1)) * 255), 4 * i, 4 * i + 3);
  return { data, most };
}

export function mean(outputs) {
  return outputs[0].map((_, i) => outputs.reduce((sum, y) => sum + y[i], 0) / outputs.length);
}

/**
 * An output as a file in the target's own depth.
 * Source: NumPy's format 1.0: a header that is a Python literal, padded to 64 bytes, then the values.
 * @returns {Uint8Array}
 */
export function npy(y, height, width, spec) {
  const n = height * width;
  const [kind, descr] = { uint8: [Uint8Array, "|u1"], uint16: [Uint16Array, "<u2"], float32: [Float32Array, "<f4"] }[spec.dtype];
  const values = new kind(n * spec.channels);
  for (let i = 0; i < n; i++) {
    const colour = spec.kind === "labels" ? spec.palette[classOf(y, n, i, spec)] : null;
    for (let c = 0; c < spec.channels; c++) values[i * spec.channels + c] = colour ? colour[c] : unscaled(y[c * n + i], spec, c);
  }
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${height}, ${width}, ${spec.channels}), }`;
  const padded = text.padEnd(Math.ceil((10 + text.length + 1) / 64) * 64 - 11) + "\n";
  const head = Uint8Array.of(0x93, ...[..."NUMPY"].map((letter) => letter.charCodeAt(0)), 1, 0, padded.length & 255, padded.length >> 8);
  const file = new Uint8Array(10 + padded.length + values.byteLength);
  file.set(head);
  file.set(new TextEncoder().encode(padded), 10);
  file.set(new Uint8Array(values.buffer), 10 + padded.length);
  return file;
}
