// The card "Alerts": rules, a test of each, and the newest deliveries.

import { announce } from "./announcer.js";
import { clock } from "./charts.js";
import { $, element, icon, setIcon, setText } from "./dom.js";
import { ask, refusal } from "./network/api.js";
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
  const count = `${alerts.rules.length} ${alerts.rules.length === 1 ? "rule" : "rules"}`;
  setText($("alerts-summary").querySelector("span"), waiting ? `${count}, ${waiting} not delivered yet` : count);
}

function ruleRow(rule) {
  const button = element("button", { type: "button", "aria-label": `Send a test of ${rule.name}` }, "Send a test");
  button.addEventListener("click", () => test(rule.name, button));
  return element("li", { "data-rule": rule.name },
    element("div", {}, element("b", {}, rule.name), ` · ${rule.condition}`,
      element("small", {}, `to ${rule.to.join(", ")}`), element("small", { class: "now" })),
    button);
}

/** What is to be said of a rule now. */
function present(rule) {
  const parts = outcomes.has(rule.name) ? [outcomes.get(rule.name)] : [];
  if (rule.fired !== null) parts.push(`last alert ${when(rule.fired)}`);
  if (rule.quiet_until !== null) parts.push(`quiet until ${when(rule.quiet_until)}`);
  if (rule.waiting) parts.push(`${rule.waiting} not delivered yet`);
  return words.sentence(parts.join(", ") || "no alert yet");
}

function deliveryRow(one) {
  const became = one.state === "delivered" ? "delivered" : one.failure ? `${one.state}: ${one.failure}` : one.state;
  return element("li", { "data-state": one.state }, icon(ICONS[one.state] ?? "half"),
    element("div", {}, one.text, element("small", {}, `${when(one.time)} · ${one.rule} to ${one.to} · ${became}`)));
}

/** A time of this day, or of another one with its date. */
function when(unix) {
  const date = new Date(unix * 1000);
  if (date.toDateString() === new Date().toDateString()) return clock(unix);
  return `${date.toLocaleDateString(undefined, { day: "numeric", month: "short" })}, ${clock(unix)}`;
}

/** Send a test of a rule, and wait until each address has taken or refused it. */
async function test(rule, button) {
  button.disabled = true;
  outcomes.set(rule, "the test is being sent");
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
  for (;;) {
    if (!response?.ok) return refusal(response);
    const alerts = await response.json();
    show(alerts);
    const newest = alerts.deliveries.find((one) => one.test && one.rule === rule);
    const ours = alerts.deliveries.filter((one) => one.id === newest?.id);
    if (ours.length && ours.every((one) => one.state !== "waiting")) return outcome(ours);
    if (performance.now() > until) return "the test was not answered yet";
    await new Promise((done) => setTimeout(done, TURN_MS));
    response = await ask("alerts");
  }
}

function outcome(rows) {
  const failed = rows.filter((one) => one.state !== "delivered");
  if (!failed.length) return "the test was delivered";
  return `the test failed: ${failed.map((one) => `${one.to}: ${one.failure}`).join("; ")}`;
}
