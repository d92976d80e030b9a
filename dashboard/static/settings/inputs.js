// Inputs of one value: each gives its nodes and a function that reads the value. An empty input is
// null: the key is removed, and its default is valid.

import { element } from "../dom.js";
import { known, locale, t } from "../text.js";

/** A word of the configuration in the language of the page. */
export const word = (one) => known(`settings.word.${one}`) ?? known(`dimension.${one}`) ?? one;

/** A value for people, such as the default. */
export function shown(field, value) {
  if (value === null || value === "" || value.length === 0) return t("settings.unset");
  if (typeof value === "boolean") return t(value ? "settings.on" : "settings.off");
  if (Array.isArray(value)) return value.length === field.choices.length ? t("settings.all") : value.map(weekday).join(", ");
  const text = typeof value === "number" ? value.toLocaleString(locale, { maximumSignificantDigits: 12 }) : word(value);
  return field.unit ? `${text} ${unit(field)}` : text;
}

export const unit = (field) => known(`settings.unit.${field.unit}`) ?? field.unit;

const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const weekday = (name, style = "short") => new Date(2024, 0, 1 + DAYS.indexOf(name)).toLocaleDateString(locale, { weekday: style }); // a Monday

function choice(field, id, value) {
  const node = element("select", { id });
  if (!field.required && field.default === null) node.append(element("option", { value: "" }, t("settings.unset")));
  for (const one of field.choices) node.append(element("option", { value: one }, word(one)));
  node.value = value ?? "";
  return { node, read: () => node.value || null };
}

function choices(field, id, value) {
  const node = element("span", { id, class: "days" });
  for (const one of field.choices) {
    const box = element("input", { type: "checkbox", value: one, "aria-label": weekday(one, "long") });
    box.checked = value.includes(one);
    node.append(element("label", {}, box, element("span", { "aria-hidden": "true" }, weekday(one))));
  }
  return { node, read: () => [...node.querySelectorAll("input:checked")].map((box) => box.value) };
}

function toggle(field, id, value) {
  const node = element("input", { id, type: "checkbox" });
  node.checked = value;
  return { node, read: () => node.checked };
}

/** A number; what is none is sent as it is, and the server says so. */
function number(field, id, value) {
  const node = element("input", { id, type: "text", inputmode: field.kind === "integer" ? "numeric" : "decimal", autocomplete: "off" });
  node.value = value === null ? "" : String(value);
  const read = () => {
    const text = node.value.trim();
    const plain = text.replace(",", ".");
    return text === "" ? null : Number.isFinite(Number(plain)) ? Number(plain) : text;
  };
  return { node, read };
}

function text(field, id, value) {
  const clock = /\.(begin|end)$/.test(field.key);
  const node = element("input", { id, type: clock ? "time" : "text", list: field.list ?? null, autocomplete: "off", maxlength: 200 });
  node.value = clock ? (value ?? "").padStart(5, "0") : value ?? "";
  return { node, read: () => node.value.trim() || null };
}

function texts(field, id, value) {
  const node = element("textarea", { id, rows: 2, autocomplete: "off", spellcheck: "false" });
  node.value = (value ?? []).join("\n");
  return { node, read: () => node.value.split("\n").map((one) => one.trim()).filter(Boolean) };
}

const MAKERS = { choice, choices, switch: toggle, number, integer: number, text, texts };

export const makeInput = (field, id, value) => MAKERS[field.kind](field, id, value);
