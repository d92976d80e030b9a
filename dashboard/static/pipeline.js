// The card "Pipeline": stages, counters and the model card.

import { $, element, icon, setIcon, setText } from "./dom.js";
import { ask, refusal } from "./network/api.js";
import { state } from "./state.js";
import * as words from "./words.js";

const NORMAL_COUNTERS = ["results_accepted", "capture_muted_samples", "alerts_fired", "alerts_delivered", "alerts_suppressed"];

export function drawHealth() {
  $("stages").tBodies[0].replaceChildren(...state.health.stages.flatMap(stageRows));
  const counted = Object.entries(state.health.counters).filter(([name, count]) => count && !NORMAL_COUNTERS.includes(name));
  const list = counted.map(([name, count]) => `${words.readable(name)} ${count}`).join(", ");
  drawSummary();
  setText($("counters"), list ? `Counters: ${list}.` : "Nothing lost, nothing refused.");
}

let wasWell = true;

/** One line for all stages; the table opens by itself when something is wrong. */
function drawSummary() {
  const bad = state.health.stages.filter((stage) => !words.isGoodStage(stage.state));
  const well = bad.length === 0;
  if (!well && wasWell) $("health").open = true;
  wasWell = well;
  $("health-summary").dataset.fine = well;
  setIcon($("health-summary"), well ? "tick" : "cross");
  setText($("health-summary").querySelector("span"), well ? "All well" : `${bad.map((stage) => stage.name).join(", ")}: not ready`);
}

function stageRows(stage) {
  const good = words.isGoodStage(stage.state);
  const cells = [
    ["Restarts", String(stage.restarts)],
    ["Lag", stage.lag_ms === null ? "–" : `${stage.lag_ms < 10 ? stage.lag_ms.toFixed(1) : Math.round(stage.lag_ms)} ms`],
    ["Dropped", String(stage.drops)],
    ["CPU", `${stage.cpu_percent.toFixed(1)} %`],
    ["Memory", `${Math.round(stage.rss_mb)} MB`],
  ];
  const row = element("tr", { "data-fine": good },
    element("th", { scope: "row" }, stage.name),
    element("td", {}, element("span", { class: "state" }, icon(good ? "tick" : "cross"), words.readable(stage.state))),
    ...cells.map(([name, value]) => element("td", { "data-name": name }, value)));
  if (!stage.reason) return [row];
  const reason = `${good ? "Last restart: " : ""}${stage.reason}`;
  return [row, element("tr", { class: "reason" }, element("td", { colspan: 7 }, reason))];
}

async function openModelCard() {
  const bundle = $("bundle").querySelector("code").textContent;
  const response = await ask("model-card", { bundle });
  const card = $("card-text");
  // The server renders this HTML from Markdown and escapes any HTML in it.
  if (response?.ok) card.innerHTML = await response.text();
  else setText(card, words.sentence(await refusal(response)));
  setText($("card-title"), bundle);
  $("card").showModal();
}

$("card-open").addEventListener("click", openModelCard);
$("card").addEventListener("click", (event) => {
  if (event.target === $("card")) $("card").close();
});
