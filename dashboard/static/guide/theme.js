// Light, dark, or as the system has it. It is set before the first paint: index.html loads this
// file at its top.

import { remembered } from "../dom.js";

const COLOURS = { light: "#f5f5f1", dark: "#0f1216" }; // --bg of page.css

export function chosenTheme() {
  const one = remembered("theme");
  return one in COLOURS ? one : "system";
}

/** Show a theme; the bars of a phone take its colour. */
export function showTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  for (const meta of document.querySelectorAll("meta[name=theme-color]")) {
    meta.content = COLOURS[theme] ?? COLOURS[meta.media.includes("dark") ? "dark" : "light"];
  }
  document.dispatchEvent(new Event("themechange"));
}

showTheme(chosenTheme());
