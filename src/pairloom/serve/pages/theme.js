/** Light or dark: what the system prefers, until somebody says otherwise. */

const KEPT = "pairloom theme";
const system = matchMedia("(prefers-color-scheme: dark)");

export function theme(button) {
  let chosen = null;
  try {
    chosen = localStorage.getItem(KEPT);
  } catch {
    // A browser that keeps nothing follows the system.
  }

  function show() {
    const dark = chosen ? chosen === "dark" : system.matches;
    if (chosen) document.documentElement.dataset.theme = chosen;
    button.setAttribute("aria-pressed", dark);
    button.innerHTML = `<svg aria-hidden="true"><use href="icons.svg#${dark ? "sun" : "moon"}"/></svg>`;
    button.title = dark ? "Light colours" : "Dark colours";
  }

  button.addEventListener("click", () => {
    chosen = button.getAttribute("aria-pressed") === "true" ? "light" : "dark";
    try {
      localStorage.setItem(KEPT, chosen);
    } catch {
      // It lasts as long as the page.
    }
    show();
  });
  system.addEventListener("change", show);
  show();
}
