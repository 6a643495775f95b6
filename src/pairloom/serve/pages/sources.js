/** Images from outside: dropped, pasted, opened, or taken with the camera; placed on the canvas. */

/** Called with a picture that somebody gave: ImageBitmap. */
export function receive({ page, frame, file, choose, got, failed, elsewhere }) {
  async function take(blob) {
    try {
      got(await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" }));
    } catch {
      failed(`This is not an image that the browser can read.${elsewhere}`);
    }
  }

  choose.addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files[0]) take(file.files[0]);
    file.value = "";
  });
  const holdsFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  let inside = 0;
  page.addEventListener("dragenter", (event) => {
    if (!holdsFile(event)) return;
    inside++;
    frame.classList.add("dropping");
  });
  page.addEventListener("dragleave", (event) => {
    if (holdsFile(event) && --inside <= 0) frame.classList.remove("dropping");
  });
  page.addEventListener("dragover", (event) => holdsFile(event) && event.preventDefault());
  page.addEventListener("drop", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    inside = 0;
    frame.classList.remove("dropping");
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
  page.addEventListener("paste", (event) => {
    const item = [...(event.clipboardData?.items ?? [])].find(({ type }) => type.startsWith("image/"));
    const blob = item?.getAsFile();
    if (!blob) return;
    event.preventDefault();
    take(blob);
  });
}

/**
 * A picture on a canvas of that size.
 * @param {CanvasImageSource} picture
 * @param {[number, number]} from its width and height
 * @param {{width: number, height: number, fit: "crop"|"fit"|"stretch", smooth: boolean, background: number[]}} to
 * @returns {ImageData}
 */
export function placed(picture, [fromWidth, fromHeight], { width, height, fit, smooth, background }) {
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.fillStyle = `rgb(${background.join(" ")})`;
  pen.fillRect(0, 0, width, height);
  const scales = [width / fromWidth, height / fromHeight];
  const scale = fit === "fit" ? Math.min(...scales) : Math.max(...scales);
  const [w, h] = fit === "stretch" ? [width, height] : [fromWidth * scale, fromHeight * scale].map(Math.round);
  pen.imageSmoothingEnabled = smooth;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, Math.round((width - w) / 2), Math.round((height - h) / 2), w, h);
  return pen.getImageData(0, 0, width, height);
}

/** Each pixel as the nearest of the colours, in place: a label map has no others. */
export function snap(image, colours) {
  const known = new Map();
  const { data } = image;
  for (let i = 0; i < data.length; i += 4) {
    const word = (data[i] << 16) | (data[i + 1] << 8) | data[i + 2];
    let rgb = known.get(word);
    if (!rgb) {
      const distance = ([r, g, b]) => (r - data[i]) ** 2 + (g - data[i + 1]) ** 2 + (b - data[i + 2]) ** 2;
      rgb = colours.reduce((best, colour) => (distance(colour) < distance(best) ? colour : best));
      if (known.size < 1 << 16) known.set(word, rgb);
    }
    [data[i], data[i + 1], data[i + 2]] = rgb;
    data[i + 3] = 255;
  }
  return image;
}

/** The camera, in a dialog: a still, or every frame as it comes. */
export function camera({ open, dialog, video, still, live, close, began, frame, failed }) {
  let stream = null;
  let running = false;

  if (!navigator.mediaDevices?.getUserMedia) {
    open.disabled = true;
    open.title = "The browser gives a camera only to pages from this machine (127.0.0.1) or with HTTPS.";
    return;
  }
  open.addEventListener("click", async () => {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    } catch (error) {
      failed(
        error.name === "NotAllowedError"
          ? "The browser was not allowed to use the camera."
          : "There is no camera that the browser can use.",
      );
      return;
    }
    video.srcObject = stream;
    dialog.showModal();
    await video.play();
  });
  const give = () => frame(video, [video.videoWidth, video.videoHeight]);
  still.addEventListener("click", () => {
    if (!video.videoWidth) return;
    if (!running) began();
    give();
    dialog.close();
  });
  live.addEventListener("change", () => {
    running = live.checked;
    if (!running) return;
    began();
    const next = () => {
      if (!running) return;
      if (video.videoWidth) give();
      setTimeout(() => requestAnimationFrame(next), 80);
    };
    next();
  });
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    running = false;
    live.checked = false;
    for (const track of stream?.getTracks() ?? []) track.stop();
    video.srcObject = null;
  });
}
