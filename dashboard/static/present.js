// The card "Now": emotion, probabilities, level, voice gate and source of the chosen stream.

import { FLOOR, ROW, gapSwatch, swatch, uncertainSwatch } from "./charts.js";
import { drawDimensions } from "./dimensions.js";
import { $, element, icon, setIcon, setText } from "./dom.js";
import { chosenStream, now, state } from "./state.js";
import { known, parts, t } from "./text.js";
import * as words from "./words.js";

const CLIPPED = 0.005; // share of the samples of the last second
const LOUD = -3; // dBFS of a window from which it is called too loud
const QUIET = -55; // dBFS of a window with speech below which it is called too quiet

let bars = { labels: "", rows: [], ticks: [] };

/** Draw the newest result, or that there is no current one; `ended`: the source has ended. */
export function drawPresent(stream, ended = false) {
  const row = stream.row;
  if (state.noData !== null) {
    drawNoData(stream);
    return;
  }
  if (stream.source?.state === "muted") {
    drawMuted(stream);
    return;
  }
  if (!row) return;
  const emotion = row[ROW.emotion];
  const kind = emotion === null ? "quiet" : emotion === "uncertain" ? "uncertain" : "speech";
  const label = emotion === null ? words.stateName(row[ROW.state]) : words.labelName(emotion);
  const { shape, colour } = emotion === null ? { shape: "dash", colour: "var(--faint)" } : words.labelStyle(emotion, stream.labels);
  $("emotion").dataset.kind = kind;
  setText($("emotion").querySelector("span"), label);
  if (kind === "uncertain") splitIcon($("emotion").querySelector("svg"), row[ROW.smoothed] ?? [], stream.labels);
  else setIcon($("emotion"), shape, colour);
  drawConfidence(row, stream.labels);
  drawLast(stream, kind === "quiet");
  drawBars(stream.labels, row[ROW.smoothed]);
  drawDimensions(row, stream.bundle);
  drawLevel(stream, row);
  drawGate(stream, row);
  const adapted = words.adaptation(stream.baseline);
  $("baseline").hidden = !adapted;
  setText($("baseline"), adapted);
  setTitle(`${ended ? t("ended") : label} · ${stream.name}`);
}

function drawNoData(stream) {
  $("emotion").dataset.kind = "none";
  setText($("emotion").querySelector("span"), t("no_data"));
  setIcon($("emotion"), "cross", "var(--bad)");
  setText($("confidence"), state.noData);
  $("trust").hidden = true;
  $("last").hidden = true;
  setTitle(`⚠ ${words.sentence(t("no_data"))} · ${stream.name}`);
}

function drawMuted(stream) {
  $("emotion").dataset.kind = "muted";
  setText($("emotion").querySelector("span"), words.stateName("muted"));
  setIcon($("emotion"), "muted", "var(--ink)");
  setText($("confidence"), t("muted.why", { why: words.sentence(state.health?.mute?.text ?? words.stateName("muted")) }));
  drawBars(stream.labels, null);
  $("trust").hidden = true;
  drawLast(stream, true);
  setText($("level-word"), "–");
  setText($("level-number"), "–");
  $("meter").querySelector(".fill").style.transform = "scaleX(0)";
  $("clip").hidden = true;
  $("voice").dataset.open = false;
  setIcon($("voice"), "dash");
  setText($("voice").querySelector("span"), t("not_listening"));
  setTitle(`${t("muted")} · ${stream.name}`);
}

function setTitle(title) {
  if (document.title !== title) document.title = title;
}

function drawConfidence(row, labels) {
  const node = $("confidence");
  const confidence = row[ROW.confidence];
  $("trust").hidden = confidence === null;
  if (row[ROW.emotion] === "uncertain") {
    const smoothed = row[ROW.smoothed] ?? [];
    const best = smoothed.indexOf(Math.max(...smoothed));
    const leans = best >= 0 ? t("leans", { label: words.labelName(labels[best]), p: words.percent(smoothed[best]) }) : "";
    setText(node, leans + words.reasonText(row[ROW.reason]));
  } else if (confidence !== null) {
    node.replaceChildren(...parts("likely", { p: element("b", {}, words.percent(confidence)) }));
  } else {
    setText(node, known(`confidence.${row[ROW.state]}`) ?? "");
  }
}

/** The two likeliest labels, half a mark each: `uncertain` is no answer of its own. */
function splitIcon(svg, smoothed, labels) {
  const order = smoothed.map((p, k) => [p, labels[k]]).sort((a, b) => b[0] - a[0]).slice(0, 2);
  if (order.length < 2) {
    setIcon($("emotion"), "ring", "var(--muted)");
    return;
  }
  const key = order.map(([, label]) => label).join("\n");
  if (svg.dataset.split === key) return;
  svg.dataset.split = key;
  const halves = order.map(([, label], side) => {
    const { shape, colour } = words.labelStyle(label, labels);
    const half = icon(shape, colour).firstChild;
    half.setAttribute("class", side ? "right" : "left");
    half.style.setProperty("color", colour);
    return half;
  });
  svg.replaceChildren(...halves);
}

/** In silence: what was heard last, and when. */
function drawLast(stream, quiet) {
  const last = stream.utterances.at(-1);
  $("last").hidden = !quiet || !last;
  if (!quiet || !last) return;
  const { shape, colour } = words.labelStyle(last.emotion, stream.labels);
  const ago = words.duration(now() - last.time);
  const text = t("last", { label: words.labelName(last.emotion), p: words.percent(last.confidence), time: ago });
  if ($("last").textContent !== text) $("last").replaceChildren(icon(shape, colour), text);
}

/** Draw the probabilities; null: there are none. */
function drawBars(labels, probabilities) {
  const key = labels.join("\n");
  if (bars.labels !== key) {
    bars = { labels: key, rows: [], ticks: [] };
    const { ticks } = bars;
    const nodes = labels.flatMap((label) => {
      const { shape, colour } = words.labelStyle(label, labels);
      const fill = element("i");
      fill.style.setProperty("--c", colour);
      const number = element("dd", { class: "number" }, "–");
      bars.rows.push({ fill, number });
      const tick = element("b");
      ticks.push(tick);
      const track = element("dd", { class: "track", "aria-hidden": "true" }, fill, tick);
      return [element("dt", {}, icon(shape, colour), words.labelName(label)), track, number];
    });
    $("bars").replaceChildren(...nodes);
    $("legend").replaceChildren(
      ...labels.map((label) => element("li", {}, swatch(label, labels), words.labelName(label))),
      element("li", {}, uncertainSwatch(labels), t("legend.uncertain")),
      element("li", {}, icon("bar", "var(--ink)"), words.stateName("speech")),
      element("li", {}, icon("dash", "var(--faint)"), words.stateName("silence")),
      element("li", {}, gapSwatch(), words.stateName("gap")),
      element("li", {}, icon("square", "var(--wash)"), t("legend.outage")),
    );
  }
  const threshold = chosenStream()?.info?.min_confidence;
  for (const tick of bars.ticks) {
    tick.hidden = typeof threshold !== "number" || threshold <= 0;
    tick.style.left = `${100 * (threshold ?? 0)}%`;
  }
  bars.rows.forEach(({ fill, number }, k) => {
    const probability = probabilities?.[k];
    fill.style.transform = `scaleX(${probability ?? 0})`;
    setText(number, probability === undefined ? "–" : words.percent(probability));
  });
}

function drawLevel(stream, row) {
  const level = row[ROW.level];
  const share = Math.min(1, Math.max(0, (level - FLOOR) / -FLOOR));
  setText($("level-word"), levelWord(stream, row));
  setText($("level-number"), level <= -99.95 ? "−∞" : String(Math.round(level)).replace("-", "−"));
  $("meter").querySelector(".fill").style.transform = `scaleX(${share.toFixed(4)})`;
  $("meter").setAttribute("aria-valuenow", Math.round(Math.max(FLOOR, level)));
  $("meter").setAttribute("aria-valuetext", t("decibels", { n: Math.round(level) }));
  $("clip").hidden = !(row[ROW.reason] === "clipped" || stream.source?.clipped > CLIPPED);
}

/** The level in a word, for a person who wants to know whether the microphone is right. */
function levelWord(stream, row) {
  if (row[ROW.state] === "gap") return words.stateName("gap");
  if (!$("clip").hidden || row[ROW.level] > LOUD) return t("level.loud");
  if (row[ROW.state] === "silence") return t("level.quiet");
  return row[ROW.reason] === "too_quiet" || row[ROW.level] < QUIET ? t("level.too_quiet") : t("level.good");
}

function drawGate(stream, row) {
  const open = row[ROW.state] === "speech";
  const { gate, gate_db: db } = stream.info ?? {};
  $("voice").dataset.open = open;
  setIcon($("voice"), open ? "bar" : row[ROW.state] === "gap" ? "cross" : "dash");
  const rule = known(`gate.${gate}`) ? ` ${t(`gate.${gate}`, { db })}` : "";
  const position = known(`heard.${row[ROW.state]}`) ?? words.readable(row[ROW.state]);
  const node = $("voice").querySelector("span");
  if (node.textContent !== position + rule) node.replaceChildren(position, element("small", {}, rule));
  const mark = $("meter").querySelector(".gate");
  mark.hidden = gate !== "fixed";
  if (gate === "fixed") mark.style.left = `${(100 * (db - FLOOR)) / -FLOOR}%`;
}

const LISTENING = {
  live: ["tick", "listening"], muted: ["muted", "muted"], ended: ["square", "ended"],
  starting: ["half", "starting"], recovering: ["half", "not_listening"],
};

/** The sign beside the title: whether it listens at all. */
function drawListening(source) {
  const current = state.noData === null ? source?.state : "gone";
  const [shape, word] = LISTENING[current] ?? ["cross", "not_listening"];
  $("listening").dataset.on = current === "live";
  setIcon($("listening"), shape);
  setText($("listening").querySelector("span"), t(word));
}

$("trust").addEventListener("click", () => $("trust-dialog").showModal());
$("trust-dialog").addEventListener("close", () => {
  if ($("trust-dialog").returnValue === "card") $("card-open").click();
});

export function drawSource() {
  const stream = chosenStream();
  if (!stream) return;
  const source = stream.source;
  const name = words.sourceName(stream.info?.source);
  const lines = source ? [words.sourceState(name, source.state, now() - stream.stateSince, source.reason)] : [`${name}.`];
  if (source?.device) lines.push(t("device", { name: source.device }));
  const quality = source?.state === "live" && words.soundQuality(source.quality);
  if (quality) lines.push(quality);
  const rate = stream.info?.rate;
  if (source?.state !== "muted" && (source?.gaps || source?.lost)) {
    const missing = rate ? words.duration(source.lost / rate) : t("samples", { n: source.lost });
    lines.push(t(state.health.counters.capture_muted_samples ? "gaps.muted" : "gaps", { n: source.gaps, missing }));
  }
  const delay = typeof stream.totalMs === "number" && source?.state === "live";
  setText($("delay"), delay ? t("delay", { n: Math.max(1, Math.round(stream.totalMs)) }) : "");
  drawListening(source);
  $("source").dataset.fine = !source || words.isGoodSource(source.state) || source.state === "starting";
  setText($("source"), lines.join(" "));
  const why = stream.unsure && source?.state === "live" ? words.whyUncertain(source.quality) : "";
  $("why").hidden = !why;
  setText($("why"), why);
  const page = words.microphonePage(stream.info?.source);
  $("microphone").hidden = !page;
  if (page) $("microphone").href = page;
  const bundle = stream.bundle || stream.info?.bundle || "";
  $("bundle").hidden = !bundle;
  setText($("bundle").querySelector("code"), bundle);
}
