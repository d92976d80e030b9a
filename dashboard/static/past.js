// The card with charts and the list of utterances: the last five minutes, or a time span of the
// history.

import { Charts, ROW } from "./charts.js";
import { dimensionsText, showDimensions } from "./dimensions.js";
import { $, element, icon, setText } from "./dom.js";
import { address, ask } from "./network/api.js";
import { refusal } from "./refusal.js";
import { LISTED, RECENT_S, chosenStream, now, state } from "./state.js";
import { clock, day, integer, known, moment, t, tenths } from "./text.js";
import * as words from "./words.js";

const REFRESH_S = 5;
const TOUCH = matchMedia("(hover: none)").matches;

/** What is shown: `end` is null while the view follows the present. */
const view = { span: RECENT_S, end: null, history: null, fetched: 0, busy: false };

const following = () => view.end === null;
const showsRecent = () => following() && view.span <= RECENT_S;
const gateLevel = (stream) => (stream.info?.gate === "fixed" ? stream.info.gate_db : null);

const charts = new Charts($("ribbon"), $("level-chart"), (row, labels) => {
  if (!row) {
    setText($("reading"), t(TOUCH ? "chart.touch" : "chart.point"));
    return;
  }
  const shares = row[ROW.smoothed]?.map((p, k) => `${words.labelName(labels[k])} ${words.percent(p)}`).join(", ");
  const label = row[ROW.emotion] === null ? known(`confidence.${row[ROW.state]}`) ?? words.stateName(row[ROW.state]) : words.labelName(row[ROW.emotion]);
  const level = String(Math.round(row[ROW.level])).replace("-", "−");
  const why = row[ROW.reason] ? `: ${words.reasonText(row[ROW.reason])}` : "";
  setText($("reading"), `${clock(row[ROW.time])}  ${label}${why}${shares ? `  (${shares})` : ""}${dimensionsText(row)}  ${level} dBFS`);
});

function show(shown) {
  charts.show(shown);
  showDimensions(shown);
}

let frameRequested = false;

/** Draw the charts of the last five minutes in the next frame, once for any number of results. */
export function drawRecent() {
  if (frameRequested) return;
  frameRequested = true;
  requestAnimationFrame(() => {
    frameRequested = false;
    const stream = chosenStream();
    if (!stream || !showsRecent()) return;
    const end = Math.max(now() - 0.25, stream.rows.at(-1)?.[ROW.time] ?? 0);
    show({ labels: stream.labels, rows: stream.rows, utterances: stream.utterances, start: end - RECENT_S, end, gate: gateLevel(stream) });
  });
}

/** Read the last five minutes of a stream from the server's memory. */
export async function readRecent(stream) {
  const late = { rows: [], utterances: [] };
  stream.late.add(late);
  const response = await ask("recent", { stream: stream.name });
  const found = response?.ok ? await response.json() : null;
  stream.late.delete(late);
  if (!found) return;
  const { labels, rows, utterances } = found;
  const [read, heard] = [rows.at(-1)?.[ROW.time] ?? 0, utterances.at(-1)?.time ?? 0];
  rows.push(...late.rows.filter((row) => row[ROW.time] > read + 1e-3));
  utterances.push(...late.utterances.filter((one) => one.time > heard + 1e-3));
  if (labels.length) stream.labels = labels;
  stream.rows = rows;
  stream.utterances = utterances;
  stream.loaded = true;
  if (state.history && (rows[0]?.[ROW.time] ?? now()) > now() - RECENT_S + REFRESH_S) await readEarlier(stream);
}

/** What was before the start of the server: from the history. */
async function readEarlier(stream) {
  const { rows, utterances } = stream;
  const first = rows[0]?.[ROW.time] ?? now();
  const response = await ask("summary", { stream: stream.name, from: first - RECENT_S, to: first - 1e-3 });
  const past = response?.ok ? await response.json() : null;
  if (!past?.rows.length || past.step || stream.rows !== rows) return;
  if (!stream.labels.length) stream.labels = past.labels;
  if (String(stream.labels) !== String(past.labels)) return; // another model
  rows.unshift(...past.rows);
  const heard = utterances[0]?.time ?? Infinity;
  utterances.unshift(...past.utterances.filter((one) => one.time < heard - 1e-3));
}

async function fetchHistory() {
  const stream = chosenStream();
  if (!stream || view.busy || showsRecent()) return;
  view.busy = true;
  showBusy(true);
  const end = view.end ?? now();
  const start = end - view.span;
  const response = await ask("summary", { stream: stream.name, from: start, to: end });
  view.busy = false;
  view.fetched = now();
  if (following() || view.end === end) showBusy(false);
  if (response?.ok && stream === chosenStream() && !showsRecent()) {
    const history = await response.json();
    view.history = history;
    show({ labels: history.labels, rows: history.rows, utterances: history.utterance_bins ?? history.utterances, start, end, gate: gateLevel(stream) });
    drawUtterances();
    drawBinned(history);
    if (!history.rows.length) setText($("reading"), t("chart.none"));
  } else if (response && !response.ok) setText($("reading"), await refusal(response));
  if (!following() && view.end !== end) fetchHistory(); // the user moved on during the request
}

let busyTimer = null;

/** The shown data is of another time span until the answer comes: pale, and said so. */
function showBusy(busy) {
  clearTimeout(busyTimer);
  const show = () => {
    $("ribbon").setAttribute("aria-busy", busy);
    $("ribbon").parentElement.classList.toggle("busy", busy);
    if (busy) setText($("reading"), t("chart.busy"));
  };
  if (busy) busyTimer = setTimeout(show, 150); // a quick answer needs no sign
  else show();
}

/** Say what a bin of the chart stands for, and how many utterances there are. */
function drawBinned(history) {
  const step = history?.step ?? 0;
  $("binned").hidden = showsRecent() || !step;
  if (!step) return;
  setText($("binned"), t("chart.binned", { time: words.duration(step) }));
}

export function drawUtterances() {
  const stream = chosenStream();
  const utterances = (showsRecent() ? stream?.utterances : view.history?.utterances) ?? [];
  const all = showsRecent() ? utterances.length : view.history?.utterance_count ?? utterances.length;
  setText($("utterances-title"), all > LISTED ? t("utterances.newest", { n: Math.min(LISTED, utterances.length), all: integer(all) }) : t("utterances"));
  const items = utterances.slice(-LISTED).reverse().map((utterance) => utteranceItem(utterance, stream.labels));
  $("utterances").replaceChildren(...items);
  $("no-utterances").hidden = items.length > 0;
}

/** An utterance as an item of a list; `name`: of its stream, where the list has several. */
export function utteranceItem(utterance, labels, name = "") {
  const { shape, colour } = words.labelStyle(utterance.emotion, labels);
  const time = clock(utterance.time);
  const details = [
    now() - utterance.time > 43200 ? `${day(utterance.time)}, ${time}` : time,
    ...(name ? [name] : []),
    `${tenths(utterance.seconds)} s`,
    ...(utterance.reason ? [words.reasonText(utterance.reason)] : []),
  ];
  return element("li", {}, icon(shape, colour), element("b", {}, words.labelName(utterance.emotion)),
    element("span", { class: "number" }, words.percent(utterance.confidence)),
    element("span", { class: "when" }, details.join(" · ")));
}

export function drawControls() {
  $("live").setAttribute("aria-pressed", following());
  $("later").disabled = following();
  const until = new Date((view.end ?? now()) * 1000);
  const values = { time: moment(until / 1000), span: words.duration(view.span) };
  const own = following() ? `past.last.${view.span}` : `past.until.${view.span}`;
  setText($("past-title"), t(known(own) ? own : following() ? "past.last" : "past.until", values));
  const local = new Date(until.getTime() - until.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
  if (document.activeElement !== $("until")) $("until").value = local;
  const end = view.end ?? now();
  const query = { format: "csv", stream: state.chosen ?? "", from: end - view.span, to: end };
  $("csv").href = address("history", query);
  $("csv-utterances").href = address("history", { ...query, table: "utterance" });
}

/** Show the time span that ends at a unix time; null follows the present. */
export function showUntil(end, span = view.span) {
  view.span = span;
  view.end = end === null || end >= now() - 1 ? null : end;
  for (const one of document.querySelectorAll("#past input[name=span]")) one.checked = Number(one.value) === span;
  drawControls();
  drawUtterances();
  drawBinned(showsRecent() ? null : view.history);
  drawRecent();
  fetchHistory();
}
const move = (by) => showUntil((view.end ?? now()) + by * view.span);

/** Show another stream in this card. */
export function showChosenStream() {
  view.history = null;
  drawUtterances();
  drawRecent();
  fetchHistory();
}

export const showsLiveUtterances = following;

/** Once a second: move the axis, and read new history. */
export function refreshPast() {
  if (!following()) return;
  drawControls();
  if (showsRecent()) drawRecent();
  else if (now() - view.fetched > Math.max(REFRESH_S, view.span / 600)) fetchHistory();
}

/** The charts as a sentence, for screen readers. */
export function describeCharts() {
  const rows = charts.view.rows;
  const speech = rows.filter((row) => row[ROW.state] === "speech");
  const counts = {};
  for (const row of speech) if (row[ROW.emotion]) counts[row[ROW.emotion]] = (counts[row[ROW.emotion]] ?? 0) + 1;
  const labels = Object.entries(counts).sort((a, b) => b[1] - a[1]).map(([name, n]) => `${words.labelName(name)} ${words.percent(n / speech.length)}`);
  const share = words.percent(rows.length ? speech.length / rows.length : 0);
  const sentence = t(labels.length ? "chart.spoken" : "chart.silent", { title: $("past-title").textContent, share, labels: labels.join(", ") });
  $("ribbon").setAttribute("aria-label", sentence);
}

$("earlier").addEventListener("click", () => move(-0.5));
$("later").addEventListener("click", () => move(0.5));
$("live").addEventListener("click", () => showUntil(null));
$("past").addEventListener("change", (event) => {
  if (event.target.name === "span") showUntil(view.end, Number(event.target.value));
  else if (event.target.id === "until" && event.target.value) showUntil(new Date(event.target.value).getTime() / 1000);
});
$("past").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["csv", "csv-utterances"]) $(id).addEventListener("click", drawControls);
$("ribbon").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft" && event.shiftKey && state.history) move(-0.5);
  else if (event.key === "ArrowRight" && event.shiftKey && state.history) move(0.5);
  else if (event.key === "ArrowLeft") charts.step(-1);
  else if (event.key === "ArrowRight") charts.step(1);
  else if (event.key === "End") showUntil(null);
  else return;
  event.preventDefault();
});
