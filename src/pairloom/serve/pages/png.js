/**
 * PNG of exact pixels. A canvas would do, but browsers that protect against fingerprinting change what they read
 * back from one, and a label map must keep its colours.
 * Source: the PNG specification, third edition; IDAT is a zlib stream, which CompressionStream calls "deflate".
 */

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

function crc(bytes) {
  let c = 0xffffffff;
  for (const byte of bytes) c = TABLE[(c ^ byte) & 255] ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

function chunk(name, body) {
  const whole = new Uint8Array(12 + body.length);
  const view = new DataView(whole.buffer);
  view.setUint32(0, body.length);
  whole.set([...name].map((letter) => letter.charCodeAt(0)), 4);
  whole.set(body, 8);
  view.setUint32(8 + body.length, crc(whole.subarray(4, 8 + body.length)));
  return whole;
}

/**
 * @param {ImageData} image opaque
 * @returns {Promise<Blob>} 8-bit RGB
 */
export async function encodePng({ width, height, data }) {
  const stride = 1 + 3 * width;
  const rows = new Uint8Array(stride * height);
  for (let y = 0, from = 0; y < height; y++) {
    // Filter 0, none: flat colours compress well as they are.
    for (let x = 0, to = y * stride + 1; x < width; x++, from += 4, to += 3) {
      rows[to] = data[from];
      rows[to + 1] = data[from + 1];
      rows[to + 2] = data[from + 2];
    }
  }
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, 2, 0, 0, 0], 8);
  return new Blob(
    [
      Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10),
      chunk("IHDR", header),
      chunk("IDAT", new Uint8Array(await new Response(packed).arrayBuffer())),
      chunk("IEND", new Uint8Array()),
    ],
    { type: "image/png" },
  );
}
