// The card "Alerts": rules, a test of each, and the newest deliveries.

import { announce } from "./announcer.js";
import { $, element, icon, setIcon, setText } from "./dom.js";
import { ask } from "./network/api.js";
import { refusal } from "./refusal.js";
import { moment, t } from "./text.js";
import { state } from "./state.js";
import * as words from "./words.js";

const COUNTERS = ["alerts_fired", "alerts_delivered", "alerts_failed", "alerts_dropped", "alerts_suppressed"];
const TURN_MS = 500;
const TEST_MS = 45000;
const ICONS = { delivered: "tick", waiting: "half", "given up": "cross" };

let drawn = ""; // the counters for which the card was drawn
let rules = "";
const outcomes = new Map(); // rule → what became of its last test

/** Read the rules and deliveries again when a counter of alerts has changed. */
export function drawAlerts() {
  const stage = state.health.stages.find((one) => one.name === "alerts");
  $("alerts-card").hidden = !stage;
  if (stage?.state !== "ready") return;
  const key = COUNTERS.map((name) => state.health.counters[name] ?? 0).join();
  if (key === drawn) return;
  drawn = key;
  load();
}

async function load() {
  const response = await ask("alerts");
  if (response?.ok) show(await response.json());
  else drawn = ""; // at the next health
}

function show(alerts) {
  const names = alerts.rules.map((rule) => rule.name).join();
  // A button that is replaced would lose the focus.
  if (names !== rules) $("rules").replaceChildren(...alerts.rules.map(ruleRow));
  rules = names;
  for (const rule of alerts.rules) setText($("rules").querySelector(`[data-rule="${rule.name}"] .now`), present(rule));
  $("sent").replaceChildren(...alerts.deliveries.map(deliveryRow));
  $("sent").hidden = alerts.deliveries.length === 0;
  $("no-sent").hidden = alerts.deliveries.length > 0;
  const waiting = alerts.rules.reduce((sum, rule) => sum + rule.waiting, 0);
  const failing = alerts.deliveries.some((one) => one.state === "waiting" && one.failure);
  $("alerts-summary").dataset.fine = !failing;
  setIcon($("alerts-summary"), failing ? "cross" : "tick");
  setText($("alerts-summary").querySelector("span"), t(waiting ? "alerts.waiting" : "alerts.rules", { n: alerts.rules.length, waiting }));
}

function ruleRow(rule) {
  const button = element("button", { type: "button", "aria-label": t("alerts.test_of", { rule: rule.name }) }, t("alerts.test"));
  button.addEventListener("click", () => test(rule.name, button));
  return element("li", { "data-rule": rule.name },
    element("div", {}, element("b", {}, rule.name), ` · ${rule.condition}`,
      element("small", {}, t("alerts.to", { to: rule.to.join(", ") })), element("small", { class: "now" })),
    button);
}

/** What is to be said of a rule now. */
function present(rule) {
  const parts = outcomes.has(rule.name) ? [outcomes.get(rule.name)] : [];
  if (rule.fired !== null) parts.push(t("alerts.last", { time: moment(rule.fired) }));
  if (rule.quiet_until !== null) parts.push(t("alerts.quiet", { time: moment(rule.quiet_until) }));
  if (rule.waiting) parts.push(t("alerts.undelivered", { n: rule.waiting }));
  return words.sentence(parts.join(", ") || t("alerts.none"));
}

function deliveryRow(one) {
  const name = words.stateName(one.state);
  const became = one.state !== "delivered" && one.failure ? `${name}: ${one.failure}` : name;
  return element("li", { "data-state": one.state }, icon(ICONS[one.state] ?? "half"),
    element("div", {}, one.text, element("small", {}, `${moment(one.time)} · ${t("alerts.sent", { rule: one.rule, to: one.to })} · ${became}`)));
}

/** Send a test of a rule, and wait until each address has taken or refused it. */
async function test(rule, button) {
  button.disabled = true;
  outcomes.set(rule, t("alerts.sending"));
  outcomes.set(rule, await tested(rule));
  button.disabled = false;
  announce(words.sentence(outcomes.get(rule)));
  load();
}

async function tested(rule) {
  const until = performance.now() + TEST_MS;
  let response = await ask("alerts/test", {}, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ rule }),
  });
  if (!response?.ok) return refusal(response);
  for (;;) {
    if (response?.ok) { // else it is busy, and asked again
      const alerts = await response.json();
      show(alerts);
      const newest = alerts.deliveries.find((one) => one.test && one.rule === rule);
      const ours = alerts.deliveries.filter((one) => one.id === newest?.id);
      if (ours.length && ours.every((one) => one.state !== "waiting")) return outcome(ours);
    }
    if (performance.now() > until) return t("alerts.unanswered");
    await new Promise((done) => setTimeout(done, TURN_MS));
    response = await ask("alerts");
  }
}

function outcome(rows) {
  const failed = rows.filter((one) => one.state !== "delivered");
  if (!failed.length) return t("alerts.delivered");
  return t("alerts.failed", { why: failed.map((one) => `${one.to}: ${one.failure}`).join("; ") });
}
