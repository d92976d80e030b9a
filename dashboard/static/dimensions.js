// The dimensions of emotion, where a bundle has some: bars in the card "Now", and a line for each
// below the ribbon.
/* global uPlot */

import { ROW, axis, css } from "./charts.js";
import { $, element, icon, setText } from "./dom.js";
import { known, t } from "./text.js";

const STROKES = { arousal: [], valence: [8, 4], dominance: [2, 4] }; // dashes in pixels
const NAMES = Object.keys(STROKES);
const number = (value) => value.toFixed(2);

/** The values of a row; null where there are none. */
const valuesOf = (row) => row[ROW.dimensions] ?? null;

let bars = { bundle: null, names: [], rows: {} };

/** Draw the values of the newest row in the card "Now"; `bundle`: of that row. */
export function drawDimensions(row, bundle) {
  const found = Object.keys(valuesOf(row) ?? {});
  if (found.length || bars.bundle !== bundle) fillBars(bundle, found);
  const values = valuesOf(row);
  for (const name of bars.names) {
    const { fill, shown } = bars.rows[name];
    fill.style.transform = `scaleX(${values?.[name] ?? 0})`;
    setText(shown, values ? number(values[name]) : "–");
  }
}

function fillBars(bundle, names) {
  if (bars.bundle === bundle && bars.names.join() === names.join()) return;
  $("dimensions")?.remove();
  bars = { bundle, names, rows: {} };
  if (!names.length) return;
  const nodes = names.flatMap((name) => {
    const fill = element("i");
    fill.style.setProperty("--c", "var(--ink)");
    const shown = element("dd", { class: "number" });
    bars.rows[name] = { fill, shown };
    return [element("dt", {}, icon("dash", "var(--ink)"), known(`dimension.${name}`) ?? name), element("dd", { class: "track", "aria-hidden": "true" }, fill), shown];
  });
  $("bars").after(element("dl", { id: "dimensions", class: "bars", "aria-label": t("dimensions") }, ...nodes));
}

/** The values of a row as a text, for the reading of the charts. */
export function dimensionsText(row) {
  const values = valuesOf(row);
  return values ? `  ${Object.entries(values).map(([name, value]) => `${known(`dimension.${name}`) ?? name} ${number(value)}`).join(", ")}` : "";
}

const root = element("div", { id: "dimensions-chart", class: "chart small", "aria-hidden": "true" });
root.hidden = true;
$("ribbon").after(root);
const view = { start: 0, end: 1, names: [] };
let chart = null;

/** A longer name does not fit beside the axis. */
const AXIS_LETTERS = 7;

/** Show the lines of the rows between two unix times. */
export function showDimensions({ rows, start, end }) {
  const names = NAMES.filter((name) => rows.some((row) => row[ROW.dimensions]?.[name] !== undefined));
  root.hidden = !names.length;
  if (root.hidden) return;
  Object.assign(view, { start, end, names });
  chart ??= newChart();
  const of = (name) => rows.map((row) => valuesOf(row)?.[name] ?? null);
  chart.setData([rows.map((row) => row[ROW.time]), ...NAMES.map(of)]);
}

/** Values without a neighbour, which no line shows. */
const alone = (u, series) => u.data[series].flatMap((value, n, all) => (value !== null && (all[n - 1] ?? null) === null && (all[n + 1] ?? null) === null ? [n] : []));

function newChart() {
  const size = () => ({ width: Math.max(160, root.clientWidth), height: Math.max(60, root.clientHeight) });
  const label = () => {
    const only = view.names.length === 1 ? known(`dimension.${view.names[0]}`) ?? view.names[0] : "";
    return only && only.length <= AXIS_LETTERS ? only : t("axis.dimensions");
  };
  const made = new uPlot({
    ...size(), legend: { show: false }, padding: [8, 26, 8, 0],
    cursor: { sync: { key: "past" }, y: false, points: { show: false }, drag: { x: false, y: false } },
    scales: { x: { time: true, range: () => [view.start, view.end] }, y: { range: [0, 1] } },
    axes: [
      axis({ size: 0, values: () => [] }),
      axis({ splits: () => [0, 0.5, 1], values: () => ["0", label(), "1"], size: 56, gap: 8 }),
    ],
    series: [{}, ...NAMES.map((name) => ({ stroke: () => css("--ink"), width: 1.5, dash: STROKES[name], points: { show: true, size: 3, fill: () => css("--ink"), filter: alone } }))],
  }, [[], ...NAMES.map(() => [])], root);
  document.addEventListener("themechange", () => made.redraw());
  new ResizeObserver(() => made.setSize(size())).observe(root);
  for (const query of ["(prefers-color-scheme: dark)", "(prefers-contrast: more)"]) {
    matchMedia(query).addEventListener("change", () => made.redraw());
  }
  return made;
}
