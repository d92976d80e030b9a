// Texts in the language of the browser, or in the chosen one. languages/*.js have the same keys.

import { remembered } from "./dom.js";

export const LANGUAGES = { en: "English", de: "Deutsch", fr: "Français", es: "Español", pl: "Polski" };

const wanted = [remembered("language"), ...navigator.languages].map((one) => one?.slice(0, 2));
export const language = wanted.find((one) => one in LANGUAGES) ?? "en";
/** For dates and numbers: the browser's own variant of the language. */
export const locale = navigator.languages.find((one) => one.startsWith(language)) ?? language;

const folder = document.documentElement.dataset.texts; // of a page with texts of its own
const files = [`./languages/${language}.js`, ...(folder ? [`./languages/${folder}/${language}.js`] : [])];
const catalogue = Object.assign({}, ...(await Promise.all(files.map((file) => import(file)))).map((one) => one.default));

/** The text of a key, if it has one. */
export const known = (key) => catalogue[key];

/** The parts of a text: what is between its placeholders, and their values (texts or nodes). */
export const parts = (key, values = {}) =>
  (catalogue[key] ?? key).split(/\{(\w+)\}/).map((part, n) => (n % 2 ? values[part] : part)).filter((part) => part !== "");

/** A text with values in place of its placeholders. */
export const t = (key, values) => parts(key, values).join("");

const decimal = new Intl.NumberFormat(locale, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
export const tenths = (value) => decimal.format(value);
export const integer = (value) => value.toLocaleString(locale);

const two = (number) => String(number).padStart(2, "0");
/** A time of day; all times of the page look like this. */
export const clock = (time, seconds = true) => {
  const at = new Date(time * 1000);
  return `${two(at.getHours())}:${two(at.getMinutes())}${seconds ? `:${two(at.getSeconds())}` : ""}`;
};
/** A day in few letters. */
export const day = (time, weekday = true) =>
  new Date(time * 1000).toLocaleDateString(locale, { ...(weekday && { weekday: "short" }), day: "numeric", month: "short" });
/** A time, with its day unless it is today. */
export const moment = (time) =>
  new Date(time * 1000).toDateString() === new Date().toDateString() ? clock(time) : `${day(time)}, ${clock(time)}`;

/** Attribute that `data-t-…` sets. */
const ATTRIBUTES = { label: "aria-label", title: "title", more: "data-more", less: "data-less" };

const translated = document.querySelectorAll("[data-t]");
if (translated.length) document.documentElement.lang = language;
for (const node of translated) node.textContent = t(node.dataset.t);
for (const [name, attribute] of Object.entries(ATTRIBUTES)) {
  for (const node of document.querySelectorAll(`[data-t-${name}]`)) node.setAttribute(attribute, t(node.getAttribute(`data-t-${name}`)));
}
