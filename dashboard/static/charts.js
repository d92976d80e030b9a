// The chart of probabilities and the chart of the level below it. uPlot gives scales, axes and
// cursor; this file draws the data itself, because a window is a time span and not a point.
/* global uPlot */

import { clock, t } from "./text.js";
import { labelStyle } from "./words.js";

export const ROW = { seq: 0, time: 1, span: 2, state: 3, emotion: 4, confidence: 5, reason: 6, level: 7, lost: 8, smoothed: 9, dimensions: 10 };
const STATE_BAND = { low: -0.13, high: -0.05 }; // speech, silence, gap
const UTTERANCE_BAND = { low: -0.27, high: -0.17 };
export const FLOOR = -80;
const OUTAGE_S = 3; // seconds without a window that the time line shows as an outage
const middle = (band) => (band.low + band.high) / 2;

export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const resolved = (colour) => (colour.startsWith("var(") ? css(colour.slice(4, -1)) : colour);

/** A faint pattern for each shape: areas must differ by more than their colour. */
function pattern(ctx, shape, ink) {
  const tile = document.createElement("canvas");
  const size = (tile.width = tile.height = 8 * devicePixelRatio);
  const c = tile.getContext("2d");
  c.strokeStyle = c.fillStyle = ink;
  c.lineWidth = 1.4 * devicePixelRatio;
  const lines = { up: [[0, size, size, 0]], down: [[0, 0, size, size]], bar: [[0, size / 2, size, size / 2]], plus: [[0, size / 2, size, size / 2], [size / 2, 0, size / 2, size]], star: [[size / 2, 0, size / 2, size]], diamond: [[0, size, size, 0], [0, 0, size, size]] }[shape];
  for (const [x0, y0, x1, y1] of lines ?? []) {
    c.beginPath();
    for (const d of [-size, 0, size]) {
      c.moveTo(x0 + d - (x1 - x0), y0 - (y1 - y0));
      c.lineTo(x1 + d + (x1 - x0), y1 + (y1 - y0));
    }
    c.stroke();
  }
  if (shape === "circle") {
    c.beginPath();
    c.arc(size / 2, size / 2, size / 6, 0, 7);
    c.fill();
  }
  return ctx.createPattern(tile, "repeat");
}

export function axis(extra = {}) {
  return {
    stroke: () => css("--muted"), font: "12px Inter, system-ui, sans-serif",
    grid: { stroke: () => css("--line"), width: 1 }, ticks: { show: false }, ...extra,
  };
}

export class Charts {
  constructor(ribbon, level, reading) {
    this.roots = [ribbon, level];
    this.reading = reading;
    this.view = { labels: [], rows: [], utterances: [], start: Date.now() / 1000 - 300, end: Date.now() / 1000, gate: null };
    const cursor = { sync: { key: "past" }, y: false, points: { show: false }, drag: { x: false, y: false } };
    const x = { time: true, range: () => [this.view.start, this.view.end] };
    const times = axis({
      values: (u, splits) => splits.map((time) => clock(time, this.view.end - this.view.start < 600)),
      space: 70, gap: 6, size: 26,
    });
    this.ribbon = new uPlot({
      ...this.#size(ribbon), legend: { show: false }, cursor, padding: [6, 26, 0, 0],
      scales: { x, y: { range: [UTTERANCE_BAND.low - 0.02, 1] } },
      axes: [{ ...times, size: 0, values: () => [] }, axis({ splits: () => [middle(UTTERANCE_BAND), middle(STATE_BAND), 0, 0.5, 1], values: () => [t("axis.utterances"), t("axis.sound"), "0", "50", "100 %"], size: 56, gap: 8, grid: { show: false } })],
      series: [{}, { paths: () => null, points: { show: false } }],
      hooks: { draw: [(u) => this.#draw(u)], setCursor: [(u) => this.#read(u)] },
    }, [[], []], ribbon);
    this.level = new uPlot({
      ...this.#size(level), legend: { show: false }, cursor, padding: [8, 26, 0, 0],
      scales: { x, y: { range: [FLOOR, 0] } },
      axes: [times, axis({ splits: () => [-80, -40, 0], values: () => ["-80", "-40", "0 dB"], size: 56, gap: 8 })],
      series: [{}, { stroke: () => css("--accent"), width: 1.25, fill: () => `${css("--accent")}26`, fillTo: FLOOR, points: { show: false } }],
      hooks: { draw: [(u) => this.#gate(u)] },
    }, [[], []], level);
    new ResizeObserver(() => this.resize()).observe(ribbon);
    document.addEventListener("themechange", () => this.show(this.view));
    for (const query of ["(prefers-color-scheme: dark)", "(prefers-contrast: more)"]) {
      matchMedia(query).addEventListener("change", () => this.show(this.view));
    }
  }

  /** Show rows between two unix times; `gate` is a level in dBFS, or null. */
  show(view) {
    this.view = view;
    const times = view.rows.map((row) => row[ROW.time]);
    this.ribbon.setData([times, view.rows.map(() => null)]);
    this.level.setData([times, view.rows.map((row) => (row[ROW.state] === "gap" ? null : Math.max(FLOOR, row[ROW.level])))]);
  }

  resize() {
    this.ribbon.setSize(this.#size(this.roots[0]));
    this.level.setSize(this.#size(this.roots[1]));
  }

  /** Move the cursor by a number of rows; for the keyboard. */
  step(by) {
    const { rows } = this.view;
    if (!rows.length) return;
    this.at = Math.min(rows.length - 1, Math.max(0, (this.at ?? rows.length - 1) + by));
    const left = this.ribbon.valToPos(rows[this.at][ROW.time], "x");
    this.ribbon.setCursor({ left, top: 10 });
  }

  #size(root) {
    return { width: Math.max(160, root.clientWidth), height: Math.max(60, root.clientHeight) };
  }

  /** The pixels of each row: from the end of the row before, but at most its own span. */
  #spans(u) {
    let before = -Infinity;
    return this.view.rows.map((row) => {
      const start = Math.max(before, row[ROW.time] - row[ROW.span]);
      before = row[ROW.time];
      return [Math.round(u.valToPos(start, "x", true)), Math.round(u.valToPos(before, "x", true))];
    });
  }

  #draw(u) {
    const { ctx, bbox } = u;
    const { labels, rows, utterances } = this.view;
    const y = (value) => Math.round(u.valToPos(value, "y", true));
    const spans = this.#spans(u);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();

    this.#outages(ctx, u, y);
    const sure = labels.map(() => new Path2D());
    const unsure = labels.map(() => new Path2D());
    const band = { speech: new Path2D(), silence: new Path2D(), gap: new Path2D() };
    rows.forEach((row, n) => {
      const [x0, x1] = spans[n];
      const width = Math.max(1, x1 - x0);
      const middle = (y(STATE_BAND.low) + y(STATE_BAND.high)) / 2;
      if (row[ROW.state] === "silence") band.silence.rect(x0, middle - 0.5 * devicePixelRatio, width, devicePixelRatio);
      else (band[row[ROW.state]] ?? band.gap).rect(x0, y(STATE_BAND.high), width, y(STATE_BAND.low) - y(STATE_BAND.high));
      if (!row[ROW.smoothed]) return;
      const paths = row[ROW.emotion] === "uncertain" ? unsure : sure;
      let sum = 0;
      row[ROW.smoothed].forEach((p, k) => {
        const top = y(Math.min(1, sum + p));
        paths[k]?.rect(x0, top, width, y(sum) - top);
        sum += p;
      });
    });
    labels.forEach((label, k) => {
      const { shape, colour } = labelStyle(label, labels);
      for (const [path, alpha] of [[sure[k], 1], [unsure[k], 0.42]]) {
        ctx.globalAlpha = alpha;
        ctx.fillStyle = resolved(colour);
        ctx.fill(path);
        ctx.fillStyle = pattern(ctx, shape, css("--pattern"));
        ctx.fill(path);
      }
    });
    ctx.globalAlpha = 1;
    ctx.fillStyle = css("--ink");
    ctx.fill(band.speech);
    ctx.fillStyle = css("--faint");
    ctx.fill(band.silence);
    ctx.fillStyle = pattern(ctx, "up", css("--bad"));
    ctx.fill(band.gap);

    for (const utterance of utterances) {
      const x0 = u.valToPos(utterance.time - utterance.seconds, "x", true);
      const x1 = Math.max(x0 + 3, u.valToPos(utterance.time, "x", true));
      ctx.fillStyle = resolved(labelStyle(utterance.emotion, labels).colour);
      ctx.beginPath();
      ctx.roundRect(x0, y(UTTERANCE_BAND.high), x1 - x0, y(UTTERANCE_BAND.low) - y(UTTERANCE_BAND.high), 3 * devicePixelRatio);
      ctx.fill();
    }
    ctx.restore();
  }

  /** Grey where nothing was published: a stop, a restart, an outage. */
  #outages(ctx, u, y) {
    const { rows } = this.view;
    ctx.fillStyle = css("--wash");
    rows.forEach((row, n) => {
      if (!n) return;
      const [from, to] = [rows[n - 1][ROW.time], row[ROW.time] - row[ROW.span]];
      if (to - from < Math.max(OUTAGE_S, row[ROW.span])) return;
      const x0 = u.valToPos(from, "x", true);
      ctx.fillRect(x0, y(1), u.valToPos(to, "x", true) - x0, y(STATE_BAND.low) - y(1));
    });
  }

  #gate(u) {
    if (this.view.gate === null) return;
    const y = Math.round(u.valToPos(this.view.gate, "y", true));
    u.ctx.save();
    u.ctx.strokeStyle = css("--muted");
    u.ctx.setLineDash([4, 4]);
    u.ctx.beginPath();
    u.ctx.moveTo(u.bbox.left, y);
    u.ctx.lineTo(u.bbox.left + u.bbox.width, y);
    u.ctx.stroke();
    u.ctx.restore();
  }

  #read(u) {
    const { rows, labels } = this.view;
    const index = u.cursor.idx;
    const row = u.cursor.left >= 0 && index !== null ? rows[index] : null;
    if (row) this.at = index;
    this.reading(row, labels);
  }
}

/** A small canvas for the legend, filled with each style over the one before. */
function small(styles, alpha = 1) {
  const canvas = document.createElement("canvas");
  canvas.width = 24 * devicePixelRatio;
  canvas.height = 12 * devicePixelRatio;
  const ctx = canvas.getContext("2d");
  ctx.globalAlpha = alpha;
  for (const style of styles(ctx)) {
    ctx.fillStyle = style;
    ctx.fillRect(0, 0, canvas.width, canvas.height);
  }
  return canvas;
}

const styles = (label, labels) => (ctx) => {
  const { shape, colour } = labelStyle(label, labels);
  return [resolved(colour), pattern(ctx, shape, css("--pattern"))];
};

/** The colour and the pattern of a label. */
export const swatch = (label, labels) => small(styles(label, labels));
/** The same, pale: what `uncertain` looks like. */
export const uncertainSwatch = (labels) => small(styles(labels[0], labels), 0.42);
/** The pattern of missing sound. */
export const gapSwatch = () => small((ctx) => [pattern(ctx, "up", css("--bad"))]);
