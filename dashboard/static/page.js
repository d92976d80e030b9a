// The page: takes what the feed brings, keeps little, shows it.

import { Charts, FLOOR, ROW, clock, swatch } from "./charts.js";
import { Feed } from "./feed.js";
import * as words from "./words.js";

const $ = (id) => document.getElementById(id);
const RECENT_S = 300;
const ROWS = 4000;
const LISTED = 60;
const ANNOUNCE_MS = 5000;
const REFRESH_S = 5;
const CLIPPED = 0.005; // of the samples of the last second
const TOUCH = matchMedia("(hover: none)").matches;

const state = {
  feed: "waiting", offset: 0, history: false, endpoint: "",
  streams: new Map(), health: null, statuses: new Map(), chosen: null,
};
const view = { span: RECENT_S, end: null, shown: null, fetched: 0, busy: false };

/** Unix time by the server's clock; a phone's may be anywhere. */
const now = () => Date.now() / 1000 + state.offset;

function stream(name) {
  if (!state.streams.has(name)) {
    state.streams.set(name, { name, info: null, labels: [], rows: [], said: [], bundle: "", loaded: false, row: null, since: 0, source: null });
    drawTabs();
    if (state.chosen === null) choose(name);
  }
  return state.streams.get(name);
}
const chosen = () => state.streams.get(state.chosen) ?? null;

// Small helpers for elements -------------------------------------------------------------

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function shape(name, colour) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#${name}`);
  svg.append(use);
  if (colour) svg.style.setProperty("--c", colour);
  return svg;
}

function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

function reshape(node, name, colour) {
  const use = node.querySelector("use");
  if (use.getAttribute("href") !== `#${name}`) use.setAttribute("href", `#${name}`);
  node.style.setProperty("--c", colour ?? "");
}

// What a screen reader is told: seldom, and only what is news ------------------------------

const spoken = { last: -Infinity, next: null, timer: null };
function announce(sentence) {
  spoken.next = sentence;
  if (spoken.timer !== null) return;
  spoken.timer = setTimeout(() => {
    spoken.timer = null;
    spoken.last = performance.now();
    text($("announcer"), spoken.next);
  }, Math.max(0, spoken.last + ANNOUNCE_MS - performance.now()));
}

// What the feed brings --------------------------------------------------------------------

function take(message) {
  switch (message.kind) {
    case "hello":
      hello(message);
      break;
    case "result":
      result(message);
      break;
    case "utterance":
      utterance(message);
      break;
    case "info":
      stream(message.stream).info = message;
      drawSource();
      break;
    case "health":
      health(message);
      break;
    case "status":
      state.offset = message.now - Date.now() / 1000;
      state.statuses = new Map(message.statuses.map((one) => [one.stream, one]));
      drawStatus();
      break;
  }
}

function hello(message) {
  state.offset = message.now - Date.now() / 1000;
  state.history = message.history;
  state.endpoint = message.endpoint;
  text($("endpoint"), message.endpoint.startsWith("ipc:") ? "" : message.endpoint);
  $("past").hidden = !message.history;
  $("no-past").hidden = message.history;
  state.statuses = new Map(message.statuses.map((one) => [one.stream, one]));
  for (const info of message.infos) stream(info.stream).info = info;
  for (const one of state.streams.values()) one.loaded = false;
  for (const latest of message.latest) result(latest);
  if (message.health) health(message.health);
  if (state.chosen !== null) load(chosen());
  drawStatus();
  drawSource();
}

function result(message) {
  const one = stream(message.stream);
  const seq = message.row[ROW.seq];
  if (one.run !== message.run) one.next = -1;
  if (seq < one.next) return;
  one.run = message.run;
  one.next = seq + 1;
  one.bundle = message.bundle;
  if (message.labels.length) one.labels = message.labels;
  one.row = message.row;
  one.totalMs = message.total_ms;
  drawTab(one);
  if (one.name !== state.chosen) return;
  drawNow(one);
  if (one.loaded) {
    one.rows.push(message.row);
    prune(one);
    drawPast();
  }
}

function utterance(message) {
  const one = stream(message.stream);
  one.said.push(message);
  prune(one);
  if (one.name !== state.chosen) return;
  announce(`Utterance: ${message.emotion}, ${Math.round(message.confidence * 100)} percent`);
  if (view.end === null) drawUtterances();
  drawPast();
}

function prune(one) {
  const oldest = now() - RECENT_S - 5;
  while (one.rows.length > ROWS || one.rows[0]?.[ROW.time] < oldest) one.rows.shift();
  while (one.said.length > LISTED) one.said.shift();
}

function health(message) {
  state.health = message;
  for (const row of message.streams) {
    const one = stream(row.name);
    // Older pipelines do not say since when.
    if (typeof row.state_s === "number") one.since = message.time - row.state_s;
    else if (one.source?.state !== row.state) one.since = now();
    one.source = row;
  }
  const known = new Set(message.streams.map((row) => row.name));
  // A pipeline that was started anew with other streams: what it no longer has goes.
  if (known.size) {
    for (const name of [...state.streams.keys()].filter((name) => !known.has(name))) {
      state.streams.delete(name);
      if (state.chosen === name) state.chosen = null;
      drawTabs();
    }
    if (state.chosen === null) choose(message.streams[0].name);
  }
  drawHealth();
  drawSource();
}

/** The last five minutes of a stream from the server; what comes meanwhile is not lost. */
async function load(one) {
  if (!one) return;
  const answer = await fetch(`recent?stream=${encodeURIComponent(one.name)}`).catch(() => null);
  if (!answer?.ok) return;
  const past = await answer.json();
  if (past.labels.length) one.labels = past.labels;
  one.rows = past.rows;
  one.said = past.utterances;
  one.loaded = true;
  if (one.name === state.chosen) {
    drawUtterances();
    drawPast();
  }
}

// Now -------------------------------------------------------------------------------------

let bars = { labels: "", rows: [] };

function drawNow(one) {
  const row = one.row;
  if (!row) return;
  const emotion = row[ROW.emotion];
  const kind = emotion === null ? "quiet" : emotion === "uncertain" ? "uncertain" : "speech";
  const label = emotion ?? { gap: "no sound" }[row[ROW.state]] ?? row[ROW.state];
  const { shape: name, colour } = emotion === null ? { shape: "dash", colour: "var(--faint)" } : words.look(emotion, one.labels);
  $("emotion").dataset.kind = kind;
  text($("emotion").querySelector("span"), words.plain(label));
  reshape($("emotion"), name, colour);
  drawSure(row, one.labels);
  drawBars(one);

  const level = row[ROW.level];
  const share = Math.min(1, Math.max(0, (level - FLOOR) / -FLOOR));
  text($("level-number"), level <= -99.95 ? "−∞" : String(Math.round(level)).replace("-", "−"));
  $("meter").querySelector(".fill").style.transform = `scaleX(${share.toFixed(4)})`;
  $("meter").setAttribute("aria-valuenow", Math.round(Math.max(FLOOR, level)));
  $("meter").setAttribute("aria-valuetext", `${Math.round(level)} decibels`);
  const clipped = row[ROW.reason] === "clipped" || one.source?.clipped > CLIPPED;
  $("clip").hidden = !clipped;
  drawGate(one, row);
  const title = `${words.plain(label)} · ${one.name}`;
  if (document.title !== title) document.title = title;
}

function drawSure(row, labels) {
  const node = $("sure");
  const confidence = row[ROW.confidence];
  if (row[ROW.emotion] === "uncertain") {
    const smoothed = row[ROW.smoothed] ?? [];
    const best = smoothed.indexOf(Math.max(...smoothed));
    const leans = best >= 0 ? `leans to ${labels[best]}, ${words.percent(smoothed[best])}: ` : "";
    text(node, leans + words.doubt(row[ROW.reason]));
  } else if (confidence !== null) {
    node.replaceChildren(element("b", {}, words.percent(confidence)), " sure");
  } else {
    text(node, { silence: "nobody speaks", gap: "sound is missing here" }[row[ROW.state]] ?? "");
  }
}

function drawBars(one) {
  const key = one.labels.join("\n");
  if (bars.labels !== key) {
    bars = { labels: key, rows: [] };
    const nodes = one.labels.flatMap((label) => {
      const { shape: name, colour } = words.look(label, one.labels);
      const fill = element("i");
      fill.style.setProperty("--c", colour);
      const number = element("dd", { class: "number" }, "–");
      bars.rows.push({ fill, number });
      const track = element("dd", { class: "track", "aria-hidden": "true" }, fill);
      return [element("dt", {}, shape(name, colour), label), track, number];
    });
    $("bars").replaceChildren(...nodes);
    $("legend").replaceChildren(
      ...one.labels.map((label) => element("li", {}, swatch(label, one.labels), label)),
      element("li", {}, shape("bar", "var(--ink)"), "speech"),
      element("li", {}, shape("dash", "var(--faint)"), "silence"),
    );
  }
  bars.rows.forEach(({ fill, number }, k) => {
    const p = one.row[ROW.smoothed]?.[k];
    fill.style.transform = `scaleX(${p ?? 0})`;
    text(number, p === undefined ? "–" : words.percent(p));
  });
}

function drawGate(one, row) {
  const open = row[ROW.state] === "speech";
  const { gate, gate_db: db } = one.info ?? {};
  $("voice").dataset.open = open;
  reshape($("voice"), open ? "bar" : row[ROW.state] === "gap" ? "cross" : "dash");
  const rule = {
    fixed: `(opens at ${db} dBFS)`,
    adaptive: `(opens ${db} dB above the noise of the room)`,
  }[gate];
  const said = { speech: "Voice gate open", silence: "Voice gate closed", gap: "No sound" }[row[ROW.state]];
  const node = $("voice").querySelector("span");
  const small = element("small", {}, rule ? ` ${rule}` : "");
  if (node.dataset.said !== `${said}${rule}`) {
    node.dataset.said = `${said}${rule}`;
    node.replaceChildren(said ?? words.plain(row[ROW.state]), small);
  }
  const mark = $("meter").querySelector(".gate");
  mark.hidden = gate !== "fixed";
  if (gate === "fixed") mark.style.left = `${(100 * (db - FLOOR)) / -FLOOR}%`;
}

function drawSource() {
  const one = chosen();
  const row = one?.source;
  if (!one) return;
  const name = words.sourceName(one.info?.source);
  const lines = row ? [words.sourceState(name, row.state, now() - one.since, row.reason)] : [`${name}.`];
  if (row?.device) lines.push(`What is heard: ${row.device}.`);
  const rate = one.info?.rate;
  if (row?.gaps || row?.lost) {
    lines.push(`${row.gaps} gaps in the last seconds, ${rate ? words.lasted(row.lost / rate) : `${row.lost} samples`} of sound missing since the start.`);
  }
  if (typeof one.totalMs === "number" && row?.state === "live") lines.push(`Results come ${Math.max(1, Math.round(one.totalMs))} ms after the sound.`);
  $("source").dataset.fine = !row || words.fineSource(row.state) || row.state === "starting";
  text($("source"), lines.join(" "));
  $("bundle").hidden = !one.bundle && !one.info?.bundle;
  text($("bundle").querySelector("code"), one.bundle || one.info?.bundle || "");
}

// Status: one word, and a sentence where all is not well ------------------------------------

let told = "waiting";

function drawStatus() {
  const status = state.statuses.get(state.chosen ?? "") ?? state.statuses.get("");
  let name = status?.state ?? "waiting";
  let why = status?.reason ?? "";
  if (state.feed === "closed" || state.feed === "quiet") {
    name = state.feed === "closed" ? "gone" : "stale";
    why = state.feed === "closed"
      ? "The page has lost its server and tries to reach it again."
      : "The page's server is silent.";
  }
  const row = chosen()?.row;
  const ended = chosen()?.source?.state === "ended" && name === "stale";
  let [mark, word] = words.STATUS[name] ?? ["ring", words.plain(name)];
  if (state.feed === "closed") word = "Disconnected";
  if (ended) word = "Ended";
  const age = row ? now() - row[ROW.time] : null;
  const old = name === "stale" || name === "gone";
  if (old && age !== null && age > 0) why += `${why && !why.endsWith(".") ? "." : ""} What you see is ${words.lasted(age)} old.`;
  $("pill").dataset.state = ended ? "ended" : name;
  text($("pill").querySelector("span"), word);
  reshape($("pill"), ended ? "square" : mark);
  document.body.classList.toggle("old", old);
  $("banner").hidden = !(why && name !== "fresh");
  $("banner").dataset.state = name;
  text($("banner"), words.plain(why));
  if (told !== name) {
    if (told !== "waiting" || name !== "fresh") announce(`${word}. ${words.plain(why)}`);
    told = name;
  }
}

// Streams ---------------------------------------------------------------------------------

function choose(name) {
  state.chosen = name;
  view.shown = null;
  const one = chosen();
  for (const tab of $("streams").children) {
    const is = tab.dataset.stream === name;
    tab.setAttribute("aria-selected", is);
    tab.tabIndex = is ? 0 : -1;
  }
  if (!one) return;
  drawNow(one);
  drawSource();
  drawUtterances();
  drawPast();
  fetchPast();
  load(one);
}

function drawTabs() {
  const names = [...state.streams.keys()];
  $("streams").hidden = names.length < 2;
  $("streams").replaceChildren(
    ...names.map((name) => {
      const is = name === state.chosen;
      const tab = element("button", { class: "tab", role: "tab", type: "button", "aria-selected": is, tabindex: is ? 0 : -1, "aria-controls": "now", "data-stream": name },
        element("span", { class: "name" }, name),
        element("span", { class: "label" }, shape("dash"), element("span", {}, "–")),
        element("span", { class: "number" }, ""), element("i"));
      tab.addEventListener("click", () => choose(name));
      return tab;
    }),
  );
  for (const one of state.streams.values()) drawTab(one);
}

function drawTab(one) {
  const tab = [...$("streams").children].find((node) => node.dataset.stream === one.name);
  if (!tab || !one.row) return;
  const emotion = one.row[ROW.emotion];
  const look = emotion === null ? { shape: "dash", colour: "" } : words.look(emotion, one.labels);
  const bad = one.source && !words.fineSource(one.source.state);
  reshape(tab.querySelector(".label"), bad ? "cross" : look.shape, bad ? "var(--bad)" : look.colour);
  text(tab.querySelector(".label span"), bad ? words.plain(one.source.state) : words.plain(emotion ?? one.row[ROW.state]));
  text(tab.querySelector(".number"), one.row[ROW.confidence] === null ? "" : words.percent(one.row[ROW.confidence]));
  const share = Math.min(1, Math.max(0, (one.row[ROW.level] - FLOOR) / -FLOOR));
  tab.querySelector("i").style.transform = `scaleX(${share.toFixed(3)})`;
}

$("streams").addEventListener("keydown", (event) => {
  const tabs = [...$("streams").children];
  const at = tabs.findIndex((tab) => tab.dataset.stream === state.chosen);
  const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const tab = tabs[(to + tabs.length) % tabs.length];
  choose(tab.dataset.stream);
  tab.focus();
});

// Health ----------------------------------------------------------------------------------

function drawHealth() {
  const rows = state.health.stages.flatMap((stage) => {
    const fine = words.fineStage(stage.state);
    const cells = [
      ["Restarts", String(stage.restarts)],
      ["Lag", stage.lag_ms === null ? "–" : `${stage.lag_ms < 10 ? stage.lag_ms.toFixed(1) : Math.round(stage.lag_ms)} ms`],
      ["Dropped", String(stage.drops)],
      ["CPU", `${stage.cpu_percent.toFixed(1)} %`],
      ["Memory", `${Math.round(stage.rss_mb)} MB`],
    ];
    const line = element("tr", { "data-fine": fine },
      element("th", { scope: "row" }, stage.name),
      element("td", {}, element("span", { class: "state" }, shape(fine ? "tick" : "cross"), words.plain(stage.state))),
      ...cells.map(([name, value]) => element("td", { "data-name": name }, value)));
    if (!stage.reason) return [line];
    const why = element("tr", { class: "why" }, element("td", { colspan: 7 }, `${fine ? "Last time it died: " : ""}${stage.reason}`));
    return [line, why];
  });
  $("stages").tBodies[0].replaceChildren(...rows);
  const expected = ["results_accepted"];
  const counted = Object.entries(state.health.counters).filter(([name, count]) => count && !expected.includes(name));
  text($("counters"), counted.length ? `Counted and mended: ${counted.map(([name, count]) => `${words.plain(name)} ${count}`).join(", ")}.` : "Nothing lost, nothing refused.");
}

$("card-open").addEventListener("click", async () => {
  const bundle = $("bundle").querySelector("code").textContent;
  const answer = await fetch(`card?bundle=${encodeURIComponent(bundle)}`).catch(() => null);
  const card = $("card-text");
  // The server makes this HTML from Markdown in which it allows no HTML.
  if (answer?.ok) card.innerHTML = await answer.text();
  else text(card, answer ? await answer.text() : "The page has lost its server.");
  text($("card-title"), bundle);
  $("card").showModal();
});
$("card").addEventListener("click", (event) => {
  if (event.target === $("card")) $("card").close();
});

// The past --------------------------------------------------------------------------------

const charts = new Charts($("ribbon"), $("level-chart"), (row, labels) => {
  if (!row) {
    text($("reading"), TOUCH ? "Touch the chart to read it." : "Point at the chart to read it, or use the arrow keys on it.");
    return;
  }
  const all = row[ROW.smoothed]?.map((p, k) => `${labels[k]} ${words.percent(p)}`).join(", ");
  const what = row[ROW.emotion] ?? { gap: "sound is missing" }[row[ROW.state]] ?? row[ROW.state];
  const level = String(Math.round(row[ROW.level])).replace("-", "−");
  text($("reading"), `${clock(row[ROW.time])}  ${what}${all ? `  (${all})` : ""}  ${level} dBFS`);
});

const following = () => view.end === null;
const buffered = () => following() && view.span <= RECENT_S;

let drawing = false;

/** Draw the live charts at the next frame, however many results came until then. */
function drawPast() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    drawRecent();
  });
}

function drawRecent() {
  const one = chosen();
  if (!one || !buffered()) return;
  const end = Math.max(now() - 0.25, one.rows.at(-1)?.[ROW.time] ?? 0);
  charts.show({ labels: one.labels, rows: one.rows, said: one.said, start: end - RECENT_S, end, gate: gateLevel(one) });
}

const gateLevel = (one) => (one.info?.gate === "fixed" ? one.info.gate_db : null);

async function fetchPast() {
  const one = chosen();
  if (!one || view.busy || buffered()) return;
  view.busy = true;
  const end = view.end ?? now();
  const start = end - view.span;
  const query = new URLSearchParams({ stream: one.name, start, end });
  const answer = await fetch(`history?${query}`).catch(() => null);
  view.busy = false;
  view.fetched = now();
  if (answer?.ok && one === chosen() && !buffered()) {
    const past = await answer.json();
    view.shown = past;
    charts.show({ labels: past.labels, rows: past.rows, said: past.utterances, start, end, gate: gateLevel(one) });
    drawUtterances();
    if (!past.rows.length) text($("reading"), "Nothing was kept of this time.");
  } else if (answer && !answer.ok) text($("reading"), (await answer.text()).trim());
  if (!following() && view.end !== end) fetchPast(); // another was asked for meanwhile
}

function drawUtterances() {
  const one = chosen();
  const said = (buffered() ? one?.said : view.shown?.utterances) ?? [];
  const items = said.slice(-LISTED).reverse().map((item) => {
    const { shape: name, colour } = words.look(item.emotion, one.labels);
    const day = new Date(item.time * 1000).toLocaleDateString(undefined, { weekday: "short", day: "numeric", month: "short" });
    const when = now() - item.time > 43200 ? `${day}, ${clock(item.time)}` : clock(item.time);
    const words_ = element("b", {}, item.emotion);
    return element("li", {}, shape(name, colour), words_,
      element("span", { class: "number" }, words.percent(item.confidence)),
      element("span", { class: "when" }, `${when} · ${item.seconds.toFixed(1)} s${item.reason ? ` · ${words.doubt(item.reason)}` : ""}`));
  });
  $("utterances").replaceChildren(...items);
  $("no-utterances").hidden = items.length > 0;
}

function drawControls() {
  $("live").setAttribute("aria-pressed", following());
  $("later").disabled = following();
  const span = words.lasted(view.span).replace("300 s", "5 minutes").replace("5 min", "five minutes").replace("60 min", "hour").replace("24 h", "day").replace("6 h", "six hours");
  const until = new Date((view.end ?? now()) * 1000);
  text($("past-title"), following() ? `Last ${span}` : `${span.replace(/^./, (c) => c.toUpperCase())} until ${until.toLocaleString()}`);
  const local = new Date(until.getTime() - until.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
  if (document.activeElement !== $("until")) $("until").value = local;
  const end = view.end ?? now();
  const query = new URLSearchParams({ stream: state.chosen ?? "", start: end - view.span, end });
  $("csv").href = `history.csv?${query}`;
}

function look(end, span = view.span) {
  view.span = span;
  view.end = end === null || end >= now() - 1 ? null : end;
  drawControls();
  drawUtterances();
  drawPast();
  fetchPast();
}
const move = (by) => look((view.end ?? now()) + by * view.span);

$("earlier").addEventListener("click", () => move(-0.5));
$("later").addEventListener("click", () => move(0.5));
$("live").addEventListener("click", () => look(null));
$("past").addEventListener("change", (event) => {
  if (event.target.name === "span") look(view.end, Number(event.target.value));
  else if (event.target.id === "until" && event.target.value) look(new Date(event.target.value).getTime() / 1000);
});
$("past").addEventListener("submit", (event) => event.preventDefault());
$("csv").addEventListener("click", drawControls);
$("ribbon").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft" && event.shiftKey && state.history) move(-0.5);
  else if (event.key === "ArrowRight" && event.shiftKey && state.history) move(0.5);
  else if (event.key === "ArrowLeft") charts.step(-1);
  else if (event.key === "ArrowRight") charts.step(1);
  else if (event.key === "End") look(null);
  else return;
  event.preventDefault();
});

function describe() {
  const rows = charts.view.rows;
  const heard = rows.filter((row) => row[ROW.state] === "speech");
  const counts = {};
  for (const row of heard) if (row[ROW.emotion]) counts[row[ROW.emotion]] = (counts[row[ROW.emotion]] ?? 0) + 1;
  const parts = Object.entries(counts).sort((a, b) => b[1] - a[1]).map(([name, n]) => `${name} ${words.percent(n / heard.length)}`);
  const share = rows.length ? words.percent(heard.length / rows.length) : "nothing";
  $("ribbon").setAttribute("aria-label", `${$("past-title").textContent}: ${share} of it speech${parts.length ? `; of that ${parts.join(", ")}` : ""}.`);
}

setInterval(() => {
  drawStatus();
  drawSource();
  if (following()) {
    drawControls();
    if (buffered()) drawPast();
    else if (now() - view.fetched > Math.max(REFRESH_S, view.span / 600)) fetchPast();
  }
}, 1000);
setInterval(describe, 10000);

new Feed(take, (name) => {
  if (state.feed === name) return;
  state.feed = name;
  drawStatus();
});
drawControls();
