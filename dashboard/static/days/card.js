// The card "Days and weeks": a heat map of the chosen stream by hour, and all streams beside each
// other.

import { $, element, icon, setText } from "../dom.js";
import { ask } from "../network/api.js";
import { showUntil } from "../past.js";
import { refusal } from "../refusal.js";
import { chosenStream, now, state } from "../state.js";
import { day, integer, locale, t } from "../text.js";
import * as words from "../words.js";
import { Hours, shares } from "./hours.js";

const DAYS = { week: 7, month: 30, weekdays: 28 };
const REFRESH_MS = 60000;

/** What is shown: `moved` is the number of periods before the present one. */
const view = { mode: "week", moved: 0, asked: 0, cells: new Map(), labels: [], at: [0, 0], choose: null };

/** Show the card where there is a history; `choose` is called with the name of a stream. */
export function showDays(choose) {
  view.choose = choose;
  $("days-card").hidden = $("spoken-card").hidden = !state.history;
  refreshDays();
}

/** Local midnight a number of days after a time. */
function midnight(time, days) {
  const date = new Date(time * 1000);
  return new Date(date.getFullYear(), date.getMonth(), date.getDate() + days).getTime() / 1000;
}

const period = () => {
  const days = DAYS[view.mode];
  const last = midnight(now(), 1 - view.moved * days);
  return { start: midnight(last, -days), end: last, days };
};

export async function refreshDays() {
  const stream = chosenStream();
  if (!state.history || !stream || !$("days").open) return;
  const asked = ++view.asked;
  const { start, end, days } = period();
  const half = new Date().getTimezoneOffset() % 60 !== 0;
  const span = { from: start, to: Math.min(end, now()) };
  const [hours, totals] = await Promise.all([
    ask("shares", { ...span, stream: stream.name, step: half ? 900 : 3600 }),
    state.streams.size > 1 ? ask("shares", { ...span, step: 0 }) : null,
  ]);
  if (asked !== view.asked) return; // the user moved on during the request
  $("days-later").disabled = view.moved === 0;
  setText($("days-title"), t("days.span", { from: day(start), to: day(midnight(end, -1)) }));
  if (!hours?.ok) {
    setText($("heat-reading"), await refusal(hours));
    return;
  }
  const found = await hours.json();
  view.labels = found.labels;
  drawHeat(new Hours(found, view.mode === "weekdays" ? null : start), start, days);
  setText($("heat-reading"), found.rows.length ? t("heat.hint") : t("heat.none"));
  $("heat-incomplete").hidden = found.complete;
  drawComparison(totals?.ok ? await totals.json() : null);
}

/** Day of a row; `short`: as its heading, else as a cell says it. */
function rowName(row, start, short) {
  const weekdays = view.mode === "weekdays";
  const date = weekdays ? new Date(2024, 0, 1 + row) : new Date(midnight(start, row) * 1000); // a Monday
  if (!short) return weekdays ? date.toLocaleDateString(locale, { weekday: "long" }) : day(date / 1000);
  const name = date.toLocaleDateString(locale, { weekday: "short" });
  return weekdays ? name : `${name} ${date.getDate()}`;
}

function drawHeat(hours, start, days) {
  const rows = view.mode === "weekdays" ? 7 : days;
  view.cells.clear();
  const head = element("tr", { role: "row" }, element("td", { role: "presentation" }),
    ...Array.from({ length: 24 }, (_, hour) => element("th", { scope: "col", role: "columnheader" }, hour % 3 ? element("span", { class: "unseen" }, String(hour)) : String(hour))));
  const lines = Array.from({ length: rows }, (_, row) => {
    const name = rowName(row, start, false);
    const cells = Array.from({ length: 24 }, (_, hour) => heatCell(hours.at(row, hour), row, hour, `${name}, ${hour}–${hour + 1} h`));
    return element("tr", { role: "row" }, element("th", { scope: "row", role: "rowheader" }, rowName(row, start, true)), ...cells);
  });
  $("heat").replaceChildren(element("thead", { role: "rowgroup" }, head), element("tbody", { role: "rowgroup" }, ...lines));
  focusable(Math.min(view.at[0], rows - 1), view.at[1]);
}

function heatCell(hour, row, column, name) {
  const cell = element("td", { role: "gridcell", tabindex: -1, "data-row": row, "data-hour": column });
  view.cells.set(`${row}:${column}`, cell);
  cell.setAttribute("aria-label", `${name}: ${hour ? describe(hour) : t("heat.empty")}`);
  if (!hour) return cell;
  cell.dataset.known = true;
  const label = hour.top(view.labels);
  if (!label) return cell;
  const { shape, colour } = words.labelStyle(label, view.labels);
  cell.append(icon(shape));
  cell.style.setProperty("--c", colour);
  cell.style.setProperty("--share", `${Math.round(100 * (0.25 + 0.75 * Math.sqrt(hour.speech)))}%`);
  return cell;
}

function describe(hour) {
  const labels = shares(hour, view.labels).map(([label, share]) => `${words.labelName(label)} ${words.percent(share)}`);
  const parts = [t("heat.speech", { p: words.percent(hour.speech) }), ...(labels.length ? [labels.join(", ")] : [])];
  if (hour.count) parts.push(t("heat.utterances", { n: integer(hour.count) }));
  return parts.join("; ");
}

function drawComparison(totals) {
  $("compare").hidden = $("compare-title").hidden = !totals?.rows.length;
  if (!totals) return;
  const hours = totals.rows.map((row) => [row[0], Hours.of(row)]);
  $("compare").replaceChildren(...hours.map(([name, hour]) => {
    const bar = element("span", { class: "stack", "aria-hidden": "true" });
    for (const [label, share] of shares(hour, totals.labels)) {
      const part = element("i");
      part.style.setProperty("--c", words.labelStyle(label, totals.labels).colour);
      part.style.width = `${100 * share}%`;
      bar.append(part);
    }
    const button = element("button", { type: "button", "aria-pressed": name === state.chosen }, name);
    button.addEventListener("click", () => view.choose(name));
    const labels = shares(hour, totals.labels).map(([label, share]) => `${words.labelName(label)} ${words.percent(share)}`).join(", ");
    return element("li", {}, button, bar, element("small", {}, [labels, t("heat.speech", { p: words.percent(hour.speech) }), t("heat.utterances", { n: integer(hour.count) })].filter(Boolean).join(" · ")));
  }));
}

/** One cell is in the tab order, as in any grid. */
function focusable(row, hour) {
  view.cells.get(view.at.join(":"))?.setAttribute("tabindex", -1);
  view.at = [row, hour];
  const cell = view.cells.get(`${row}:${hour}`);
  cell?.setAttribute("tabindex", 0);
  return cell;
}

function read(cell) {
  if (cell?.dataset.row) setText($("heat-reading"), cell.getAttribute("aria-label"));
}

function openHour(cell) {
  if (view.mode === "weekdays" || !cell?.dataset.known) return;
  const date = new Date(midnight(period().start, Number(cell.dataset.row)) * 1000);
  date.setHours(Number(cell.dataset.hour) + 1);
  showUntil(Math.min(date.getTime() / 1000, now()), 3600);
  $("past-title").scrollIntoView({ block: "start" });
}

$("heat").addEventListener("pointerover", (event) => read(event.target.closest("td")));
$("heat").addEventListener("focusin", (event) => read(event.target.closest("td")));
$("heat").addEventListener("click", (event) => {
  const cell = event.target.closest("td");
  if (!cell?.dataset.row) return;
  focusable(Number(cell.dataset.row), Number(cell.dataset.hour));
  openHour(cell);
});
$("heat").addEventListener("keydown", (event) => {
  const [row, hour] = view.at;
  const to = { ArrowUp: [row - 1, hour], ArrowDown: [row + 1, hour], ArrowLeft: [row, hour - 1], ArrowRight: [row, hour + 1], Home: [row, 0], End: [row, 23] }[event.key];
  if (event.key === "Enter") openHour(event.target.closest("td"));
  else if (!to) return;
  else if (view.cells.has(to.join(":"))) focusable(...to).focus();
  event.preventDefault();
});
$("days").addEventListener("toggle", refreshDays);
$("days-period").addEventListener("change", (event) => {
  view.mode = event.target.value;
  view.moved = 0;
  refreshDays();
});
$("days-period").addEventListener("submit", (event) => event.preventDefault());
const move = (by) => {
  view.moved = Math.max(0, view.moved + by);
  refreshDays();
};
$("days-earlier").addEventListener("click", () => move(1));
$("days-later").addEventListener("click", () => move(-1));
setInterval(() => !document.hidden && refreshDays(), REFRESH_MS);
