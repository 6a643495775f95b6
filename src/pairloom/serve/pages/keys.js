/** Keys of the whole page, and the table of them. */

const MORE = [
  { key: "1 \u2026 9, 0", name: "Colours" },
  { key: "Ctrl Z", name: "Undo" },
  { key: "Ctrl Shift Z", name: "Redo" },
];

/**
 * @param {object} acts keys: [{key, name, does}]; undo, redo; digit(number) -> the name of a colour
 * @param {object} parts
 * @param {HTMLTableElement} parts.table what the keys are is written here
 * @param {HTMLInputElement} parts.single are single letters heard everywhere? Whoever speaks to a computer may not want it
 * @param {HTMLElement} parts.near else only in here
 * @param {(text: string) => void} parts.say
 */
export function listenForKeys(acts, { table, single, near, say }) {
  table.append(...[...acts.keys, ...MORE].map(row));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input:not([type=range], [type=checkbox]), select, textarea, dialog");
    if (typing || event.defaultPrevented || event.altKey) return;
    const key = event.key.toLowerCase();
    const heard = event.ctrlKey || event.metaKey ? withControl(key, event.shiftKey) : alone(key, event.target);
    if (heard) event.preventDefault();
  });

  function withControl(key, shift) {
    if (key === "z") (shift ? acts.redo : acts.undo)();
    else if (key === "y") acts.redo();
    else return false;
    return true;
  }

  function alone(key, target) {
    if (!single.checked && !near.contains(target)) return false;
    const found = acts.keys.find((one) => one.key === key);
    const name = /^\d$/.test(key) ? acts.digit((Number(key) + 9) % 10) : found?.name;
    if (!name) return false;
    found?.does();
    say(name);
    return true;
  }
}

function row({ key, name }) {
  const line = document.createElement("tr");
  const head = Object.assign(document.createElement("th"), { scope: "row" });
  head.append(Object.assign(document.createElement("kbd"), { textContent: key.length === 1 ? key.toUpperCase() : key }));
  line.append(head, Object.assign(document.createElement("td"), { textContent: name }));
  return line;
}
