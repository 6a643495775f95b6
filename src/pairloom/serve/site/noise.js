/**
 * z as a function of a key and a position: the numbers of pairloom's `noise.py`, so that a seed means the same here.
 * Source: the 32-bit finaliser of MurmurHash3 (public domain), chained over the coordinates.
 */

/** On the low 32 bits; Math.imul keeps them exact where a product of doubles would not. */
export function mix(bits) {
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}

/** The key of one draw of z. */
export const key = (seed, sample = 0) => mix(Math.imul(seed, 0x9e3779b1) + Math.imul(sample, 0x85ebca6b));

/** @returns {Float32Array} channels x height x width numbers in [0, 1) */
export function uniform(key, layer, channels, height, width) {
  const numbers = new Float32Array(channels * height * width);
  const start = (key + Math.imul(layer, 0x27d4eb2f)) | 0;
  for (let c = 0, to = 0; c < channels; c++) {
    const plane = mix(Math.imul(c, 0x9e3779b1) + start);
    for (let y = 0; y < height; y++) {
      const row = mix(plane + Math.imul(y, 0x85ebca77));
      // 24 bits are what a float32 in [0, 1) holds exactly.
      for (let x = 0; x < width; x++) numbers[to++] = (mix(row + Math.imul(x, 0xc2b2ae3d)) >>> 8) / 2 ** 24;
    }
  }
  return numbers;
}

/** Standard normal numbers (Box-Muller). */
export function normal(key, layer, ...shape) {
  const v = uniform(key, 2 * layer + 1, ...shape);
  return uniform(key, 2 * layer, ...shape).map((u, i) => Math.sqrt(-2 * Math.log1p(-u)) * Math.cos(2 * Math.PI * v[i]));
}

/** What enters the graph through one of its inputs of noise, for a source of that size. */
export function values({ kind, layer, channels, stride, rate }, key, height, width) {
  const shape = [channels, height / stride, width / stride];
  if (kind === "gaussian") return normal(key, layer, ...shape);
  const [least, factor] = [Math.fround(rate), 1 / (1 - rate)];
  return uniform(key, layer, ...shape).map((u) => (u >= least ? factor : 0));
}
