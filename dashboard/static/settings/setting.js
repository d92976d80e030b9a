// One setting: its name, its input, what it does, its default, when it takes effect, its mistake.

import { element, setText } from "../dom.js";
import { t } from "../text.js";
import { makeInput, shown, unit } from "./inputs.js";
import { makeRows } from "./rows.js";

let made = 0;

/** A description of the configuration as a sentence. */
const sentence = (text) => `${text.replace(/^\p{Ll}/u, (letter) => letter.toUpperCase()).replaceAll("\u0060", "")}.`;

/** A setting: its node, and a function that reads its value. */
export function makeSetting(field, value, disabled) {
  const id = `setting-${++made}`;
  const error = element("p", { id: `${id}-error`, class: "error", hidden: "" });
  if (field.kind === "rows") {
    const rows = makeRows(field, value, disabled, makeSetting);
    const node = element("div", { class: "setting", "data-key": field.key }, rows.node, error);
    return { node, read: rows.read };
  }
  const input = makeInput(field, id, value);
  const key = field.key.replace(/^.*(?=quiet_hours\.)/, ""); // the same for mute and for a rule
  const name = t(`settings.name.${key}`);
  const about = [sentence(t(`settings.about.${key}`))];
  if (!field.required) about.push(t("settings.default", { value: shown(field, field.default) }));
  if (!field.now) about.push(t("settings.later"));
  if (field.fixed) about.push(t("settings.fixed", { what: field.fixed }));
  const group = field.kind === "choices";
  const controls = group ? input.node.querySelectorAll("input") : [input.node];
  for (const one of controls) {
    one.disabled = disabled || Boolean(field.fixed);
    one.setAttribute("aria-describedby", `${id}-about ${id}-error`);
  }
  const label = element(group ? "legend" : "label", group ? {} : { for: id }, name, field.unit ? element("small", {}, ` ${unit(field)}`) : "");
  const hint = element("p", { id: `${id}-about`, class: "hint" }, about.join(" "));
  const node = element(group ? "fieldset" : "div", { class: "setting", "data-kind": field.kind, "data-key": field.key }, label, input.node, hint, error);
  return { node, read: input.read };
}

/** The node of a key of the server, such as `alerts.0.threshold`; null: it is not shown. */
export function find(form, key) {
  let scope = form;
  let found = null;
  let name = "";
  for (const part of key.split(".")) {
    if (/^\d+$/.test(part)) {
      const row = found?.querySelector(".rows")?.children[Number(part)];
      if (row) scope = found = row;
      continue;
    }
    name = name ? `${name}.${part}` : part;
    found = scope.querySelector(`[data-key="${name}"]`) ?? found;
  }
  return found;
}

/** Show a mistake beside its setting. */
export function showError(node, text) {
  const error = node.querySelector(":scope > .error");
  error.hidden = false;
  setText(error, text);
  for (const one of controlsOf(node)) one.setAttribute("aria-invalid", "true");
  for (let fold = node.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
}

export function clearErrors(form) {
  for (const one of form.querySelectorAll(".error")) one.hidden = true;
  for (const one of form.querySelectorAll("[aria-invalid]")) one.removeAttribute("aria-invalid");
}

export const controlsOf = (node) => node.querySelectorAll("input, select, textarea");
