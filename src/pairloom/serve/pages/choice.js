/** One of several, as a group of radio buttons that look like buttons: one stop of Tab, arrow keys inside. */

/**
 * @param {HTMLElement} group with role="radiogroup"
 * @param {(value: string) => void} onChoose
 */
export function choice(group, onChoose) {
  const buttons = () => [...group.querySelectorAll('[role="radio"]')];

  function choose(value, { quiet = false, focus = false } = {}) {
    for (const button of buttons()) {
      const mine = button.dataset.value === String(value);
      button.setAttribute("aria-checked", mine);
      button.tabIndex = mine ? 0 : -1;
      if (mine && focus) button.focus();
    }
    if (!buttons().some((button) => button.tabIndex === 0) && buttons()[0]) buttons()[0].tabIndex = 0;
    if (!quiet) onChoose(String(value));
  }

  group.addEventListener("click", (event) => {
    const button = event.target.closest('[role="radio"]');
    if (button) choose(button.dataset.value);
  });
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const all = buttons();
    const at = all.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    choose(all[(at + step + all.length) % all.length].dataset.value, { focus: true });
  });
  return choose;
}

export function radio(value, { label, title, keys }, ...children) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.value = value;
  button.setAttribute("role", "radio");
  button.setAttribute("aria-checked", "false");
  button.tabIndex = -1;
  if (label) button.setAttribute("aria-label", label);
  if (title) button.title = title;
  if (keys) button.setAttribute("aria-keyshortcuts", keys);
  button.append(...children);
  return button;
}
