// The tabs: one per stream, if there is more than one.

import { FLOOR, ROW } from "./charts.js";
import { $, element, icon, setIcon, setText } from "./dom.js";
import { state } from "./state.js";
import * as words from "./words.js";

const naturalOrder = new Intl.Collator(undefined, { numeric: true }).compare; // main-2 before main-10

/** Draw all tabs again; `choose` is called with the name of a stream. */
export function drawTabs(choose) {
  const names = [...state.streams.keys()].sort(naturalOrder);
  $("streams").hidden = names.length < 2;
  $("streams").replaceChildren(
    ...names.map((name) => {
      const selected = name === state.chosen;
      const tab = element("button", { class: "tab", role: "tab", type: "button", "aria-selected": selected, tabindex: selected ? 0 : -1, "aria-controls": "now", "data-stream": name },
        element("span", { class: "name" }, name),
        element("span", { class: "label" }, icon("dash"), element("span", {}, "–")),
        element("span", { class: "number" }, ""), element("i"));
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
  setText(tab.querySelector(".label span"), words.readable(bad || stream.source?.state === "muted" ? stream.source.state : old ? "no data" : emotion ?? row[ROW.state]));
  setText(tab.querySelector(".number"), row[ROW.confidence] === null ? "" : words.percent(row[ROW.confidence]));
  const share = Math.min(1, Math.max(0, (row[ROW.level] - FLOOR) / -FLOOR));
  tab.querySelector("i").style.transform = `scaleX(${share.toFixed(3)})`;
}

/** Mark the tab of the chosen stream. */
export function markChosenTab() {
  for (const tab of $("streams").children) {
    const selected = tab.dataset.stream === state.chosen;
    tab.setAttribute("aria-selected", selected);
    tab.tabIndex = selected ? 0 : -1;
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
