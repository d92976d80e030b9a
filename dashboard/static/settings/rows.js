// Rows of settings: quiet hours, and rules of alerts. A rule shows at first what it needs.

import { element, setText } from "../dom.js";
import { t } from "../text.js";

const FIRST = ["name", "to", "label", "dimension", "threshold", "begin", "end", "days"];
/** What a new row begins with, where the key has no default. */
const NEW = { begin: "22:00", end: "06:00", to: [] };

export function makeRows(field, values, disabled, makeSetting) {
  const rows = [];
  const inner = field.key.split(".").length > 2 || field.key === "alerts.quiet_hours";
  const list = element("ol", { class: "rows" });
  const none = element("p", { class: "hint" }, t(`settings.none.${field.key}`));
  const add = element("button", { type: "button", class: "add" }, t(`settings.add.${field.key}`));
  add.disabled = disabled || Boolean(field.fixed);

  function number() {
    rows.forEach((row, n) => {
      setText(row.title, t(`settings.row.${field.key}`, { n: n + 1 }));
      row.remove.setAttribute("aria-label", t("settings.remove_of", { name: row.title.textContent }));
    });
    none.hidden = rows.length > 0;
  }

  function addRow(value) {
    const settings = field.fields.map((one) => {
      const name = one.key.split(".").at(-1);
      return { name, ...makeSetting({ ...one, list: LISTS[one.key] }, value?.[name] ?? one.default ?? NEW[name] ?? null, add.disabled) };
    });
    const first = settings.filter((one) => FIRST.includes(one.name)).map((one) => one.node);
    const more = settings.filter((one) => !FIRST.includes(one.name)).map((one) => one.node);
    const title = element(inner ? "h4" : "h3", {});
    const remove = element("button", { type: "button" }, t("settings.remove"));
    remove.disabled = add.disabled;
    const fold = more.length ? [element("details", {}, element("summary", {}, t("settings.more")), element("div", { class: "grid" }, ...more))] : [];
    const node = element("li", {}, element("div", { class: "bar" }, title, remove), element("p", { class: "error", hidden: "" }), element("div", { class: "grid" }, ...first), ...fold);
    const row = { title, remove, settings, node };
    remove.addEventListener("click", () => {
      const at = rows.indexOf(row);
      rows.splice(at, 1);
      node.remove();
      number();
      (rows[at]?.remove ?? add).focus(); // the button that had the focus is gone
      add.dispatchEvent(new Event("change", { bubbles: true }));
    });
    rows.push(row);
    list.append(node);
    number();
    return node;
  }

  for (const value of values) addRow(value);
  number();
  add.addEventListener("click", () => {
    addRow(null).querySelector("input").focus();
    add.dispatchEvent(new Event("change", { bubbles: true }));
  });
  const read = () => rows.map((row) => Object.fromEntries(row.settings.map((one) => [one.name, one.read()])));
  return { node: element("div", {}, list, none, element("p", {}, add)), read };
}

/** Data lists of index.html that offer words for a key. */
const LISTS = { "alerts.label": "labels", "alerts.stream": "stream-names" };
