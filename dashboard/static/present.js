// The card "Now": emotion, probabilities, level, voice gate and source of the chosen stream.

import { FLOOR, ROW, gapSwatch, swatch, uncertainSwatch } from "./charts.js";
import { drawDimensions } from "./dimensions.js";
import { $, element, icon, setIcon, setText } from "./dom.js";
import { chosenStream, now, state } from "./state.js";
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
  const label = emotion ?? { gap: "no sound" }[row[ROW.state]] ?? row[ROW.state];
  const { shape, colour } = emotion === null ? { shape: "dash", colour: "var(--faint)" } : words.labelStyle(emotion, stream.labels);
  $("emotion").dataset.kind = kind;
  setText($("emotion").querySelector("span"), words.readable(label));
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
  setTitle(`${ended ? "Ended" : words.readable(label)} · ${stream.name}`);
}

function drawNoData(stream) {
  $("emotion").dataset.kind = "none";
  setText($("emotion").querySelector("span"), "no data");
  setIcon($("emotion"), "cross", "var(--bad)");
  setText($("confidence"), state.noData);
  $("trust").hidden = true;
  $("last").hidden = true;
  setTitle(`⚠ No data · ${stream.name}`);
}

function drawMuted(stream) {
  $("emotion").dataset.kind = "muted";
  setText($("emotion").querySelector("span"), "muted");
  setIcon($("emotion"), "muted", "var(--ink)");
  setText($("confidence"), `${words.sentence(state.health?.mute?.text ?? "muted")}. No sound is taken.`);
  drawBars(stream.labels, null);
  $("trust").hidden = true;
  drawLast(stream, true);
  setText($("level-word"), "–");
  setText($("level-number"), "–");
  $("meter").querySelector(".fill").style.transform = "scaleX(0)";
  $("clip").hidden = true;
  $("voice").dataset.open = false;
  setIcon($("voice"), "dash");
  setText($("voice").querySelector("span"), "Not listening");
  setTitle(`Muted · ${stream.name}`);
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
    const leans = best >= 0 ? `leans to ${labels[best]}, ${words.percent(smoothed[best])}: ` : "";
    setText(node, leans + words.reasonText(row[ROW.reason]));
  } else if (confidence !== null) {
    node.replaceChildren(element("b", {}, words.percent(confidence)), " likely, by the model’s own estimate");
  } else {
    setText(node, { silence: "no speech", gap: "sound is missing" }[row[ROW.state]] ?? "");
  }
}

/** Draw the probabilities; null: there are none. */
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
  const text = `last: ${words.readable(last.emotion)} ${words.percent(last.confidence)}, ${ago} ago`;
  if ($("last").textContent !== text) $("last").replaceChildren(icon(shape, colour), text);
}

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
      return [element("dt", {}, icon(shape, colour), label), track, number];
    });
    $("bars").replaceChildren(...nodes);
    $("legend").replaceChildren(
      ...labels.map((label) => element("li", {}, swatch(label, labels), label)),
      element("li", {}, uncertainSwatch(labels), "uncertain (pale)"),
      element("li", {}, icon("bar", "var(--ink)"), "speech"),
      element("li", {}, icon("dash", "var(--faint)"), "silence"),
      element("li", {}, gapSwatch(), "no sound"),
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
  $("meter").setAttribute("aria-valuetext", `${Math.round(level)} decibels`);
  $("clip").hidden = !(row[ROW.reason] === "clipped" || stream.source?.clipped > CLIPPED);
}

/** The level in a word, for a person who wants to know whether the microphone is right. */
function levelWord(stream, row) {
  if (row[ROW.state] === "gap") return "no sound";
  if (!$("clip").hidden || row[ROW.level] > LOUD) return "too loud";
  if (row[ROW.state] === "silence") return "quiet";
  return row[ROW.reason] === "too_quiet" || row[ROW.level] < QUIET ? "too quiet" : "good";
}

function drawGate(stream, row) {
  const open = row[ROW.state] === "speech";
  const { gate, gate_db: db } = stream.info ?? {};
  $("voice").dataset.open = open;
  setIcon($("voice"), open ? "bar" : row[ROW.state] === "gap" ? "cross" : "dash");
  const rule = {
    fixed: ` (opens at ${db} dBFS)`,
    adaptive: ` (opens ${db} dB above the noise of the room)`,
  }[gate] ?? "";
  const position = { speech: "Speech is heard", silence: "No speech", gap: "No sound" }[row[ROW.state]] ?? words.readable(row[ROW.state]);
  const node = $("voice").querySelector("span");
  if (node.textContent !== position + rule) node.replaceChildren(position, element("small", {}, rule));
  const mark = $("meter").querySelector(".gate");
  mark.hidden = gate !== "fixed";
  if (gate === "fixed") mark.style.left = `${(100 * (db - FLOOR)) / -FLOOR}%`;
}

const LISTENING = {
  live: ["tick", "Listening"], muted: ["muted", "Muted"], ended: ["square", "Ended"],
  starting: ["half", "Starting"], recovering: ["half", "Not listening"],
};

/** The sign beside the title: whether it listens at all. */
function drawListening(source) {
  const current = state.noData === null ? source?.state : "gone";
  const [shape, word] = LISTENING[current] ?? ["cross", "Not listening"];
  $("listening").dataset.on = current === "live";
  setIcon($("listening"), shape);
  setText($("listening").querySelector("span"), word);
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
  if (source?.device) lines.push(`Input device: ${source.device}.`);
  const quality = source?.state === "live" && words.soundQuality(source.quality);
  if (quality) lines.push(quality);
  const rate = stream.info?.rate;
  if (source?.state !== "muted" && (source?.gaps || source?.lost)) {
    lines.push(`${source.gaps} gaps in the last seconds, ${rate ? words.duration(source.lost / rate) : `${source.lost} samples`} of sound missing since the start${state.health.counters.capture_muted_samples ? ", the time of mutes included" : ""}.`);
  }
  const delay = typeof stream.totalMs === "number" && source?.state === "live";
  setText($("delay"), delay ? `Results come ${Math.max(1, Math.round(stream.totalMs))} ms after the sound.` : "");
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
