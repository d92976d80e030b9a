// The card "Pipeline": stages, counters and the model card.

import { $, element, icon, setIcon, setText } from "./dom.js";
import { ask } from "./network/api.js";
import { refusal } from "./refusal.js";
import { t, tenths } from "./text.js";
import { state } from "./state.js";
import * as words from "./words.js";

const NORMAL_COUNTERS = ["results_accepted", "capture_muted_samples", "alerts_fired", "alerts_delivered", "alerts_suppressed"];

export function drawHealth() {
  $("stages").tBodies[0].replaceChildren(...state.health.stages.flatMap(stageRows));
  const counted = Object.entries(state.health.counters).filter(([name, count]) => count && !NORMAL_COUNTERS.includes(name));
  const list = counted.map(([name, count]) => `${words.readable(name)} ${count}`).join(", ");
  drawSummary();
  setText($("counters"), list ? t("counters", { list }) : t("counters.none"));
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
  setText($("health-summary").querySelector("span"), well ? t("all_well") : t("not_ready", { names: bad.map((stage) => stage.name).join(", ") }));
}

function stageRows(stage) {
  const good = words.isGoodStage(stage.state);
  const cells = [
    [t("restarts"), String(stage.restarts)],
    [t("lag"), stage.lag_ms === null ? "–" : `${stage.lag_ms < 10 ? tenths(stage.lag_ms) : Math.round(stage.lag_ms)} ms`],
    [t("dropped"), String(stage.drops)],
    [t("cpu"), `${tenths(stage.cpu_percent)} %`],
    [t("memory"), `${Math.round(stage.rss_mb)} MB`],
  ];
  const row = element("tr", { "data-fine": good },
    element("th", { scope: "row" }, stage.name),
    element("td", {}, element("span", { class: "state" }, icon(good ? "tick" : "cross"), words.stateName(stage.state))),
    ...cells.map(([name, value]) => element("td", { "data-name": name }, value)));
  if (!stage.reason) return [row];
  const reason = good ? t("last_restart", { why: stage.reason }) : stage.reason;
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
