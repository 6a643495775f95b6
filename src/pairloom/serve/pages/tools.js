/** From a pointer or the keys to marks on the drawing. */

export const TOOLS = [
  { id: "brush", key: "b", name: "Brush" },
  { id: "fill", key: "f", name: "Fill" },
  { id: "rectangle", key: "r", name: "Rectangle" },
  { id: "line", key: "l", name: "Line" },
  { id: "eraser", key: "e", name: "Eraser" },
  { id: "pick", key: "i", name: "Pick a colour" },
];

/**
 * @param {object} parts
 * @param {HTMLCanvasElement} parts.canvas shows the drawing
 * @param {HTMLElement} parts.cursor the keyboard's place on it
 * @param {Drawing} parts.drawing
 * @param {() => {tool: string, rgb: number[], background: number[], size: number, tolerance: number}} parts.chosen
 * @param {(rgb: number[]) => void} parts.picked
 * @param {(text: string) => void} parts.say
 * @param {(rgb: number[]) => string} parts.nameOf a colour in words
 */
export function listen({ canvas, cursor, drawing, chosen, picked, say, nameOf }) {
  let mark = null;

  function start(x, y, tool = chosen().tool) {
    const { rgb, background, tolerance } = chosen();
    if (tool === "pick") {
      if (drawing.has(x, y)) picked(drawing.colourAt(x, y));
    } else if (tool === "fill") {
      if (!drawing.has(x, y)) return;
      drawing.begin();
      drawing.fill(x, y, rgb, tolerance);
    } else {
      drawing.begin();
      mark = { tool, x, y, fromX: x, fromY: y, rgb: tool === "eraser" ? background : rgb };
      go(x, y);
    }
  }

  function go(x, y) {
    if (!mark) return;
    const { size } = chosen();
    if (mark.tool === "rectangle" || mark.tool === "line") {
      drawing.rewind();
      if (mark.tool === "line") drawing.stroke(mark.fromX, mark.fromY, x, y, size, mark.rgb);
      else drawing.rectangle(mark.fromX, mark.fromY, x, y, mark.rgb);
    } else {
      drawing.stroke(mark.x, mark.y, x, y, size, mark.rgb);
    }
    Object.assign(mark, { x, y });
  }

  function end() {
    mark = null;
  }

  function giveUp() {
    if (mark) drawing.cancel();
    mark = null;
  }

  // The pointer

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [
      Math.floor(((event.clientX - box.left) * drawing.width) / box.width),
      Math.floor(((event.clientY - box.top) * drawing.height) / box.height),
    ];
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || mark) return;
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    cursor.hidden = true;
    start(...place(event), event.altKey ? "pick" : undefined);
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!mark || !canvas.hasPointerCapture(event.pointerId)) return;
    const events = mark.tool === "brush" || mark.tool === "eraser" ? event.getCoalescedEvents?.() : null;
    for (const one of events?.length ? events : [event]) go(...place(one));
  });
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", giveUp);

  // The keys

  let at = null;

  function showCursor() {
    cursor.hidden = false;
    cursor.style.left = `${(100 * (at[0] + 0.5)) / drawing.width}%`;
    cursor.style.top = `${(100 * (at[1] + 0.5)) / drawing.height}%`;
    cursor.classList.toggle("down", mark !== null);
  }

  let telling = 0;
  function tell() {
    clearTimeout(telling);
    telling = setTimeout(() => say(`${at[0]}, ${at[1]}: ${nameOf(drawing.colourAt(...at))}`), 350);
  }

  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    at ??= [drawing.width >> 1, drawing.height >> 1];
    at = [Math.min(at[0], drawing.width - 1), Math.min(at[1], drawing.height - 1)];
    if (event.key in STEPS) {
      const [dx, dy] = STEPS[event.key];
      const by = event.shiftKey ? 8 : 1;
      at = [
        Math.min(drawing.width - 1, Math.max(0, at[0] + dx * by)),
        Math.min(drawing.height - 1, Math.max(0, at[1] + dy * by)),
      ];
      go(...at);
      tell();
    } else if (event.key === " ") {
      if (event.repeat) return event.preventDefault();
      if (mark) {
        end();
        say("Pen lifted.");
      } else {
        start(...at);
        say(mark ? "Pen down." : "Done.");
      }
    } else if (event.key === "Escape" && mark) {
      giveUp();
      say("Taken back.");
    } else {
      return;
    }
    event.preventDefault();
    showCursor();
  });
  canvas.addEventListener("blur", () => {
    end();
    cursor.hidden = true;
  });
  drawing.addEventListener("resize", () => {
    at = null;
    mark = null;
    cursor.hidden = true;
  });
}
