// The dialog "Help": what the page shows, keys, theme and language; and the installation.

import { $, element, remember } from "../dom.js";
import { LANGUAGES, language } from "../text.js";
import { chosenTheme, showTheme } from "./theme.js";
import { startTour } from "./tour.js";

const INSTALL_MS = 3000;

$("help-open").addEventListener("click", () => $("help").showModal());
$("help").addEventListener("click", (event) => {
  if (event.target === $("help")) $("help").close();
});

$("theme").value = chosenTheme();
$("theme").addEventListener("change", () => {
  remember("theme", $("theme").value);
  showTheme($("theme").value);
});

$("language").append(...Object.entries(LANGUAGES).map(([code, name]) => element("option", { value: code, lang: code }, name)));
$("language").value = language;
$("language").addEventListener("change", () => {
  remember("language", $("language").value);
  location.reload();
});

$("help-tour").addEventListener("click", () => {
  $("help").close();
  startTour();
});

// Only a secure page can have one: https, or a page of this machine.
const install = () => navigator.serviceWorker?.register(new URL("../shell.js", import.meta.url)).catch(() => null);
setTimeout(install, INSTALL_MS); // not while the page loads
