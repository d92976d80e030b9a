// The tabs: one per stream, if there is more than one.

import { FLOOR, ROW, resolved } from "./charts.js";
import { $, element, icon, setIcon, setText } from "./dom.js";
import { TRAIL_S, now, state } from "./state.js";
import { t } from "./text.js";
import * as words from "./words.js";

const naturalOrder = new Intl.Collator(undefined, { numeric: true }).compare; // main-2 before main-10

/** Draw all tabs again; `choose` is called with the name of a stream. */
export function drawTabs(choose) {
  const names = [...state.streams.keys()].sort(naturalOrder);
  $("streams").hidden = names.length < 2;
  $("streams").classList.toggle("wall", names.length > 4);
  $("streams").replaceChildren(
    ...names.map((name) => {
      const selected = name === state.chosen;
      const tab = element("button", { class: "tab", role: "tab", type: "button", "aria-selected": selected, tabindex: selected ? 0 : -1, "aria-controls": "now", "data-stream": name },
        element("span", { class: "name" }, name),
        element("span", { class: "label" }, icon("dash"), element("span", {}, "–")),
        element("span", { class: "number" }, ""), element("canvas", { "aria-hidden": "true" }), element("i"));
      tab.addEventListener("click", () => choose(name));
      return tab;
    }),
  );
  for (const stream of state.streams.values()) drawTab(stream);
}

/** Whether no current data of a stream arrives, though its source has not ended. */
function isOld(stream) {
  const status = state.connection === "closed" ? "gone" : state.statuses.get(stream.name)?.state;
  return (status === "stale" && stream.source?.state !== "ended") || status === "gone";
}

export function drawTab(stream) {
  const tab = [...$("streams").children].find((node) => node.dataset.stream === stream.name);
  const row = stream.row;
  if (!tab || !row) return;
  const emotion = row[ROW.emotion];
  const style = emotion === null ? { shape: "dash", colour: "" } : words.labelStyle(emotion, stream.labels);
  const bad = stream.source && !words.isGoodSource(stream.source.state);
  const old = !bad && isOld(stream);
  tab.dataset.old = old;
  setIcon(tab.querySelector(".label"), bad || old ? "cross" : style.shape, bad || old ? "var(--bad)" : style.colour);
  const source = bad || stream.source?.state === "muted";
  const text = source ? words.stateName(stream.source.state) : old ? t("no_data") : emotion === null ? words.stateName(row[ROW.state]) : words.labelName(emotion);
  setText(tab.querySelector(".label span"), text);
  setText(tab.querySelector(".number"), row[ROW.confidence] === null ? "" : words.percent(row[ROW.confidence]));
  const share = Math.min(1, Math.max(0, (row[ROW.level] - FLOOR) / -FLOOR));
  tab.querySelector("i").style.transform = `scaleX(${share.toFixed(3)})`;
}

/** The last two minutes of each stream: the level in the colours of the labels. */
export function drawSparklines() {
  if ($("streams").hidden || document.hidden) return;
  for (const tab of $("streams").children) {
    const stream = state.streams.get(tab.dataset.stream);
    const canvas = tab.querySelector("canvas");
    canvas.width = Math.max(1, canvas.clientWidth) * devicePixelRatio;
    canvas.height = Math.max(1, canvas.clientHeight) * devicePixelRatio;
    const ctx = canvas.getContext("2d");
    const end = now();
    for (const row of stream.trail) {
      const x = canvas.width * (1 - (end - row[ROW.time]) / TRAIL_S);
      const width = Math.max(1, Math.min(row[ROW.span], 1) * (canvas.width / TRAIL_S));
      const share = Math.min(1, Math.max(0.08, (row[ROW.level] - FLOOR) / -FLOOR));
      const colour = row[ROW.emotion] === null ? "var(--line)" : words.labelStyle(row[ROW.emotion], stream.labels).colour;
      ctx.fillStyle = resolved(colour);
      ctx.fillRect(x - width, canvas.height * (1 - share), width, canvas.height * share);
    }
  }
}

/** Mark the tab of the chosen stream. */
export function markChosenTab() {
  for (const tab of $("streams").children) {
    const selected = tab.dataset.stream === state.chosen;
    tab.setAttribute("aria-selected", selected);
    tab.tabIndex = selected ? 0 : -1;
    if (selected) tab.parentElement.scrollTop = tab.offsetTop - tab.parentElement.offsetTop - tab.offsetHeight;
  }
}

/** Arrow keys, Home and End choose a tab. */
export function handleTabKeys(choose) {
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
}
